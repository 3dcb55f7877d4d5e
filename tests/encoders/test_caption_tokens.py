"""Token ids of captions for a text transformer of the network's own."""

import numpy as np
import pytest
from absl import logging

from imagen_jax.clip.tokenizer import load_openai_vocabulary
from imagen_jax.data.tokenizer import load_tokenizer
from imagen_jax.encoders import minilm
from imagen_jax.encoders.caption_tokens import CaptionTokenizer, load_caption_tokenizer, pad_tokens
from imagen_jax.errors import UserError
from imagen_jax.tasks.clip_tokenizer import open_tokenizer, train_tokenizer
from tests.reference.clip_folders import write_vocabulary

CAPTIONS = ["a red apple", "!", ""]


def test_minilms_word_pieces_come_without_their_marks():
    tokenizer = load_caption_tokenizer("minilm")
    tokens = tokenizer.read(CAPTIONS, 12)
    marked = load_tokenizer(minilm.find_folder() / "tokenizer.json")(CAPTIONS)
    assert tokens.ids.shape == (3, 8) and tokens.ids.dtype == np.int32
    for ids, mask, whole in zip(tokens.ids, tokens.mask, marked, strict=True):
        assert ids[mask].tolist() == whole[1:-1]
    assert tokens.mask.sum(axis=1).tolist() == [3, 1, 0], "the empty caption has no tokens"
    assert tokenizer.vocabulary == 30_522
    padded = pad_tokens(tokens, 12)
    assert padded.ids.shape == padded.mask.shape == (3, 12) and padded.mask.sum() == 4


def test_a_folder_with_the_tokenizer_of_a_clip(tmp_path):
    """As the workdir of a CLIP has it. The name follows the content, wherever it lies."""
    folders = [tmp_path / name for name in ("one", "copy", "other")]
    for folder, size in zip(folders, (300, 300, 310), strict=True):
        folder.mkdir()
        (folder / "tokenizer.json").write_text(train_tokenizer(iter(CAPTIONS), size))
    one, copy, other = map(load_caption_tokenizer, map(str, folders))
    assert one.name == copy.name != other.name and (one.vocabulary, other.vocabulary) == (300, 310)
    tokens = one.read(CAPTIONS, 16)
    assert tokens.mask.sum(axis=1)[2] == 0 and tokens.ids.max() < 298, "neither mark is left"


def test_a_folder_with_openais_vocabulary_stands_for_it(tmp_path):
    """Such a folder is what an import of OpenAI's weights makes."""
    file = write_vocabulary(tmp_path)
    of_file, of_folder = map(load_caption_tokenizer, (str(file), str(tmp_path)))
    assert of_file.name == of_folder.name and of_file.vocabulary == of_folder.vocabulary
    of_training = open_tokenizer(str(tmp_path), (), tmp_path, of_file.vocabulary)
    assert of_training(CAPTIONS) == load_openai_vocabulary(file)(CAPTIONS)


def test_longer_captions_are_cut_with_one_warning(monkeypatch):
    said = []
    monkeypatch.setattr(logging, "warning", lambda text, *values: said.append(text % values))
    tokenizer = CaptionTokenizer("letters", 128, lambda captions: [[1, *map(ord, caption), 2] for caption in captions])
    for _ in range(2):
        tokens = tokenizer.read(["abcde", "ab", "abcd"], 3)
    assert tokens.ids.tolist() == [[97, 98, 99], [97, 98, 0], [97, 98, 99]]
    assert tokens.mask.sum(axis=1).tolist() == [3, 2, 3]
    assert len(said) == 1 and "abcde" in said[0]


@pytest.mark.parametrize("source", ["", "no/such/folder"])
def test_a_tokenizer_that_is_not_there_is_refused(source):
    with pytest.raises(UserError, match=r"text\.tokenizer"):
        load_caption_tokenizer(source)
