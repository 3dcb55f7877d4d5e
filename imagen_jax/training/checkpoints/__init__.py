"""Checkpoints: state and data position in one commit, with checksums, and a fallback to the previous one.

    state -> ``saving`` (when) -> ``store`` (Orbax) -> STEP/ on a disk or in a bucket -> ``reading`` -> state

``folder``: the files of a checkpoint; ``metadata``: its format number and records; ``checksums`` of the arrays;
``write_errors``: full disks and buckets that reject writes.
"""
