"""CLIP's tokenizer against a plain byte-pair encoding, in its three kinds of files, and with damaged ones."""

import gzip
import itertools
import json
import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models

from imagen_jax.clip.tokenizer import clean, load_folder_tokenizer, load_openai_vocabulary
from imagen_jax.errors import UserError
from tests.reference.clip_folders import END, MERGES, START, write_tokenizer, write_vocabulary

CAPTIONS = [
    "",
    "the cat",
    "The cat's panda, isn't it?",
    "THEY'RE 2 cats & 10 pandas!!",
    "## the #cat",
    "a’b “the” …",
    "😀👩‍🚀 the ñandú 猫",
    "  tabs\tand\nlines  ",
    "don't 'start 'so''s",
    "the2cats_3",
    "&lt;the cat&gt; &amp;amp; x",
]
WORDS = re.compile(r"'(?:s|t|re|ve|m|ll|d)|[^\W\d_]+|[0-9]|(?:[^\s\w]|_)+")


def byte_letters() -> dict[int, str]:
    """What each byte is written as, as GPT-2 began it: itself where it is seen, else the next letter from U+0100 on."""
    unseen = itertools.count(0x100)
    seen = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    return {byte: chr(byte) if byte in seen else chr(next(unseen)) for byte in range(256)}


def encode(caption: str) -> list[int]:
    """The ids of a caption in ASCII, by merging the pair that stands first in the list, again and again."""
    letters = byte_letters()
    ordered = sorted(letters.values(), key=lambda letter: (ord(letter) >= 0x100, ord(letter)))
    words = [*ordered, *(f"{letter}</w>" for letter in ordered), *(merge.replace(" ", "") for merge in MERGES)]
    numbers = {word: number for number, word in enumerate(words)}
    ranks = {tuple(merge.split()): rank for rank, merge in enumerate(MERGES)}
    ids = [START]
    for piece in WORDS.findall(" ".join(caption.lower().split())):
        parts = [letters[byte] for byte in piece.encode()]
        parts[-1] += "</w>"
        while found := [pair for pair in itertools.pairwise(parts) if pair in ranks]:
            best = min(found, key=lambda pair: ranks[pair])
            position = next(position for position, pair in enumerate(itertools.pairwise(parts)) if pair == best)
            parts[position : position + 2] = ["".join(best)]
        ids += [numbers[part] for part in parts]
    return [*ids, END]


@pytest.fixture(scope="module")
def tokenize(tmp_path_factory):
    return load_openai_vocabulary(write_vocabulary(tmp_path_factory.mktemp("vocabulary")))


ASCII = st.text("thecapnd's# '2!_&B", max_size=20)


@settings(deadline=None, max_examples=200)
@given(caption=ASCII)
@example(caption="the cat's panda ## 's")
def test_ids_are_those_of_a_plain_byte_pair_encoding(tokenize, caption):
    # "&B" may be the beginning of the name of a character.
    if clean(caption) == " ".join(caption.lower().split()):
        assert tokenize([caption]) == [encode(caption)]


def test_a_folder_has_the_same_tokens(tmp_path, tokenize):
    write_tokenizer(tmp_path)
    expected = tokenize(CAPTIONS)
    assert load_folder_tokenizer(tmp_path)(CAPTIONS) == expected
    assert all(ids[0] == START and ids[-1] == END and END not in ids[:-1] for ids in expected)


def test_signs_and_letters_of_all_scripts_become_bytes(tokenize):
    ((start, *ids, end),) = tokenize(["😀"])
    # F0 9F are merged; 98 and 80, the last, are letters of their own.
    assert (start, end) == (START, END) and ids[0] == 512 + MERGES.index("ð Ł") and len(ids) == 3


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("  A\tB \n c ", "a b c"),
        ("it’s “so”", 'it\'s "so"'),
        ("&lt;b&gt; &amp;amp; &eacute;", "<b> & é"),
        ("ﬁne ＡＢＣ！", "fine abc!"),
        ("cafe\u0301", "café"),
        ("a\ufeffb\x00c\x7f", "abc"),
        ("ΟΔΟΣ", "οδος"),
        ("\ud83d\ude00 \ud83d", "😀 \ufffd"),
        ("a\u00a0b\u3000c\u2028d", "a b c d"),
        ("a cafÃ© â€“ itâ€™s open", "a café – it's open"),
    ],
)
def test_captions_are_cleaned(caption, expected):
    assert clean(caption) == expected


