"""CLIP's byte-pair encoding: captions to token ids, with OpenAI's vocabulary or that of a Hugging Face folder.

    caption -> cleaned, in lower case -> words, digits and runs of symbols -> bytes -> merged pairs -> ids

Captions are cleaned with ftfy, as OpenAI does. It fixes wrongly decoded text ("Ã©" is "é"), straightens quotation
marks, replaces ligatures and full-width letters by plain letters, and removes control characters. Hugging Face's own
tokenizers clean only white space, so they give other tokens for captions with curly quotes or ``&amp;``.
"""

import gzip
import html
import string
import zlib
from collections.abc import Callable, Sequence
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, models, pre_tokenizers, processors

from imagen_jax.data.sources.record_fields import is_utf8
from imagen_jax.data.tokenizer import Tokenize, load_tokenizer
from imagen_jax.errors import UserError
from imagen_jax.storage.paths import Path
from imagen_jax.storage.refusals import raise_if_denied
from imagen_jax.weights.json_settings import Kind, check_kinds, read_settings
from imagen_jax.weights.known_files import KnownFile
from imagen_jax.weights.named_tensors import list_names

VOCABULARY = KnownFile(
    what="CLIP's tokenizer",
    name="bpe_simple_vocab_16e6.txt.gz",
    url="https://github.com/openai/CLIP/raw/main/clip/bpe_simple_vocab_16e6.txt.gz",
    sha256="924691ac288e54409236115652ad4aa250f48203de50a9e4722a6ecd48d6804a",
)

VOCABULARY_FLAG = "clip_vocabulary"
"""The flag for the file of the vocabulary, in error messages."""

START, END = "<|startoftext|>", "<|endoftext|>"
WORD_END = "</w>"
MERGES = 49152 - 256 - 2
"""The number of merges that CLIP was trained with, from the start of the file. The file contains more."""

MAX_BYTES = 2**24
"""The max size of the unpacked file in bytes. The published file has 3 MB."""

TOKEN_ID = Kind("a token id", lambda value: isinstance(value, int) and 0 <= value < 1 << 24)

PIECES = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+"


def clean(caption: str) -> str:
    """Cleans a caption for tokenization: one line in lower case, with one space between words."""
    return clean_spaces(caption).lower()


def clean_spaces(caption: str) -> str:
    """Cleans a caption to one line with one space between words."""
    # Imported here: a base installation lacks ftfy, and can still use a CLIP on a frozen text encoder.
    import ftfy

    # JSON may contain surrogates. This joins pairs, and replaces lone ones, which cannot be encoded.
    whole = caption.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    # Unescaped twice, as OpenAI does: captions from the web are often escaped twice.
    return " ".join(html.unescape(html.unescape(ftfy.fix_text(whole))).split())


def clean_punctuation(caption: str) -> str:
    """Cleans a caption to words in lower case, without the punctuation of ASCII."""
    without = clean_spaces(caption).replace("_", " ").translate(str.maketrans("", "", string.punctuation))
    return " ".join(without.lower().split())


CLEANERS: dict[str, Callable[[str], str]] = {
    "lower": clean,
    "whitespace": clean_spaces,
    "canonicalize": clean_punctuation,
}
"""How captions are cleaned, under open_clip's names. OpenAI's CLIP has "lower"."""


def load_openai_vocabulary(path: Path, cleaner: str = "lower") -> Tokenize:
    """Returns the tokenizer of ``bpe_simple_vocab_16e6.txt.gz``.

    Args:
        path: the file.
        cleaner: how captions are cleaned first, a key of ``CLEANERS``.

    Raises:
        UserError: the file can't be read, or is not that vocabulary.
    """
    numbers, merges = read_openai_vocabulary(path)
    return make_tokenizer(numbers, merges, path, cleaner)


