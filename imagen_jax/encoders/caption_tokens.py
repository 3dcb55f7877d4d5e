"""Captions as token ids, for networks with a text transformer of their own: the tokenizers, and what they return.

    captions -> token ids, without the marks of start and end -> at most so many of each -> TokenSequence

The empty caption has no tokens. So it is the null caption of training, as in GLIDE (``models.text_transformer``).
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from absl import logging

from imagen_jax.clip.tokenizer import (
    find_openai_vocabulary,
    load_folder_tokenizer,
    make_tokenizer,
    read_openai_vocabulary,
)
from imagen_jax.data.tokenizer import Tokenize, count_vocabulary, load_tokenizer, pad_token_ids
from imagen_jax.diffusion.conditions import TokenSequence
from imagen_jax.encoders import minilm
from imagen_jax.encoders.embedding_store import tokens_for
from imagen_jax.errors import UserError
from imagen_jax.storage.paths import Path, to_path

MINILM = "minilm"
"""Value of ``text.tokenizer`` for MiniLM's word pieces, which need no file."""

FILES = ("tokenizer.json", "vocab.json", "merges.txt")
"""The files of a folder that decide about its tokens; the first is enough."""

NAME_DIGITS = 16


@dataclass(frozen=True)
class CaptionTokenizer:
    """A tokenizer of captions.

    Attributes:
        name: identifies it: two of the same name give equal token ids.
        vocabulary: number of tokens; each id is below it.
        tokenize: returns token ids with the marks of start and end.
    """

    name: str
    vocabulary: int
    tokenize: Tokenize
    _warned: list[str] = field(default_factory=list, compare=False, repr=False)

    def read(self, captions: Sequence[str], length: int) -> TokenSequence:
        """Returns the token ids of captions and their mask, as NumPy arrays ``(batch, tokens)``.

        ``tokens`` is the length of the longest caption, rounded up to a multiple of 8, and at most ``length``. Longer
        captions lose their end. A warning shows the first of them.
        """
        (empty,) = self.tokenize([""])
        start, end = len(empty[:-1]), len(empty[-1:])
        whole = [ids[start : len(ids) - end] for ids in self.tokenize(captions)]
        for caption, ids in zip(captions, whole, strict=True):
            if len(ids) > length and not self._warned:
                self._warned.append(caption)
                logging.warning(
                    "the caption %r has %d tokens and is cut to %d: raise config.text.length and the context of the "
                    "text transformer if many are as long",
                    caption, len(ids), length,
                )  # fmt: skip
        kept = [ids[:length] for ids in whole]
        tokens = max(1, tokens_for(max(map(len, kept), default=0), length))
        # Host arrays: batches are assembled on the host, and the device feed makes them jax arrays.
        return TokenSequence(*pad_token_ids(kept, len(kept), tokens))  # type: ignore[arg-type]


def load_caption_tokenizer(source: str) -> CaptionTokenizer:
    """Opens the tokenizer that ``text.tokenizer`` names.

    Args:
        source: ``minilm``, the file of OpenAI's vocabulary, or a folder with ``tokenizer.json``, such as a CLIP's.

    Raises:
        UserError: none is named, or its files are missing or damaged.
    """
    check_tokenizer_is_there(source)
    if source == MINILM:
        path = minilm.find_folder() / "tokenizer.json"
        content = minilm.read_checked(path, minilm.SHA256[path.name])
        return CaptionTokenizer(name_of(MINILM, [content]), count_vocabulary(path), load_tokenizer(path))
    path = to_path(source)
    if (words := find_openai_vocabulary(path)) is not None:
        numbers, merges = read_openai_vocabulary(words)
        return CaptionTokenizer(
            name_of("clip", [words.read_bytes()]), len(numbers), make_tokenizer(numbers, merges, words)
        )
    tokenize, files = load_folder_tokenizer(path), files_of(path)
    (empty,) = tokenize([""])
    # The last token of CLIP's vocabulary is the mark of the end.
    vocabulary = count_vocabulary(files[0]) if files[0].name == FILES[0] else empty[-1] + 1
    return CaptionTokenizer(name_of("folder", [file.read_bytes() for file in files]), vocabulary, tokenize)


def check_tokenizer_is_there(source: str) -> None:
    """Checks that the files of a tokenizer are on this machine, without reading them.

    Raises:
        UserError: they are not, or none is named.
    """
    if not source:
        raise UserError(
            "config.stage.tokens needs a tokenizer: set --config.text.tokenizer to minilm, to the file of CLIP's "
            "vocabulary, or to a folder with tokenizer.json"
        )
    if source == MINILM:
        minilm.find_folder()
    elif not to_path(source).exists():
        raise UserError(
            f"there is no tokenizer {source}: set --config.text.tokenizer to its file or folder, or to {MINILM}"
        )


def files_of(folder: Path) -> list[Path]:
    """Returns the files of a folder that decide about its tokens."""
    present = [folder / name for name in FILES if (folder / name).is_file()]
    return present[:1] if present[0].name == FILES[0] else present


def name_of(kind: str, contents: Sequence[bytes]) -> str:
    """Returns the name of a tokenizer, which identifies the content of its files."""
    digest = hashlib.sha256()
    for content in contents:
        digest.update(hashlib.sha256(content).digest())
    return f"{kind}-{digest.hexdigest()[:NAME_DIGITS]}"


def pad_tokens(tokens: TokenSequence, length: int) -> TokenSequence:
    """Pads the result of ``CaptionTokenizer.read`` to ``length`` tokens."""
    more = ((0, 0), (0, length - tokens.mask.shape[1]))
    return TokenSequence(np.pad(tokens.ids, more), np.pad(tokens.mask, more))  # type: ignore[arg-type]
