"""The tokenizer of a CLIP's captions: OpenAI's vocabulary, a folder's, or one that is trained on the captions.

captions of the training split -> CLIP's cleaning -> byte-pair encoding of a small vocabulary -> WORKDIR/tokenizer.json
"""

from collections.abc import Iterator, Sequence

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from imagen_jax.clip.tokenizer import (
    END,
    START,
    clean,
    find_openai_vocabulary,
    load_folder_tokenizer,
    load_openai_vocabulary,
)
from imagen_jax.data.stored_images import read_captions
from imagen_jax.data.tokenizer import Tokenize
from imagen_jax.errors import UserError
from imagen_jax.runtime import processes
from imagen_jax.storage.paths import Path, create_folder, to_path, write_whole

FILE_NAME = "tokenizer.json"
MIN_VOCABULARY = 256 + 2
"""The bytes, and the tokens of start and end."""


def open_tokenizer(source: str, folders: Sequence[Path], workdir: Path, vocabulary: int) -> Tokenize:
    """Opens the tokenizer that a config names, or trains one at the first start of a run.

    Args:
        source: ``clip.tokenizer``: the file of OpenAI's vocabulary, a folder with it or with ``tokenizer.json``, or "".
        folders: the data sets, whose captions a new tokenizer is trained on.
        workdir: folder of the run, which keeps the new tokenizer.
        vocabulary: number of tokens of the text tower.

    Raises:
        UserError: the tokenizer can't be read, or has more tokens than the tower.
    """
    if source:
        tokenize = read_tokenizer(source)
        check_vocabulary(tokenize, vocabulary, source)
        return tokenize
    if vocabulary < MIN_VOCABULARY:
        raise UserError(
            f"config.text_tower.vocabulary={vocabulary}: the bytes and two marks need {MIN_VOCABULARY} tokens, so "
            "set it to that or more"
        )
    path = workdir / FILE_NAME
    if processes.is_process_zero() and not path.exists():
        create_folder(workdir)
        write_whole(path, train_tokenizer(read_all(folders), vocabulary).encode())
    processes.barrier("the tokenizer is trained")
    tokenize = load_folder_tokenizer(workdir)
    check_vocabulary(tokenize, vocabulary, str(path))
    return tokenize


def read_tokenizer(source: str) -> Tokenize:
    """Reads the tokenizer that a config names.

    Raises:
        UserError: its files are missing or damaged.
    """
    path = to_path(source)
    words = find_openai_vocabulary(path)
    return load_openai_vocabulary(words) if words else load_folder_tokenizer(path)


def read_all(folders: Sequence[Path]) -> Iterator[str]:
    """Yields the training captions of data sets."""
    return (caption for folder in folders for captions in read_captions(folder, "train") for caption in captions)


def check_vocabulary(tokenize: Tokenize, vocabulary: int, source: str) -> None:
    """Checks that the end token, the last of CLIP's vocabularies, is one that the text tower embeds and ends at.

    Raises:
        UserError: it is another.
    """
    (ids,) = tokenize([""])
    if len(ids) != 2 or ids[-1] != vocabulary - 1:
        raise UserError(
            f"{source} ends a caption with token {ids[-1]}, and config.text_tower.vocabulary={vocabulary} with "
            f"{vocabulary - 1}: set it to {ids[-1] + 1}"
        )


def train_tokenizer(captions: Iterator[str], vocabulary: int) -> str:
    """Trains byte-pair encoding on captions, with the marks of CLIP's tokenizer as the last two tokens.

    Args:
        captions: the captions.
        vocabulary: number of tokens. If the captions give fewer merges, unused tokens fill it up.

    Returns:
        The text of ``tokenizer.json``.
    """
    tokenizer = Tokenizer(models.BPE(unk_token=None))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary - 2, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(map(clean, captions), trainer)
    unused = vocabulary - 2 - tokenizer.get_vocab_size()
    fillers = [f"<|unused_{number}|>" for number in range(unused)]
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in (*fillers, START, END)])
    numbers = [(token, tokenizer.token_to_id(token)) for token in (START, END)]
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{START} $A {END}", special_tokens=numbers)
    return tokenizer.to_str()
