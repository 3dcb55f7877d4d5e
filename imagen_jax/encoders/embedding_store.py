"""A data set's captions, embedded once and kept: unpadded bfloat16 tokens, found by the captions' hashes.

    captions -> hashes -> buckets (ranges of hashes, a few thousand captions each) -> encoded, longest with longest
    -> FOLDER/ENCODER/SET/00003.safetensors, … store.json (written last: it says "complete")

Each distinct caption is encoded once, whichever images have it, and a bucket that is there is not made again: so the
work can be cut and continued, and shared among processes. Unpadded and in half the bytes, a caption of ten tokens takes
a twenty-fifth of what 128 padded float32 tokens would; it is read where it lies, and memory holds none of it.
"""

import hashlib
import json
import pathlib
import secrets
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import ml_dtypes
import numpy as np
from absl import logging
from tqdm import tqdm

from imagen_jax.array_types import Text
from imagen_jax.encoders.embedding_bucket import Found, hash_caption, write_bucket
from imagen_jax.encoders.embedding_layer import STORE, Layer, bucket_of, open_layer, open_layers
from imagen_jax.encoders.encoder import TextEncoder
from imagen_jax.errors import UserError
from imagen_jax.storage.json_text import parse_json, read_json
from imagen_jax.storage.local_copies import cache_folder
from imagen_jax.storage.paths import Path, create_folder, to_path, write_whole

BATCH = 64
BUCKET_CAPTIONS = 4096
"""Captions of a bucket, about: of T5-XXL 0.4 GB."""

NAME_DIGITS = 16
HELD = 2**26
"""Characters of captions that are held before they go to the buckets' files."""


@runtime_checkable
class Embeddings(Protocol):
    """What training takes captions' embeddings from."""

    @property
    def name(self) -> str:
        """What tells these embeddings from others."""
        ...

    def lookup(self, captions: Sequence[str], length: int) -> Text:
        """Reads what captions mean, at most ``length`` tokens of each.

        Returns:
            NumPy arrays: bfloat16 embeddings ``(batch, tokens, width)``, zero at padding, and their mask; ``tokens`` is
            as many as the longest of these captions has, rounded up to a multiple of 8.
        """
        ...


STORED = np.dtype(ml_dtypes.bfloat16)
STEP = 8
"""Tokens; lengths of batches are multiples of it, so that few programs are compiled that pad them."""


def pad_text(text: Text, length: int) -> Text:
    """Pads what ``lookup`` returned to ``length`` tokens, in float32, as a network takes it."""
    more = ((0, 0), (0, length - text.mask.shape[1]))
    embeddings = np.pad(np.asarray(text.embeddings, np.float32), (*more, (0, 0)))
    return Text(embeddings, np.pad(text.mask, more))  # type: ignore[arg-type]


