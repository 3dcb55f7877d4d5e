"""Names of files that files and buckets tell us, before they are joined to a folder."""

MAX_NAME_LENGTH = 255
"""Bytes of a part of a path, on most disks."""

APPLE_DOUBLE = "._"
"""How the name of a file begins in which macOS keeps what another disk or an archive can't hold of ``x.png``."""

OF_SYSTEMS = frozenset(
    {
        *("__MACOSX", ".DS_Store", ".AppleDouble", ".Spotlight-V100", ".TemporaryItems", ".Trashes", ".fseventsd"),
        *("Thumbs.db", "ehthumbs.db", "desktop.ini", "$RECYCLE.BIN", "System Volume Information"),
        *("@eaDir", "#recycle", "#snapshot", "@Recycle", ".@__thumb"),
        *(".Trash-1000", ".thumbnails", ".ipynb_checkpoints"),
    }
)
"""What macOS, Windows, the network storage of Synology and QNAP, and Linux add to people's folders."""

_OF_SYSTEMS = frozenset(name.lower() for name in OF_SYSTEMS)


def is_of_system(name: str) -> bool:
    """Whether a file was added by an operating system and not by a person.

    Every reader that lists a folder or an archive passes over such files.

    Args:
        name: of a file, or its path within the folder or archive that is read, with slashes.
    """
    return any(part.startswith(APPLE_DOUBLE) or part.lower() in _OF_SYSTEMS for part in name.split("/"))


def stays_below(name: object) -> bool:
    """Whether a name can be of a file below the folder that it is joined to, and does not lead out of it."""
    if not isinstance(name, str) or "\0" in name:
        return False
    try:
        parts = name.replace("\\", "/").encode().split(b"/")
    except UnicodeEncodeError:
        return False
    return all(part not in (b"", b".", b"..") and len(part) <= MAX_NAME_LENGTH for part in parts)
