"""A data set's captions, embedded once and stored: unpadded bfloat16 tokens, found by the captions' hashes.

    captions -> hashes -> buckets (ranges of hashes, a few thousand captions each) -> encoded, sorted by length
    -> FOLDER/ENCODER/SET/00003.safetensors, … store.json (written last: marks the set as complete)

Each distinct caption is encoded once, even if several images have it. Existing buckets are not built again. An
interrupted run can therefore be resumed, and several processes can share the work. The tokens are unpadded and take
half the bytes: a caption of ten tokens takes 1/25 of the space of 128 padded float32 tokens. Tokens are read from the
files on demand and not kept in memory.
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

from imagen_jax.array_types import Text
from imagen_jax.encoders.embedding_bucket import Found, hash_caption, write_bucket
from imagen_jax.encoders.embedding_layer import STORE, Layer, bucket_of, open_layer, open_layers
from imagen_jax.encoders.encoder import TextEncoder, vectors_reader
from imagen_jax.errors import UserError
from imagen_jax.runtime.progress import tqdm
from imagen_jax.storage.json_text import parse_json, read_json
from imagen_jax.storage.local_copies import cache_folder
from imagen_jax.storage.paths import Path, create_folder, to_path, write_whole

BATCH = 64
BUCKET_CAPTIONS = 4096
"""The approximate number of captions in a bucket. Such a bucket takes 0.4 GB with T5-XXL."""

NAME_DIGITS = 16
HELD = 2**26
"""The number of characters of captions that are held in memory before they are written to the buckets' files."""


@runtime_checkable
class Embeddings(Protocol):
    """The source of captions' embeddings for training."""

    @property
    def name(self) -> str:
        """Identifies these embeddings."""
        ...

    def lookup(self, captions: Sequence[str], length: int) -> Text:
        """Returns the captions' embeddings, at most ``length`` tokens of each.

        Returns:
            NumPy arrays: bfloat16 embeddings ``(batch, tokens, width)``, zero at padding, and their mask. ``tokens`` is
            the length of the longest of these captions, rounded up to a multiple of 8, and at most ``length``.
        """
        ...


STORED = np.dtype(ml_dtypes.bfloat16)
STEP = 8
"""In tokens. Batches are padded to multiples of it, so that few shapes are compiled."""


def pad_text(text: Text, length: int) -> Text:
    """Pads the result of ``lookup`` to ``length`` tokens and converts it to float32 for a network."""
    more = ((0, 0), (0, length - text.mask.shape[1]))
    embeddings = np.pad(np.asarray(text.embeddings, np.float32), (*more, (0, 0)))
    return Text(embeddings, np.pad(text.mask, more))  # type: ignore[arg-type]


