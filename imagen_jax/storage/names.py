"""Names of files that files and buckets tell us, before they are joined to a folder."""

LONGEST = 255
"""Bytes of a part of a path, on most disks."""


def stays_below(name: object) -> bool:
    """Whether a name can be of a file below the folder that it is joined to, and does not lead out of it."""
    if not isinstance(name, str) or "\0" in name:
        return False
    try:
        parts = name.replace("\\", "/").encode().split(b"/")
    except UnicodeEncodeError:
        return False
    return all(part not in (b"", b".", b"..") and len(part) <= LONGEST for part in parts)
