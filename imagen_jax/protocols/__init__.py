"""Evaluations from end to end: which captions are drawn, what the pictures are compared with, what is reported.

    requests (what is wanted) -> references (real pictures, captions) -> caption_choice (which, by a seed)
    -> drawn (PNG files) -> feature_parts (on disk, resumable, shared by hosts) -> measured_references -> measures
    -> evaluation (facts), deviations (from the protocol) -> reporting; runs (one, or each point of a sweep)

``training_captions`` and ``drawbench_run`` are protocols of their own; ``during_training`` measures a stage every so
often while it trains.

May import: ``evaluation`` and all below it, ``cascades``, ``picture_folder``, ``prompts``.
"""
