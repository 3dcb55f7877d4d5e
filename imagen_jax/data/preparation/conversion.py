"""Converts one part of a source into one shard of each split, in a worker process.

    part -> records -> checked, filtered, split -> PART/train.array_record, train.jsonl, … report.json

The report is written last, so a part with a report is complete. A part without one is converted again. The same part
gives the same bytes on every machine.
"""

import hashlib
import pathlib
import secrets
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from imagen_jax.data.opened_images import MAX_SIDE, DamagedImageError
from imagen_jax.data.preparation.filters import Filters
from imagen_jax.data.preparation.image_files import LOOKS, CheckedImage, ImageRules, check_image
from imagen_jax.data.preparation.shards import ShardWriter, read_json, write_json, write_lines
from imagen_jax.data.preparation.statistics import count_record, empty_histograms, sort_values
from imagen_jax.data.sources.record_fields import is_utf8, printable
from imagen_jax.data.sources.records import Damage, Part, Record
from imagen_jax.data.splits import SPLITS, Split, split_of
from imagen_jax.errors import UserError
from imagen_jax.storage.paths import remove_folder, sync, sync_all
from imagen_jax.storage.refusals import raise_if_denied

MAX_CAPTION_LENGTH = 20_000
"""Max number of characters of a caption.

People write about a hundred, and text encoders read at most a few thousand.
"""

REPORT = "report.json"
QUARANTINE = "quarantine.jsonl"
UNFINISHED = ".unfinished"
PART_FORMAT = 3
"""Format version of a part's folder. A part of another version is converted again."""
DIGEST = 16
"""Number of bytes of a hash that identifies a key or a file."""
HASHES = 2 * DIGEST + LOOKS
"""Number of bytes of a record's hashes: of its key, of its file, and of its looks (see ``hash_looks``)."""


@dataclass(frozen=True)
class Conversion:
    """Settings for the conversion of every record.

    Attributes:
        images: rules for storing images.
        filters: rules for keeping images and captions.
        validation_fraction: expected fraction of validation concepts, where the source does not define the split.
    """

    images: ImageRules = field(default_factory=ImageRules)
    filters: Filters = field(default_factory=Filters)
    validation_fraction: float = 0.05


@dataclass(frozen=True)
class Kept:
    """A record that is stored."""

    record: Record
    image: CheckedImage
    captions: list[str]
    split: Split


@dataclass(frozen=True)
class Dropped:
    """A record that a filter drops, with the rule's name."""

    rule: str


def records_file(folder: pathlib.Path, split: str) -> pathlib.Path:
    """Returns the path of a part's records of a split."""
    return folder / f"{split}.array_record"


def captions_file(folder: pathlib.Path, split: str) -> pathlib.Path:
    """Returns the path of the records' captions."""
    return folder / f"{split}.jsonl"


def hashes_file(folder: pathlib.Path, split: str) -> pathlib.Path:
    """Returns the path of the records' hashes: uint8, shape (records, ``HASHES``), of key, file and looks."""
    return folder / f"{split}.hashes.npy"


def keys_file(folder: pathlib.Path, split: str) -> pathlib.Path:
    """Returns the path of the records' keys, one line of JSON each."""
    return folder / f"{split}.keys.jsonl"


def convert_part(part: Part, folder: pathlib.Path, conversion: Conversion) -> dict[str, Any]:
    """Converts a part into shards in ``folder``, unless they exist already, and returns the report.

    Raises:
        UserError: nothing of the part can be read, see ``Part``.
        OSError: ``folder`` can't be written to.
    """
    done = read_json(folder / REPORT)
    if done is not None and (done.get("format"), done["fingerprint"]) == (PART_FORMAT, part.fingerprint):
        return done
    # Under a unique name until it is complete, so that no other process that converts the same part writes into it.
    unfinished = folder.with_name(f"{folder.name}.{secrets.token_hex(4)}{UNFINISHED}")
    unfinished.mkdir(parents=True)
    report = write_part(part, unfinished, conversion)
    if folder.exists():
        remove_folder(folder)
    unfinished.rename(folder)
    sync(folder.parent)
    return report


