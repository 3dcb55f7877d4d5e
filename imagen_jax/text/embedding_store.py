"""A data set's captions, embedded once and kept: unpadded bfloat16 tokens in one safetensors file.

The file of an encoder and a set of captions is ``<encoder name>.<hash of the set>.safetensors`` and holds

    captions  UTF-8 JSON list of the distinct captions, sorted, as bytes
    offsets   (captions + 1,) int64: the tokens of caption i are rows offsets[i] to offsets[i + 1]
    tokens    (all tokens, width) bfloat16

with the encoder's name and a checksum of all three in its metadata. Unpadded and in half the bytes, a caption of ten
tokens takes a twenty-fifth of what 128 padded float32 tokens would.
"""

import glob
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import ml_dtypes
import numpy as np
from absl import logging
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from tqdm import tqdm

from imagen_jax.array_types import Text
from imagen_jax.errors import UserError
from imagen_jax.storage.local_copies import local_copy
from imagen_jax.storage.paths import Path, create_folder, to_path, writing
from imagen_jax.text.encoder import TextEncoder

BATCH = 64
HASH_DIGITS = 16
CHECKED_ROWS = 65536


@dataclass(frozen=True, eq=False)
class EmbeddingStore:
    """The embeddings of a set of captions, read from their file caption by caption.

    Attributes:
        path: the file.
        encoder_name: the name of the encoder that made it.
        captions: the distinct captions, sorted.
        offsets: ``(captions + 1,)``: where each caption's tokens begin and end.
        tokens: the file's ``(all tokens, width)`` bfloat16 tensor; indexing it by a slice reads those rows.
    """

    path: Path
    encoder_name: str
    captions: tuple[str, ...]
    offsets: np.ndarray
    tokens: Any
    lengths_warned_of: set[int] = field(default_factory=set, repr=False)

    @classmethod
    def build_or_open(cls, folder: str | Path, captions: Iterable[str], encoder: TextEncoder) -> "EmbeddingStore":
        """Opens the store of exactly these captions in ``folder``, or builds it.

        Captions that another of this encoder's stores in ``folder`` has are copied; only those that none has are
        encoded. The encoder is not called, and so reads no weights, unless there are such.

        Raises:
            UserError: there are no captions, a file there is damaged, or ``folder`` cannot be written to.
        """
        captions = sorted(set(captions))
        if not captions:
            raise UserError("there are no captions to embed: check that the data set has some")
        folder = to_path(folder)
        path = folder / make_file_name(encoder.name, captions)
        if not path.exists():
            # Created before the encoding, so that a folder that cannot be written to costs no time.
            unfinished = create_unfinished(path)
            try:
                embeddings = copy_known(folder, captions, encoder.name)
                missing = [caption for caption in captions if caption not in embeddings]
                embeddings |= encode_all(missing, encoder)
                write_store(path, encoder.name, {caption: embeddings[caption] for caption in captions})
            finally:
                unfinished.unlink(missing_ok=True)
        return cls.open(path)

    @classmethod
    def open(cls, path: str | Path) -> "EmbeddingStore":
        """Opens a store's file after verifying its checksum.

        Raises:
            UserError: the file is not a store, or is damaged.
        """
        path = to_path(path)
        try:
            file = safe_open(local_copy(path), framework="numpy")
            metadata = file.metadata() or {}
            captions, offsets = file.get_tensor("captions"), file.get_tensor("offsets")
            tokens = file.get_slice("tokens")
        except (OSError, SafetensorError) as error:
            raise UserError(
                f"{path} is no readable embedding store ({error}): delete it and it is built anew"
            ) from error
        rows = tokens.get_shape()[0]
        chunks = (tokens[start : min(start + CHECKED_ROWS, rows)] for start in range(0, rows, CHECKED_ROWS))
        encoder_name = metadata.get("encoder", "")
        if compute_checksum(encoder_name, captions, offsets, chunks) != metadata.get("sha256"):
            raise UserError(
                f"the embedding store {path} is damaged (its checksum differs): delete it and it is built anew"
            )
        return cls(path, encoder_name, tuple(json.loads(captions.tobytes())), offsets, tokens)

    @property
    def width(self) -> int:
        """The size of each token's embedding."""
        return self.tokens.get_shape()[1]

    @property
    def longest(self) -> int:
        """The number of tokens of the longest caption."""
        return int(np.diff(self.offsets).max())

    @cached_property
    def rows(self) -> dict[str, int]:
        """The place of each caption in ``captions``."""
        return {caption: row for row, caption in enumerate(self.captions)}

    def embedding(self, caption: str) -> np.ndarray:
        """Returns one caption's ``(tokens, width)`` bfloat16 embedding, unpadded.

        Raises:
            UserError: the store does not hold the caption.
        """
        row = self.rows.get(caption)
        if row is None:
            raise UserError(
                f"the embedding store {self.path} has no caption {caption!r}: build it with all captions you look up"
            )
        return self.tokens[int(self.offsets[row]) : int(self.offsets[row + 1])]

    def lookup(self, captions: Sequence[str], length: int) -> Text:
        """Returns NumPy float32 embeddings ``(batch, length, width)``, zero at padding, and their mask.

        Of a caption with more tokens the first ``length`` remain, its closing token not among them; the first lookup at
        a length that is too short for some captions warns with their number.

        Raises:
            UserError: the store does not hold a caption, or ``length`` is not positive.
        """
        if length < 1:
            raise UserError(f"captions cannot be padded to {length} tokens: ask for a length of at least 1")
        self.warn_of_truncation(length)
        embeddings = np.zeros((len(captions), length, self.width), np.float32)
        mask = np.zeros((len(captions), length), bool)
        for row, caption in enumerate(captions):
            tokens = self.embedding(caption)[:length]
            embeddings[row, : len(tokens)] = tokens
            mask[row, : len(tokens)] = True
        # A Text of host arrays, for batches are put together on the host; the device feed makes them jax arrays.
        return Text(embeddings, mask)  # type: ignore[arg-type]

    def warn_of_truncation(self, length: int) -> None:
        """Warns, once for each length, how many captions do not fit it."""
        too_long = int((np.diff(self.offsets) > length).sum())
        if too_long and length not in self.lengths_warned_of:
            self.lengths_warned_of.add(length)
            logging.warning(
                "%d of %d captions have more than %d tokens (up to %d) and are truncated; a greater length keeps them",
                too_long, len(self.captions), length, self.longest,
            )  # fmt: skip