@pytest.mark.parametrize(
    ("content", "fact"),
    [
        (b"no gzip", "vocabulary.gz"),
        (gzip.compress(b"#version\na b\n")[:-9], "vocabulary.gz"),
        (gzip.compress(b"#version\na b c\n"), "vocabulary.gz"),
        (gzip.compress(b"#version\n\xff\xff \xff\n"), "vocabulary.gz"),
        (gzip.compress(b"#version\nab c\n"), r"vocabulary.gz .*\bab\b"),
    ],
    ids=["no_gzip", "cut", "three_tokens_merged", "no_text", "an_unknown_token"],
)
def test_a_damaged_vocabulary_is_refused(tmp_path, content, fact):
    path = tmp_path / "vocabulary.gz"
    path.write_bytes(content)
    with pytest.raises(UserError, match=fact):
        load_openai_vocabulary(path)


def test_only_the_merges_that_clip_was_trained_with_are_read(tmp_path, monkeypatch):
    path = write_vocabulary(tmp_path)
    monkeypatch.setattr("imagen_jax.clip.tokenizer.MERGES", 2)
    assert load_openai_vocabulary(path)(["the cat"]) == [[514, 513, 66, 64, 256 + 83, 515]]


@pytest.mark.parametrize(
    ("file", "content", "fact"),
    [
        ("merges.txt", None, r"tokenizer\.json .*merges\.txt"),
        ("merges.txt", "a b c", r"merges\.txt"),
        ("merges.txt", "ab c", r"vocab\.json .*\bab, abc\b"),
        ("vocab.json", None, r"vocab\.json"),
        ("vocab.json", '{"a": "b"}', r"vocab\.json .*a='b'"),
        ("vocab.json", '{"a": 0}', r"vocab\.json .*<\|endoftext\|>"),
        ("tokenizer.json", "{}", r"tokenizer\.json"),
    ],
)
def test_a_folder_with_damaged_files_is_refused(tmp_path, file, content, fact):
    write_tokenizer(tmp_path)
    if content is None:
        (tmp_path / file).unlink()
    else:
        (tmp_path / file).write_text(content)
    with pytest.raises(UserError, match=fact):
        load_folder_tokenizer(tmp_path)


def test_a_tokenizer_of_one_file_is_preferred_and_never_truncates(tmp_path):
    write_tokenizer(tmp_path)
    tokenizer = Tokenizer(models.WordLevel({"cat": 7, "?": 1}, unk_token="?"))
    tokenizer.enable_truncation(3)
    (tmp_path / "tokenizer.json").write_text(tokenizer.to_str())
    assert json.loads((tmp_path / "tokenizer.json").read_text())["truncation"]
    assert load_folder_tokenizer(tmp_path)([" CAT "]) == [[7]]


def test_a_vocabulary_that_is_a_bomb_is_refused(tmp_path):
    (tmp_path / "bomb.gz").write_bytes(gzip.compress(bytes(2**26), 1))
    with pytest.raises(UserError, match="16777216"):
        load_openai_vocabulary(tmp_path / "bomb.gz")


def test_a_token_that_is_not_utf8_is_refused(tmp_path):
    write_tokenizer(tmp_path)
    numbers = json.loads((tmp_path / "vocab.json").read_text())
    (tmp_path / "vocab.json").write_text(json.dumps(numbers | {"\ud800": 1000}))
    with pytest.raises(UserError, match=r"vocab\.json .*UTF-8"):
        load_folder_tokenizer(tmp_path)
