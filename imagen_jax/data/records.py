"""What a source of any size gives: parts, each of them read record by record, and what could not be read.

A part is what one worker turns into one shard, so it is some hundred to some ten thousand records, and nobody ever
holds more than one part's list. It travels to another process, and so does what ``read`` needs.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from imagen_jax.data.splits import Split


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


class PartedSource(NamedTuple):
    """Where records come from.

    Attributes:
        list_parts: ``list_parts(**options)`` lists the parts, always in the same order.
        attribution: the line of credit and licence that is kept beside the data.
    """

    list_parts: Callable[..., list[Part]]
    attribution: str