def write_part(part: Part, folder: pathlib.Path, conversion: Conversion) -> dict[str, Any]:
    """Writes a part's shards into a new folder and returns the report."""
    tally = Tally()
    with ExitStack() as stack:
        writers = {
            split: stack.enter_context(closing(ShardWriter(records_file(folder, split), captions_file(folder, split))))
            for split in SPLITS
        }
        for item in judge_records(part, conversion):
            tally.add(item)
            if isinstance(item, Kept):
                record = item.record
                writers[item.split].write(record.key, item.captions, item.image.encoded, record.metadata)
    for split, rows in tally.hashes.items():
        np.save(hashes_file(folder, split), np.frombuffer(b"".join(rows), np.uint8).reshape(len(rows), HASHES))
        write_lines(keys_file(folder, split), tally.keys[split])
    write_lines(folder / QUARANTINE, (asdict(damage) for damage in tally.damages))
    # Otherwise a power cut could leave a complete report beside empty files.
    sync_all(folder)
    report = {"part": part.name, "format": PART_FORMAT, "fingerprint": part.fingerprint, **tally.report()}
    write_json(folder / REPORT, report)
    return report


class Tally:
    """Counts of a part's records so far."""

    def __init__(self) -> None:
        self.damages: list[Damage] = []
        self.hashes: dict[str, list[bytes]] = {split: [] for split in SPLITS}
        self.keys: dict[str, list[str]] = {split: [] for split in SPLITS}
        self._dropped: Counter[str] = Counter()
        self._histograms = empty_histograms()
        self._min_side = MAX_SIDE  # no image exceeds it

    def add(self, item: Kept | Dropped | Damage) -> None:
        """Counts one record."""
        if isinstance(item, Damage):
            self.damages.append(item)
        elif isinstance(item, Dropped):
            self._dropped[item.rule] += 1
        else:
            record, image = item.record, item.image
            self.hashes[item.split].append(digest(record.key.encode()) + digest(record.encoded) + image.looks)
            self.keys[item.split].append(record.key)
            self._min_side = min(self._min_side, image.width, image.height)
            count_record(self._histograms, image.source_width, image.source_height, item.captions)

    def report(self) -> dict[str, Any]:
        """Returns the counts as a JSON-serialisable dict."""
        return {
            "counts": {split: len(rows) for split, rows in self.hashes.items()},
            "damaged": dict(sorted(Counter(damage.reason for damage in self.damages).items())),
            "dropped": dict(sorted(self._dropped.items())),
            "least_side": self._min_side,
            "statistics": sort_values(self._histograms),
        }


def judge_records(part: Part, conversion: Conversion) -> Iterator[Kept | Dropped | Damage]:
    """Yields each record of a part as kept, dropped or damaged."""
    seen: set[bytes] = set()
    for item in read_part(part):
        if isinstance(item, Damage):
            yield item
            continue
        key = digest(item.key.encode())
        if key in seen:
            yield Damage(item.key, "key appears twice")
            continue
        seen.add(key)
        yield judge_record(item, conversion)


def read_part(part: Part) -> Iterator[Record | Damage]:
    """Yields the records of a part, with all names encodable as UTF-8.

    Raises:
        UserError: the disk or bucket with the part fails.
    """
    try:
        yield from map(as_utf8, part.read())
    except OSError as error:
        raise_if_denied(error, part.name)
        raise UserError(f"{part.name} can't be read ({error}): fix that, and run the same command again") from error


def as_utf8(item: Record | Damage) -> Record | Damage:
    """Returns a record whose names are encodable as UTF-8: lone surrogates are escaped.

    It returns damage if a caption contains lone surrogates or exceeds ``MAX_CAPTION_LENGTH``.
    """
    key = printable(item.key)
    if isinstance(item, Damage):
        return Damage(key, item.reason, printable(item.detail))
    if not all(map(is_utf8, item.captions)):
        return Damage(key, "caption is not UTF-8")
    if any(len(caption) > MAX_CAPTION_LENGTH for caption in item.captions):
        return Damage(key, "caption is too long", f"over {MAX_CAPTION_LENGTH} characters")
    return replace(item, key=key, concept=printable(item.concept))


def judge_record(record: Record, conversion: Conversion) -> Kept | Dropped | Damage:
    """Returns a record as kept, dropped by a rule, or damaged."""
    try:
        image = check_image(record.encoded, conversion.images)
    except DamagedImageError as error:
        return Damage(record.key, error.reason, error.detail)
    rule = conversion.filters.reason_to_drop(image.source_width, image.source_height, record.metadata)
    captions = conversion.filters.good_captions(record.captions)
    if rule is None and not captions:
        rule = "no caption of the requested length"
    if rule is not None:
        return Dropped(rule)
    split = record.split or split_of(record.concept or record.key, conversion.validation_fraction)
    return Kept(record, image, captions, split)


def digest(content: bytes) -> bytes:
    """Returns the first ``DIGEST`` bytes of a SHA-256."""
    return hashlib.sha256(content).digest()[:DIGEST]
