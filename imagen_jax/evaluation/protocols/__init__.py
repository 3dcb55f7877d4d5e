"""Evaluations from end to end: which captions are sampled, what the images are compared with, what is reported.

    requests -> references (real images, captions) -> caption_choice (by a seed) -> drawn (PNG files)
    -> feature_parts (on disk, resumable, shared by hosts) -> measured_references -> measures
    -> evaluation (facts), deviations (from the protocol) -> reporting; runs (one, or each point of a sweep)

``training_captions`` and ``drawbench_run`` are protocols of their own; ``during_training`` evaluates a stage while it
trains.
"""
