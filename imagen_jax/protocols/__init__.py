"""Evaluations from end to end: which captions are drawn, what the pictures are compared with, what is reported.

    --dataset -> references (real pictures, captions) -> caption_choice (which, by a seed) -> drawn (PNG files)
    drawn pictures, references -> feature_parts (on disk, resumable, shared by hosts) -> measures -> report

May import: ``evaluation`` and all below it, ``cascades``, ``picture_folder``.
"""
