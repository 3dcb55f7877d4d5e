"""Tokenizes captions to token ids, and pads token ids to arrays."""

from collections.abc import Callable, Sequence

import numpy as np
import sentencepiece
import tokenizers
from jaxtyping import Bool, Int

from imagen_jax.errors import UserError
from imagen_jax.storage.paths import Path

Tokenize = Callable[[Sequence[str]], list[list[int]]]
"""``tokenize(captions)`` returns the token ids of each caption with special tokens, neither truncated nor padded.

The last token must be the one that ends a sequence ([SEP] for BERT, </s> for T5): truncation keeps it.
"""

PADDING_ID = 0
"""Token id for padding: BERT's [PAD] and T5's <pad>. No text is tokenized to it."""

ONE_TOKEN = (np.zeros((1, 1), np.int32), np.ones((1, 1), bool))
"""Ids and mask, shape (1, 1), of a caption of one token: the smallest input to find an encoder's output shapes."""


def load_tokenizer(path: Path) -> Tokenize:
    """Returns the tokenizer of a ``tokenizer.json`` file, with the special tokens its model was trained on.

    Truncation and padding that the file configures are disabled.

    Raises:
        ValueError: the file is not a tokenizer. The returned function raises ``UserError`` if the file is inconsistent.
    """
    tokenizer = tokenizers.Tokenizer.from_buffer(path.read_bytes())
    tokenizer.no_truncation()
    tokenizer.no_padding()

    def tokenize(captions: Sequence[str]) -> list[list[int]]:
        try:
            return [encoding.ids for encoding in tokenizer.encode_batch(list(captions))]
        except BaseException as error:
            # The library raises plain Exception, and its Rust panics do not even derive from Exception.
            if type(error) is Exception or type(error).__name__ == "PanicException":
                raise UserError(f"{path} can't be used ({error}): download it again") from None
            raise

    return tokenize


def count_vocabulary(path: Path) -> int:
    """Returns the number of tokens of a ``tokenizer.json`` file that ``load_tokenizer`` can read."""
    return tokenizers.Tokenizer.from_buffer(path.read_bytes()).get_vocab_size()


def load_sentencepiece(path: Path) -> Tokenize:
    """Returns the tokenizer of a sentencepiece model with T5's conventions.

    The padding id is 0, each caption ends with </s>, id 1, and there is no start token.

    Raises:
        UserError: the file is missing, is not a sentencepiece model, or has other conventions.
    """
    if not path.is_file():
        raise UserError(f"{path} is missing: download the sentencepiece model that came with the T5 weights")
    try:
        model = sentencepiece.SentencePieceProcessor(model_proto=path.read_bytes())
    except (RuntimeError, ValueError) as error:
        raise UserError(f"{path} is not a complete sentencepiece model ({error}): download it again") from None
    found = (model.pad_id(), model.eos_id())
    if found != (PADDING_ID, 1):
        raise UserError(f"{path} pads with {found[0]} and ends with {found[1]}, T5 with 0 and 1: use T5's own model")

    def tokenize(captions: Sequence[str]) -> list[list[int]]:
        return [[*ids, model.eos_id()] for ids in model.encode(list(captions))]

    return tokenize


def truncate_token_ids(ids: list[int], limit: int) -> list[int]:
    """Returns at most ``limit`` token ids: the first ones, and always the last one."""
    return ids if len(ids) <= limit else [*ids[: limit - 1], ids[-1]]


def pad_token_ids(
    sequences: Sequence[list[int]], batch: int, tokens: int, padding_id: int = PADDING_ID
) -> tuple[Int[np.ndarray, "batch tokens"], Bool[np.ndarray, "batch tokens"]]:
    """Returns ids, int32, and a mask, bool, both of shape ``(batch, tokens)``.

    The mask is True at tokens and False at padding. Rows beyond ``sequences`` are padding only.
    """
    ids = np.full((batch, tokens), padding_id, np.int32)
    mask = np.zeros((batch, tokens), bool)
    for row, sequence in enumerate(sequences):
        ids[row, : len(sequence)] = sequence
        mask[row, : len(sequence)] = True
    return ids, mask