def tokens_for(longest: int, length: int) -> int:
    """Returns the padded length of a batch on the host: ``longest`` rounded up to ``STEP``, at most ``length``."""
    return min(-(-longest // STEP) * STEP, length)


@dataclass(frozen=True)
class ComputedEmbeddings:
    """Embeddings that are computed at each lookup and not stored.

    They are rounded to bfloat16 like stored embeddings. Both are equal except for the last bits, which depend on the
    encoder's batches.
    """

    encoder: TextEncoder

    @property
    def vectors_of(self) -> Callable[[Text], Any] | None:
        """The ``vectors_of`` of the encoder; None if it has none."""
        return vectors_reader(self.encoder)

    @property
    def name(self) -> str:
        """The encoder's name, followed by ", computed"."""
        return f"{self.encoder.name}, computed"

    def lookup(self, captions: Sequence[str], length: int) -> Text:
        """Encodes the captions as in ``Embeddings.lookup``. Keeps the first ``length`` tokens of each caption."""
        text = self.encoder.encode(captions)
        hidden, mask = np.asarray(text.embeddings)[:, :length], np.asarray(text.mask)[:, :length]
        more = ((0, 0), (0, tokens_for(mask.shape[1], length) - mask.shape[1]))
        rounded = np.where(mask[..., None], hidden, 0).astype(STORED)
        return Text(np.pad(rounded, (*more, (0, 0))), np.pad(mask, more))  # type: ignore[arg-type]


@dataclass(frozen=True, eq=False)
class EmbeddingStore:
    """Stored embeddings by caption.

    Attributes:
        encoder_name: the name of the encoder that made them.
        width: the size of each token's embedding.
        layers: the sets of captions, in the order in which they are searched.
        lengths_warned_of: the lengths for which a warning about truncated captions was logged.
        vectors_of: the ``vectors_of`` of the encoder; None if it has none.
    """

    encoder_name: str
    width: int
    layers: tuple[Layer, ...]
    lengths_warned_of: set[int] = field(default_factory=set, repr=False)
    vectors_of: Callable[[Text], Any] | None = None

    @classmethod
    def build_or_open(
        cls,
        folder: str | Path,
        captions: Iterable[str],
        encoder: TextEncoder,
        *,
        also: Sequence[Layer] = (),
    ) -> "EmbeddingStore":
        """Opens the stored embeddings of these captions in ``folder``, and encodes the missing ones.

        The encoder is called, and reads its weights, only if some captions are missing.

        Args:
            folder: the folder of all stores of a data set.
            captions: the captions that will be looked up.
            encoder: the encoder for missing captions.
            also: layers that the store always includes, and searches first.

        Raises:
            UserError: there are no captions, a file there is damaged, or ``folder`` cannot be written to.
        """
        wanted = sorted(set(captions))
        if not wanted and not also:
            raise UserError("there are no captions to embed: check the captions of the data set")
        parent = to_path(folder) / encoder.name
        layers = open_layers(parent, also)
        used: dict[Path, Layer] = {layer.folder: layer for layer in also}
        missing = []
        for caption in wanted:
            hashed = hash_caption(caption)
            holder = next((layer for layer in layers if layer.find(hashed) is not None), None)
            if holder is None:
                missing.append(caption)
            else:
                used[holder.folder] = holder
        if missing:
            made = build_layer(parent, lambda: missing, encoder)
            used[made.folder] = made
        return cls(encoder.name, encoder.width, tuple(used.values()), vectors_of=vectors_reader(encoder))

    @property
    def name(self) -> str:
        """Identifies these embeddings: the encoder, and the sets of captions."""
        return "+".join([self.encoder_name, *sorted(layer.folder.name for layer in self.layers)])

    def find(self, caption: str) -> Found:
        """Returns the location of one caption's embedding.

        Raises:
            UserError: the store does not contain the caption.
        """
        hashed = hash_caption(caption)
        for layer in self.layers:
            found = layer.find(hashed)
            if found is not None:
                return found
        folders = " and ".join(str(layer.folder) for layer in self.layers)
        raise UserError(
            f"the embeddings in {folders} lack the caption {caption!r}: embed all captions before you look them up"
        )

    def lookup(self, captions: Sequence[str], length: int) -> Text:
        """Reads the captions' embeddings, as ``Embeddings.lookup`` describes.

        Keeps the first ``length`` tokens of a longer caption, without its closing token. The first lookup with a
        ``length`` that truncates captions of the store warns with their number.

        Raises:
            UserError: the store does not contain a caption, or ``length`` is below 1.
        """
        if length < 1:
            raise UserError(f"captions cannot be padded to {length} tokens: set the length to 1 or more")
        self.warn_of_truncation(length)
        found = [self.find(caption) for caption in captions]
        tokens = [min(one.tokens, length) for one in found]
        longest = tokens_for(max(tokens), length)
        embeddings = np.zeros((len(captions), longest, self.width), STORED)
        for one, rows, count in zip(found, embeddings, tokens, strict=True):
            one.read(rows[:count])
        mask = np.arange(longest) < np.array(tokens)[:, None]
        # A Text of host arrays: batches are assembled on the host, and the device feed makes them jax arrays.
        return Text(embeddings, mask)  # type: ignore[arg-type]

    def warn_of_truncation(self, length: int) -> None:
        """Warns, once for each length, with the number of captions that are longer."""
        lengths: Counter[int] = Counter()
        for layer in self.layers:
            lengths.update(layer.lengths)
        too_long = sum(count for tokens, count in lengths.items() if tokens > length)
        if too_long and length not in self.lengths_warned_of:
            self.lengths_warned_of.add(length)
            logging.warning(
                "%d of %d captions have more than %d tokens (up to %d) and are truncated: a longer length keeps them "
                "whole",
                too_long, lengths.total(), length, max(lengths),
            )  # fmt: skip


def build_layer(
    parent: Path,
    read_captions: Callable[[], Iterable[str]],
    encoder: TextEncoder,
    *,
    share: tuple[int, int] = (0, 1),
    barrier: Callable[[], None] = lambda: None,
) -> Layer:
    """Embeds and stores captions, or opens the layer if it exists.

    Args:
        parent: the folder of the encoder's layers.
        read_captions: returns an iterable of all captions, which may repeat; called twice.
        encoder: the encoder.
        share: the index of this process and the number of processes. Process i of n builds buckets i, i + n, i + 2n, ….
        barrier: a function that waits for the other processes.

    Raises:
        UserError: there are no captions, or ``parent`` cannot be written to.
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
            raise UserError("there are no captions to embed: check the captions of the data set")
        folder = parent / names.hexdigest()[:NAME_DIGITS]
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
            barrier()
            if index == 0:
                describe_layer(folder, buckets, encoder)
            barrier()
    return open_layer(folder)


def spread_captions(captions: Iterable[str], folder: pathlib.Path, buckets: int) -> list[pathlib.Path]:
    """Writes the captions into one file per bucket, as one line of JSON per caption, and returns the files."""
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
    """Returns the distinct captions of a bucket, sorted."""
    if not file.exists():
        return []
    with file.open(encoding="utf-8") as stream:
        return sorted({parse_json(line) for line in stream})


def check_writable(folder: Path) -> None:
    """Checks that a folder can be written to, before any time is spent on encoding.

    Raises:
        UserError: the folder cannot be written to.
    """
    probe = folder / f"{secrets.token_hex(8)}.unfinished"
    try:
        create_folder(folder)
        probe.touch()
        probe.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"embeddings cannot be written to {folder} ({error}): choose another folder") from error


def build_bucket(folder: Path, number: int, captions: list[str], encoder: TextEncoder, progress: Any) -> None:
    """Encodes and writes a bucket and its description, unless both exist."""
    path = folder / bucket_name(number)
    if path.exists() and description_of(path).exists():
        progress.update(len(captions))
        return
    embeddings = encode_all(captions, encoder, progress)
    size, checksum = write_bucket(path, embeddings, encoder.width)
    lengths = Counter(len(rows) for rows in embeddings.values())
    description = {"file": path.name, "bytes": size, "sha256": checksum, "lengths": sort_counts(lengths)}
    write_whole(description_of(path), (json.dumps(description) + "\n").encode())


def bucket_name(number: int) -> str:
    """Returns the file name of a bucket."""
    return f"{number:05d}.safetensors"


def description_of(bucket: Path) -> Path:
    """Returns the path of a bucket's description, which can be read without fetching the bucket itself."""
    return bucket.with_name(bucket.name.replace(".safetensors", ".json"))


def sort_counts(lengths: Mapping[int, int]) -> dict[str, int]:
    """Returns the number of captions by number of tokens, in order, in a form that JSON can hold."""
    return {str(tokens): count for tokens, count in sorted(lengths.items())}


def encode_all(captions: list[str], encoder: TextEncoder, progress: Any) -> dict[str, np.ndarray]:
    """Encodes captions in batches of similar length and returns the unpadded bfloat16 tokens of each."""
    embeddings: dict[str, np.ndarray] = {}
    for batch in split_into_batches(sorted(captions, key=len)):
        text = encoder.encode(batch)
        hidden, mask = np.asarray(text.embeddings).astype(STORED), np.asarray(text.mask)
        embeddings |= {caption: hidden[row][mask[row]] for row, caption in enumerate(batch)}
        progress.update(len(batch))
    return embeddings


def split_into_batches(captions: list[str]) -> Iterator[list[str]]:
    """Yields batches of ``BATCH`` captions, in order. The last one may be smaller."""
    for start in range(0, len(captions), BATCH):
        yield captions[start : start + BATCH]


def describe_layer(folder: Path, buckets: int, encoder: TextEncoder) -> None:
    """Writes ``store.json``, which marks a layer as complete.

    Raises:
        UserError: a bucket is missing.
    """
    lengths: Counter[int] = Counter()
    described = []
    for number in range(buckets):
        file = description_of(folder / bucket_name(number))
        if not file.exists():
            raise UserError(
                f"{file} is missing, although the process that writes it has ended: choose a folder that all hosts "
                f"share instead of {folder}, and run the same command again"
            )
        description = read_json(file)
        lengths.update({int(tokens): count for tokens, count in description.pop("lengths").items()})
        described.append(description)
    content = {
        "encoder": encoder.name,
        "width": encoder.width,
        "captions": lengths.total(),
        "lengths": sort_counts(lengths),
        "buckets": described,
    }
    write_whole(folder / STORE, (json.dumps(content, indent=1) + "\n").encode())
