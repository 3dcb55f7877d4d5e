"""The content of sources of any size: parts, which are read record by record, and damage.

A worker converts one part into one shard, so a part has some hundred to some ten thousand records. No process stores
more than one part's list of records. Parts and their ``read`` functions are picklable.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from imagen_jax.data.splits import Split


def fingerprint_of(content: Any) -> str:
    """Returns a hash that identifies JSON-serialisable content."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class Record:
    """One image with its captions, as the source stores it.

    Attributes:
        key: name within the source: unique, and the same on every machine.
        captions: one or more captions, none empty, in the source's order.
        encoded: bytes of the image file, not checked yet.
        metadata: other data of the source about the image, JSON-serialisable.
        concept: subject that decides between training and validation if ``split`` is None; images with the same concept
            are in the same split. If empty, the key decides.
        split: split that the source defines, or None.
    """

    key: str
    captions: tuple[str, ...]
    encoded: bytes
    metadata: Mapping[str, Any] = field(default_factory=dict)
    concept: str = ""
    split: Split | None = None


@dataclass(frozen=True)
class Damage:
    """Something that is left out, and why.

    Attributes:
        key: key of the record, or name of the unreadable item, such as a file.
        reason: a few words, equal for all damage of a kind, such as "no caption".
        detail: details of this damage, such as the decoder's message.
    """

    key: str
    reason: str
    detail: str = ""


@dataclass(frozen=True)
class Part:
    """A piece of a source.

    Attributes:
        name: name, unique within the source, and the same on every machine.
        fingerprint: text that changes when the content does: sizes and times of files, a version.
        read: yields its records and its damage, always in the same order. It raises ``UserError`` only if nothing of
            the part can be read and the job must stop, for example because a disk is gone.
    """

    name: str
    fingerprint: str
    read: Callable[[], Iterator[Record | Damage]]
