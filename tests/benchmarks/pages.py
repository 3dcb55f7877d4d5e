"""Pages of results: what was measured is written anew, and what a person wrote below it stays."""

from pathlib import Path

KEPT_FROM = "## What limits it"
"""Where the part begins that a person wrote."""


def write_page(path: Path, measured: str) -> None:
    """Writes what was measured into a file, whose part from ``KEPT_FROM`` on stays as it is."""
    _, mark, kept = (path.read_text() if path.exists() else "").partition(KEPT_FROM)
    path.write_text(f"{measured.rstrip()}\n\n{mark}{kept}" if mark else measured)