def read_openai_vocabulary(path: Path) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Returns the id of each token, and the merges in order of priority.

    Raises:
        UserError: the file can't be read, or is not that vocabulary.
    """
    try:
        with path.open("rb") as file, gzip.open(file) as unpacked:
            text = unpacked.read(MAX_BYTES + 1)
        if len(text) > MAX_BYTES:
            raise ValueError(f"it has more than {MAX_BYTES} bytes")
        lines = text.decode().split("\n")
        merges = [read_pair(line) for line in lines[1 : 1 + MERGES] if line]
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise_if_denied(error, path)
        raise UserError(f"{path} is not CLIP's vocabulary ({error}): download {VOCABULARY.url} again") from None
    letters = list_bytes()
    words = [*letters, *(letter + WORD_END for letter in letters), *map("".join, merges), START, END]
    return {word: number for number, word in enumerate(words)}, merges


def read_pair(line: str) -> tuple[str, str]:
    """Splits a line into the two tokens of a merge.

    Raises:
        ValueError: the line does not have exactly two parts.
    """
    first, second = line.split()
    return first, second


def list_bytes() -> list[str]:
    """Returns the 256 characters that represent bytes: the printable ones, then characters from U+0100 on."""
    seen = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    return [chr(code) for code in [*seen, *range(0x100, 0x100 + 256 - len(seen))]]


def is_version(line: str) -> bool:
    """Returns whether a line of merges is the version header, and not a pair."""
    return line.startswith("#version")


def find_openai_vocabulary(path: Path) -> Path | None:
    """Returns the file of OpenAI's vocabulary: the path itself, or the file of that name in a folder, or None."""
    if path.is_file():
        return path
    inside = path / VOCABULARY.name
    return inside if inside.is_file() else None


def load_folder_tokenizer(folder: Path, cleaner: str = "lower") -> Tokenize:
    """Returns the tokenizer of a Hugging Face folder: ``tokenizer.json``, or ``vocab.json`` with ``merges.txt``.

    Args:
        folder: the folder.
        cleaner: how captions are cleaned first, a key of ``CLEANERS``.

    Raises:
        UserError: the files are missing or damaged, or are of another model.
    """
    if (path := folder / "tokenizer.json").is_file():
        try:
            return clean_before(load_tokenizer(path), cleaner)
        except ValueError as error:
            raise UserError(f"{path} can't be read ({error}): download it again") from None
    path = folder / "merges.txt"
    if not path.is_file():
        raise UserError(f"{folder} has neither tokenizer.json nor merges.txt: download the tokenizer's files too")
    try:
        merges = [read_pair(line) for line in path.read_bytes().decode().split("\n") if line and not is_version(line)]
    except ValueError as error:
        raise UserError(f"{path} is not a list of merges ({error}): download it again") from None
    numbers = read_settings(folder / "vocab.json")
    check_kinds(folder / "vocab.json", numbers, dict.fromkeys(numbers, TOKEN_ID))
    if not all(map(is_utf8, numbers)):
        raise UserError(f"{folder / 'vocab.json'} has a token that is not UTF-8: download it again")
    return make_tokenizer(numbers, merges, folder / "vocab.json", cleaner)


def make_tokenizer(
    numbers: dict[str, Any], merges: list[tuple[str, str]], path: Path, cleaner: str = "lower"
) -> Tokenize:
    """Returns the tokenizer of a vocabulary.

    Args:
        numbers: the id of each token.
        merges: pairs of tokens that are merged, in order of priority.
        path: the file, for error messages.
        cleaner: how captions are cleaned first, a key of ``CLEANERS``.

    Raises:
        UserError: the vocabulary lacks the start token, the end token, or a token of the merges.
    """
    needed = {START, END, *(word for first, second in merges for word in (first, second, first + second))}
    if lacking := sorted(needed - numbers.keys()):
        raise UserError(f"{path} lacks the tokens {list_names(lacking)}: use the vocabulary that came with CLIP")
    tokenizer = Tokenizer(models.BPE(numbers, merges, end_of_word_suffix=WORD_END, unk_token=END))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PIECES), "removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    special = [AddedToken(token, special=True, normalized=False) for token in (START, END)]
    tokenizer.add_special_tokens(special)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{START} $A {END}", special_tokens=[(token, numbers[token]) for token in (START, END)]
    )

    def tokenize(captions: Sequence[str]) -> list[list[int]]:
        return [encoding.ids for encoding in tokenizer.encode_batch(list(captions))]

    return clean_before(tokenize, cleaner)


def clean_before(tokenize: Tokenize, cleaner: str = "lower") -> Tokenize:
    """Wraps a tokenizer so that it cleans captions first, as a key of ``CLEANERS`` says."""
    clean_one = CLEANERS[cleaner]
    return lambda captions: tokenize([clean_one(caption) for caption in captions])
