"""Folders of this machine into buckets, for tests."""

from pathlib import Path

from imagen_jax.storage.paths import files_below


def upload(folder: Path, into):
    """Writes every file of a folder below ``into``, a path in a bucket, and returns that."""
    for file in files_below(folder):
        (into / file.relative_to(folder).as_posix()).write_bytes(file.read_bytes())
    return into
