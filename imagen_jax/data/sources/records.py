"""What a source of any size gives: parts, each of them read record by record, and what could not be read.

A part is what one worker turns into one shard, so it is some hundred to some ten thousand records, and nobody ever
holds more than one part's list. It travels to another process, and so does what ``read`` needs.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from imagen_jax.data.splits import Split


def fingerprint_of(content: Any) -> str:
    """What tells one content, of what JSON can hold, from others."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class Record:
    """One image with its captions, as the source has it.

    Attributes:
        key: its name within the source: unique, and the same on every machine.
        captions: one or more, in the source's order; none is empty.
        encoded: the image file's bytes, not looked into yet.
        metadata: what else the source says of it, as JSON can hold it.
        concept: what the split into train and validation goes by, where ``split`` is None; images that share one are
            together.
        split: where the source itself says.
    """

    key: str
    captions: tuple[str, ...]
    encoded: bytes
    metadata: Mapping[str, Any] = field(default_factory=dict)
    concept: str = ""
    split: Split | None = None


@dataclass(frozen=True)
class Damage:
    """What is left out, and why.

    Attributes:
        key: of the record; or the name of what could not be read, such as a file.
        reason: a few words, the same for all of a kind, such as "no caption".
        detail: what there is to say of this one, such as what the decoder said.
    """

    key: str
    reason: str
    detail: str = ""


@dataclass(frozen=True)
class Part:
    """A piece of a source.

    Attributes:
        name: unique within the source, and the same on every machine.
        fingerprint: changes when anything in it does: sizes and times of files, a version.
        read: gives its records, always in the same order, and in between what is damaged. It raises ``UserError`` only
            where nothing of the part can be read and going on would be wrong, such as a disk that is gone.
    """

    name: str
    fingerprint: str
    read: Callable[[], Iterator[Record | Damage]]