def make_file_name(encoder_name: str, captions: list[str]) -> str:
    """Returns the name of the file that keeps these sorted, distinct captions as the encoder embeds them."""
    digest = hashlib.sha256(json.dumps(captions).encode()).hexdigest()
    return f"{encoder_name}.{digest[:HASH_DIGITS]}.safetensors"


def copy_known(folder: Path, captions: list[str], encoder_name: str) -> dict[str, np.ndarray]:
    """Returns the embeddings of those captions that the encoder's stores in ``folder`` hold."""
    known: dict[str, np.ndarray] = {}
    for path in sorted(folder.glob(f"{glob.escape(encoder_name)}.{'?' * HASH_DIGITS}.safetensors")):
        store = EmbeddingStore.open(path)
        wanted = [caption for caption in captions if caption in store.rows and caption not in known]
        known |= {caption: store.embedding(caption) for caption in wanted}
    return known


def encode_all(captions: list[str], encoder: TextEncoder) -> dict[str, np.ndarray]:
    """Encodes captions in batches of like length and returns the unpadded bfloat16 tokens of each."""
    by_length = sorted(captions, key=len)
    embeddings: dict[str, np.ndarray] = {}
    with tqdm(total=len(captions), desc=f"Embedding captions with {encoder.name}", disable=not captions) as progress:
        for batch in split_into_batches(by_length):
            text = encoder.encode(batch)
            hidden, mask = np.asarray(text.embeddings).astype(ml_dtypes.bfloat16), np.asarray(text.mask)
            embeddings |= {caption: hidden[row][mask[row]] for row, caption in enumerate(batch)}
            progress.update(len(batch))
    return embeddings


def split_into_batches(captions: list[str]) -> Iterator[list[str]]:
    """Yields ``BATCH`` captions at a time, in order."""
    for start in range(0, len(captions), BATCH):
        yield captions[start : start + BATCH]


def create_unfinished(path: Path) -> Path:
    """Creates an empty file beside ``path``, and their folder, and returns where it is.

    Raises:
        UserError: the folder cannot be written to.
    """
    unfinished = path.with_name(f"{path.name}.{os.getpid()}.unfinished")
    try:
        create_folder(path.parent)
        unfinished.touch()
    except OSError as error:
        raise UserError(f"embeddings cannot be written to {path.parent} ({error}): choose another folder") from error
    return unfinished


def write_store(path: Path, encoder_name: str, embeddings: dict[str, np.ndarray]) -> None:
    """Writes a store, of which no reader ever sees half.

    Raises:
        UserError: the disk is full.
    """
    captions = np.frombuffer(json.dumps(list(embeddings)).encode(), np.uint8)
    offsets = np.cumsum([0, *map(len, embeddings.values())], dtype=np.int64)
    tokens = np.concatenate(list(embeddings.values()))
    metadata = {"encoder": encoder_name, "sha256": compute_checksum(encoder_name, captions, offsets, [tokens])}
    try:
        with writing(path) as file:
            save_file({"captions": captions, "offsets": offsets, "tokens": tokens}, file, metadata)
    except (OSError, SafetensorError) as error:
        raise UserError(
            f"the embedding store {path} cannot be written ({error}): make room there or choose another folder"
        ) from error


def compute_checksum(encoder_name: str, captions: np.ndarray, offsets: np.ndarray, tokens: Iterable[np.ndarray]) -> str:
    """Returns the sha256 of a store's content; ``tokens`` comes in consecutive chunks of rows."""
    checksum = hashlib.sha256(encoder_name.encode())
    for array in (captions, offsets):
        checksum.update(np.ascontiguousarray(array).view(np.uint8).data)
    for chunk in tokens:
        checksum.update(np.ascontiguousarray(chunk).view(np.uint8).data)
    return checksum.hexdigest()
