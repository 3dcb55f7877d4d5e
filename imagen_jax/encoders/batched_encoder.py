"""Combines any tokenizer, network and weights into one text encoder that compiles for few shapes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging

from imagen_jax.array_types import Text, TextEmbeddings, TokenIds, TokenMask
from imagen_jax.data.tokenizer import Tokenize, pad_token_ids, truncate_token_ids
from imagen_jax.errors import UserError

MAX_BATCH = 64
MIN_BUCKET = 8


class EncoderParts(NamedTuple):
    """The parts of an encoder. Each part can be replaced on its own.

    Attributes:
        tokenize: the tokenizer, a ``data.tokenizer.Tokenize``.
        apply: ``apply(parameters, ids, mask)``, which returns one hidden state per token, ``(batch, tokens, width)``.
        parameters: the weights, a dict of arrays.
    """

    tokenize: Tokenize
    apply: Callable[[dict, TokenIds, TokenMask], TextEmbeddings]
    parameters: dict


@dataclass(frozen=True)
class BatchedEncoder:
    """A frozen text encoder. The first ``encode`` calls ``load_parts``; no weights are read before.

    Attributes:
        name: identifies the weights and the token limit. Stored output of this encoder is kept under this name.
        width: the size of each token's embedding.
        max_tokens: the max number of tokens, closing token included. Longer captions are truncated with a warning.
        load_parts: reads the tokenizer and the weights.
    """

    name: str
    width: int
    max_tokens: int
    load_parts: Callable[[], EncoderParts]

    @cached_property
    def parts(self) -> EncoderParts:
        """The tokenizer, network and weights, loaded on first use. The network is jitted and zeroes padding."""
        parts = self.load_parts()
        return parts._replace(apply=jax.jit(mask_padding(parts.apply)), parameters=jax.device_put(parts.parameters))

    def encode(self, captions: Sequence[str], length: int | None = None) -> Text:
        """Encodes captions into their token sequences, padded to ``length`` tokens or to the longest caption.

        A caption of more than ``max_tokens`` (or ``length``, if smaller) tokens is truncated, but keeps its
        closing token. A warning then shows the caption.

        Returns:
            Float32 embeddings ``(batch, length, width)``, zero at padding, and their mask.

        Raises:
            UserError: there are no captions, or ``length`` is below 1.
        """
        if not captions:
            raise UserError("there are no captions to encode: pass at least one")
        if length is not None and length < 1:
            raise UserError(f"captions cannot be padded to {length} tokens: set the length to 1 or more")
        sequences = self.tokenize(captions, self.max_tokens if length is None else min(length, self.max_tokens))
        length = length or max(map(len, sequences))
        embeddings = np.zeros((len(sequences), length, self.width), np.float32)
        for start in range(0, len(sequences), MAX_BATCH):
            chunk = sequences[start : start + MAX_BATCH]
            longest = max(map(len, chunk))
            embeddings[start : start + len(chunk), :longest] = self.encode_token_ids(chunk)[:, :longest]
        _, mask = pad_token_ids(sequences, len(sequences), length)
        return Text(jnp.asarray(embeddings), jnp.asarray(mask))

    def tokenize(self, captions: Sequence[str], limit: int) -> list[list[int]]:
        """Returns the token ids of each caption, at most ``limit``. Warns once about each truncated caption."""
        sequences = self.parts.tokenize(captions)
        for caption, ids in dict(zip(captions, sequences, strict=True)).items():
            if len(ids) > limit:
                logging.warning("%s", truncation(caption, len(ids), limit))
        return [truncate_token_ids(ids, limit) for ids in sequences]

    def explain_truncation(self, caption: str, length: int) -> str:
        """Returns a sentence about a caption that ``encode`` truncates to ``length`` tokens; empty if it does not."""
        (ids,), limit = self.parts.tokenize([caption]), min(length, self.max_tokens)
        return truncation(caption, len(ids), limit) if len(ids) > limit else ""

    def encode_token_ids(self, sequences: list[list[int]]) -> np.ndarray:
        """Returns the embeddings ``(len(sequences), tokens, width)``, zero at padding; ``tokens`` is a bucket size."""
        tokens = min(round_up_to_bucket(max(map(len, sequences))), self.max_tokens)
        ids, mask = pad_token_ids(sequences, round_up_to_bucket(len(sequences)), tokens)
        embeddings = self.parts.apply(self.parts.parameters, jnp.asarray(ids), jnp.asarray(mask))
        return jax.device_get(embeddings)[: len(sequences)]


def truncation(caption: str, tokens: int, limit: int) -> str:
    """Returns the warning about a truncated caption."""
    return f"the caption {caption!r} has {tokens} tokens, and only the first {limit} are read: shorten it"


def round_up_to_bucket(size: int) -> int:
    """Returns the next power of two, at least ``MIN_BUCKET``, so that only few shapes are compiled."""
    return max(MIN_BUCKET, 1 << (size - 1).bit_length())


def mask_padding(apply: Callable[[dict, TokenIds, TokenMask], TextEmbeddings]) -> Callable[..., TextEmbeddings]:
    """Wraps ``apply`` so that it returns float32 with zeros at padding."""

    def apply_and_mask(parameters: dict, ids: TokenIds, mask: TokenMask) -> TextEmbeddings:
        hidden = apply(parameters, ids, mask).astype(jnp.float32)
        return jnp.where(mask[..., None], hidden, 0.0)

    return apply_and_mask
