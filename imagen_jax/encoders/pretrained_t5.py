"""Loads a pretrained T5 v1.1 encoder from a folder; ``t5_files`` reads it. Imagen uses ``google/t5-v1_1-xxl``."""

from collections.abc import Callable, Sequence
from typing import cast

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from imagen_jax.array_types import DTYPES, TextEmbeddings, TokenIds, TokenMask
from imagen_jax.data.tokenizer import PADDING_ID, load_sentencepiece
from imagen_jax.encoders.batched_encoder import BatchedEncoder, EncoderParts
from imagen_jax.encoders.t5 import T5Encoder
from imagen_jax.encoders.t5_files import T5Files, find_t5
from imagen_jax.encoders.t5_weights import import_t5_weights
from imagen_jax.errors import UserError, lookup
from imagen_jax.storage.paths import Path, to_path
from imagen_jax.weights.named_tensors import ParameterPlacement
from imagen_jax.weights.places import place_on_local_devices

DEFAULT_MAX_TOKENS = 128


def load_t5(
    folder: str | Path = "",
    tokenizer: str = "",
    max_tokens: int = DEFAULT_MAX_TOKENS,
    dtype: str = "bfloat16",
    lowercase: bool = False,
    encode_padding: bool = False,
    place: ParameterPlacement | None = None,
) -> BatchedEncoder:
    """Returns the T5 encoder of a folder. Its weights are read at the first ``encode``.

    Args:
        folder: a folder in the layout of Hugging Face or T5X; see ``t5_files``.
        tokenizer: the sentencepiece model, if it is not in the folder.
        max_tokens: the max number of tokens of a caption, </s> included; at least 2. The paper gives no limit; other
            implementations use 128.
        dtype: the dtype of weights and compute, "bfloat16" or "float32". The embeddings are float32.
        lowercase: whether to lowercase and strip captions, as DeepFloyd IF does.
        encode_padding: whether to pad captions to ``max_tokens`` and treat padding as tokens, as DeepFloyd IF does.
        place: places each parameter; by default sharded over the devices of this process. See ``weights.places``.

    Raises:
        UserError: no folder is given, a file is missing, or it is of another model. At the first ``encode``: weights or
            tokenizer are damaged or do not fit.
    """
    if not str(folder):
        raise UserError(
            "the T5 encoder has no weights: give the folder to which you downloaded them, as in "
            "--config.text.options.folder=FOLDER (Imagen's are google/t5-v1_1-xxl)"
        )
    if max_tokens < 2:
        raise UserError(f"T5 cannot read captions of {max_tokens} tokens: choose max_tokens of at least 2")
    compute = lookup(DTYPES, dtype, "T5 dtype")
    files = find_t5(to_path(folder), tokenizer)
    name = f"t5-{files.config.d_model}-{files.fingerprint}-{dtype}"
    changes: list[Callable[[EncoderParts], EncoderParts]] = []
    if max_tokens != DEFAULT_MAX_TOKENS:
        name += f"-{max_tokens}-tokens"
    if lowercase:
        name += "-lowercase"
        changes.append(read_lowercase)
    if encode_padding:
        name += "-padding"
        changes.append(lambda parts: keep_padding(parts, max_tokens))

    def load() -> EncoderParts:
        parts = load_parts(files, compute, place or place_on_local_devices())
        for change in changes:
            parts = change(parts)
        return parts

    return BatchedEncoder(name, files.config.d_model, max_tokens, load)


def load_parts(files: T5Files, dtype: DTypeLike, place: ParameterPlacement) -> EncoderParts:
    """Reads the tokenizer and the weights.

    Raises:
        UserError: a file is missing, damaged, or does not fit the sizes.
    """
    tokenize = load_sentencepiece(files.tokenizer)
    parameters = import_t5_weights(files.read_weights(), files.config, dtype, place)
    encoder = T5Encoder(files.config, dtype)

    def apply(parameters: dict, ids: TokenIds, mask: TokenMask) -> TextEmbeddings:
        precision = "highest" if dtype == jnp.float32 else "default"
        with jax.default_matmul_precision(precision):
            hidden = encoder.apply({"params": parameters}, ids, mask)
        # Flax's return type is a pair if some collections are mutable. None is here.
        return cast(TextEmbeddings, hidden)

    return EncoderParts(tokenize, apply, parameters)


def read_lowercase(parts: EncoderParts) -> EncoderParts:
    """Wraps the tokenizer so that it lowercases captions and strips white space around them."""

    def tokenize(captions: Sequence[str]) -> list[list[int]]:
        return parts.tokenize([caption.lower().strip() for caption in captions])

    return parts._replace(tokenize=tokenize)


def keep_padding(parts: EncoderParts, max_tokens: int) -> EncoderParts:
    """Pads every caption to ``max_tokens`` and treats the padding as tokens, but no token attends to it.

    Padding then has embeddings too, which depend on the caption's tokens. The returned mask is True everywhere.
    """

    def tokenize(captions: Sequence[str]) -> list[list[int]]:
        # A longer caption is not truncated here: ``BatchedEncoder.tokenize`` does so, keeps its </s>, and warns.
        return [ids + [PADDING_ID] * (max_tokens - len(ids)) for ids in parts.tokenize(captions)]

    def apply(parameters: dict, ids: TokenIds, mask: TokenMask) -> TextEmbeddings:
        return parts.apply(parameters, ids, mask & (ids != PADDING_ID))

    return parts._replace(tokenize=tokenize, apply=apply)
