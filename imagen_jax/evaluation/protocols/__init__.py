"""Runs complete evaluations: choice of captions, reference images, metrics and reports.

    requests -> references (real images, captions) -> caption_choice (by a seed) -> sampled_images (PNG files)
    -> feature_parts (on disk, resumable, shared by hosts) -> measured_references -> measures
    -> evaluation (facts), deviations (from the protocol) -> reporting; runs (one evaluation, or a sweep's points)

``training_captions`` and ``drawbench_run`` are separate protocols; ``during_training`` evaluates a stage while it
trains; ``bound`` measures the variational bound of a stage.
"""
