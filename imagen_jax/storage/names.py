"""Checks of file names from untrusted archives, listings and buckets."""

MAX_NAME_LENGTH = 255
"""Max bytes of one component of a path, on most file systems."""

APPLE_DOUBLE = "._"
"""Name prefix of the files in which macOS stores attributes of another file: ``._x.png`` belongs to ``x.png``."""

OF_SYSTEMS = frozenset(
    {
        *("__MACOSX", ".DS_Store", ".AppleDouble", ".Spotlight-V100", ".TemporaryItems", ".Trashes", ".fseventsd"),
        *("Thumbs.db", "ehthumbs.db", "desktop.ini", "$RECYCLE.BIN", "System Volume Information"),
        *("@eaDir", "#recycle", "#snapshot", "@Recycle", ".@__thumb"),
        *(".Trash-1000", ".thumbnails", ".ipynb_checkpoints"),
    }
)
"""Names of files and folders that macOS, Windows, Synology, QNAP, Linux and Jupyter add to users' folders."""

_OF_SYSTEMS = frozenset(name.lower() for name in OF_SYSTEMS)


def is_of_system(name: str) -> bool:
    """Returns whether an operating system added a file, and not a user.

    Readers of folders and archives skip such files.

    Args:
        name: file name, or path within the folder or archive, with forward slashes.
    """
    return any(part.startswith(APPLE_DOUBLE) or part.lower() in _OF_SYSTEMS for part in name.split("/"))


def stays_below(name: object) -> bool:
    """Returns whether a name is a valid relative path that stays below the folder that it is joined to."""
    if not isinstance(name, str) or "\0" in name:
        return False
    try:
        parts = name.replace("\\", "/").encode().split(b"/")
    except UnicodeEncodeError:
        return False
    return all(part not in (b"", b".", b"..") and len(part) <= MAX_NAME_LENGTH for part in parts)