def tokens_for(longest: int, length: int) -> int:
    """To how many tokens a batch is padded on the host whose longest caption has so many."""
    return min(-(-longest // STEP) * STEP, length)


@dataclass(frozen=True)
class ComputedEmbeddings:
    """Embeddings that are computed whenever they are wanted, and kept nowhere.

    They are rounded as stored ones are, so that both are equal but for what the encoder's other batches do to its last
    bits.
    """

    encoder: TextEncoder

    @property
    def name(self) -> str:
        """The encoder's."""
        return f"{self.encoder.name}, computed"

    def lookup(self, captions: Sequence[str], length: int) -> Text:
        """See ``Embeddings``; of a caption with more tokens the first ``length`` remain."""
        text = self.encoder.encode(captions)
        hidden, mask = np.asarray(text.embeddings)[:, :length], np.asarray(text.mask)[:, :length]
        more = ((0, 0), (0, tokens_for(mask.shape[1], length) - mask.shape[1]))
        rounded = np.where(mask[..., None], hidden, 0).astype(STORED)
        return Text(np.pad(rounded, (*more, (0, 0))), np.pad(mask, more))  # type: ignore[arg-type]


@dataclass(frozen=True, eq=False)
class EmbeddingStore:
    """Embeddings by caption.

    Attributes:
        encoder_name: the encoder that made them.
        width: the size of each token's embedding.
        layers: the sets of captions that are looked through, in order.
    """

    encoder_name: str
    width: int
    layers: tuple[Layer, ...]
    lengths_warned_of: set[int] = field(default_factory=set, repr=False)

    @classmethod
    def build_or_open(
        cls,
        folder: str | Path,
        captions: Iterable[str],
        encoder: TextEncoder,
        *,
        also: Sequence[Layer] = (),
    ) -> "EmbeddingStore":
        """Opens what ``folder`` has of these captions, and encodes those that it has not.

        The encoder is not called, and so reads no weights, unless there are such.

        Args:
            folder: of all stores of a data set.
            captions: those that will be looked up.
            encoder: embeds them.
            also: layers that are known to be needed.

        Raises:
            UserError: there are no captions, a file there is damaged, or ``folder`` cannot be written to.
        """
        wanted = sorted(set(captions))
        if not wanted and not also:
            raise UserError("there are no captions to embed: check that the data set has some")
        place = to_path(folder) / encoder.name
        known = open_layers(place, also)
        used: dict[Path, Layer] = {layer.folder: layer for layer in also}
        missing = []
        for caption in wanted:
            hashed = hash_caption(caption)
            holder = next((layer for layer in known if layer.find(hashed) is not None), None)
            if holder is None:
                missing.append(caption)
            else:
                used[holder.folder] = holder
        if missing:
            made = build_layer(place, lambda: missing, encoder)
            used[made.folder] = made
        return cls(encoder.name, encoder.width, tuple(used.values()))

    @property
    def name(self) -> str:
        """What tells these embeddings from others: the encoder, and the sets of captions."""
        return "+".join([self.encoder_name, *sorted(layer.folder.name for layer in self.layers)])

    def find(self, caption: str) -> Found:
        """Returns where one caption's embedding is.

        Raises:
            UserError: the store does not hold the caption.
        """
        hashed = hash_caption(caption)
        for layer in self.layers:
            found = layer.find(hashed)
            if found is not None:
                return found
        places = " and ".join(str(layer.folder) for layer in self.layers)
        raise UserError(f"{places} has no caption {caption!r}: embed all captions that you look up")

    def lookup(self, captions: Sequence[str], length: int) -> Text:
        """See ``Embeddings``.

        Of a caption with more tokens the first ``length`` remain, its closing token not among them; the first lookup at
        a length that is too short for some captions warns with their number.

        Raises:
            UserError: the store does not hold a caption, or ``length`` is not positive.
        """
        if length < 1:
            raise UserError(f"captions cannot be padded to {length} tokens: ask for a length of at least 1")
        self.warn_of_truncation(length)
        found = [self.find(caption) for caption in captions]
        tokens = [min(one.tokens, length) for one in found]
        longest = tokens_for(max(tokens), length)
        embeddings = np.zeros((len(captions), longest, self.width), STORED)
        for one, rows, count in zip(found, embeddings, tokens, strict=True):
            one.read(rows[:count])
        mask = np.arange(longest) < np.array(tokens)[:, None]
        # A Text of host arrays, for batches are put together on the host; the device feed makes them jax arrays.
        return Text(embeddings, mask)  # type: ignore[arg-type]

    def warn_of_truncation(self, length: int) -> None:
        """Warns, once for each length, how many captions do not fit it."""
        lengths: Counter[int] = Counter()
        for layer in self.layers:
            lengths.update(layer.lengths)
        too_long = sum(count for tokens, count in lengths.items() if tokens > length)
        if too_long and length not in self.lengths_warned_of:
            self.lengths_warned_of.add(length)
            logging.warning(
                "%d of %d captions have more than %d tokens (up to %d) and are truncated; a greater length keeps them",
                too_long, lengths.total(), length, max(lengths),
            )  # fmt: skip


def build_layer(
    place: Path,
    read_captions: Callable[[], Iterable[str]],
    encoder: TextEncoder,
    *,
    share: tuple[int, int] = (0, 1),
    meet: Callable[[], None] = lambda: None,
) -> Layer:
    """Embeds captions and keeps them, or finds them kept.

    Args:
        place: folder of the encoder's layers.
        read_captions: gives all captions, repeated ones too, as often as it is called.
        encoder: embeds them.
        share: which of how many processes this one is; each makes every so manieth bucket.
        meet: waits for the other processes.

    Raises:
        UserError: there are no captions, or ``place`` cannot be written to.
    """
    buckets = max(1, -(-sum(1 for _ in read_captions()) // BUCKET_CAPTIONS))
    cache_folder().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="captions-", dir=cache_folder()) as temporary:
        spread = spread_captions(read_captions(), pathlib.Path(temporary), buckets)
        names, count = hashlib.sha256(f"{buckets}".encode()), 0
        for texts in spread:
            distinct = read_texts(texts)
            names.update(json.dumps(distinct).encode())
            count += len(distinct)
        if not count:
            raise UserError("there are no captions to embed: check that the data set has some")
        folder = place / names.hexdigest()[:NAME_DIGITS]
        if not (folder / STORE).exists():
            check_writable(folder)
            index, processes = share
            with tqdm(total=count, desc=f"Embedding captions with {encoder.name}", unit="caption") as progress:
                for number, texts in enumerate(spread):
                    distinct = read_texts(texts)
                    if number % processes == index:
                        build_bucket(folder, number, distinct, encoder, progress)
                    else:
                        progress.update(len(distinct))
            meet()
            if index == 0:
                describe_layer(folder, buckets, encoder)
            meet()
    return open_layer(folder)


def spread_captions(captions: Iterable[str], folder: pathlib.Path, buckets: int) -> list[pathlib.Path]:
    """Writes captions into a file for each bucket, a line of JSON each."""
    files = [folder / f"{number:05d}.jsonl" for number in range(buckets)]
    waiting: dict[int, list[str]] = {}
    held = 0

    def empty() -> None:
        for number, lines in waiting.items():
            with files[number].open("a", encoding="utf-8") as stream:
                stream.writelines(lines)
        waiting.clear()

    for caption in captions:
        waiting.setdefault(bucket_of(hash_caption(caption), buckets), []).append(json.dumps(caption) + "\n")
        held += len(caption)
        if held > HELD:
            empty()
            held = 0
    empty()
    return files


def read_texts(file: pathlib.Path) -> list[str]:
    """The distinct captions of a bucket, sorted."""
    if not file.exists():
        return []
    with file.open(encoding="utf-8") as stream:
        return sorted({parse_json(line) for line in stream})


def check_writable(folder: Path) -> None:
    """Checks that a folder can be written to, so that where it can't no time is spent on encoding.

    Raises:
        UserError: it can't.
    """
    probe = folder / f"{secrets.token_hex(8)}.unfinished"
    try:
        create_folder(folder)
        probe.touch()
        probe.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"embeddings cannot be written to {folder} ({error}): choose another folder") from error


def build_bucket(folder: Path, number: int, captions: list[str], encoder: TextEncoder, progress: Any) -> None:
    """Makes a bucket, unless it is there."""
    path = folder / bucket_name(number)
    if path.exists() and description_of(path).exists():
        progress.update(len(captions))
        return
    embeddings = encode_all(captions, encoder, progress)
    size, checksum = write_bucket(path, embeddings, encoder.width)
    lengths = Counter(len(rows) for rows in embeddings.values())
    said = {"file": path.name, "bytes": size, "sha256": checksum, "lengths": sort_counts(lengths)}
    write_whole(description_of(path), (json.dumps(said) + "\n").encode())


def bucket_name(number: int) -> str:
    """The name of a bucket's file."""
    return f"{number:05d}.safetensors"


def description_of(bucket: Path) -> Path:
    """The file that says what a bucket's file is, so that nobody needs to fetch that to know."""
    return bucket.with_name(bucket.name.replace(".safetensors", ".json"))


def sort_counts(lengths: Mapping[int, int]) -> dict[str, int]:
    """How many captions have how many tokens, in order, as JSON can hold it."""
    return {str(tokens): count for tokens, count in sorted(lengths.items())}


def encode_all(captions: list[str], encoder: TextEncoder, progress: Any) -> dict[str, np.ndarray]:
    """Encodes captions in batches of like length and returns the unpadded bfloat16 tokens of each."""
    embeddings: dict[str, np.ndarray] = {}
    for batch in split_into_batches(sorted(captions, key=len)):
        text = encoder.encode(batch)
        hidden, mask = np.asarray(text.embeddings).astype(STORED), np.asarray(text.mask)
        embeddings |= {caption: hidden[row][mask[row]] for row, caption in enumerate(batch)}
        progress.update(len(batch))
    return embeddings


def split_into_batches(captions: list[str]) -> Iterator[list[str]]:
    """Yields ``BATCH`` captions at a time, in order."""
    for start in range(0, len(captions), BATCH):
        yield captions[start : start + BATCH]


def describe_layer(folder: Path, buckets: int, encoder: TextEncoder) -> None:
    """Writes what says that a layer is complete.

    Raises:
        UserError: it is not.
    """
    lengths: Counter[int] = Counter()
    described = []
    for number in range(buckets):
        file = description_of(folder / bucket_name(number))
        if not file.exists():
            raise UserError(
                f"{file} is not there, though the process whose share it is has ended: is {folder} one folder for all "
                "hosts? Run the same command again where it is"
            )
        said = read_json(file)
        lengths.update({int(tokens): count for tokens, count in said.pop("lengths").items()})
        described.append(said)
    content = {
        "encoder": encoder.name,
        "width": encoder.width,
        "captions": lengths.total(),
        "lengths": sort_counts(lengths),
        "buckets": described,
    }
    write_whole(folder / STORE, (json.dumps(content, indent=1) + "\n").encode())
