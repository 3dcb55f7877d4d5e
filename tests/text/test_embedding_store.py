"""The store: what goes in comes out, once encoded is never encoded again, and damage is seen. No real encoder."""

import logging

import jax.numpy as jnp
import numpy as np
import pytest

from imagen_jax.array_types import Text
from imagen_jax.errors import UserError
from imagen_jax.text.embedding_store import EmbeddingStore

WIDTH = 16


class CountingEncoder:
    """Embeds each letter as its code over the whole width, and notes what it was asked for."""

    width, max_tokens = WIDTH, 32

    def __init__(self, name="counting"):
        self.name = name
        self.encoded = []

    def encode(self, captions, length=None):
        self.encoded += captions
        length = length or max(map(len, captions))
        codes = np.array([[ord(letter) for letter in caption.ljust(length, "\0")] for caption in captions])
        embeddings = np.repeat(codes[..., None], WIDTH, -1).astype(np.float32)
        return Text(jnp.asarray(embeddings), jnp.asarray(codes > 0))


def letters(text: Text) -> list[str]:
    codes = np.where(text.mask, text.embeddings[..., 0], 0).astype(int)
    return ["".join(map(chr, row)).rstrip("\0") for row in codes]


def test_round_trip(tmp_path):
    captions = ["panda", "red apple", "ox", "panda"]
    store = EmbeddingStore.build_or_open(tmp_path, captions, CountingEncoder())
    text = store.lookup(["ox", "panda", "red apple", "ox"], length=12)
    assert text.embeddings.shape == (4, 12, WIDTH) and text.embeddings.dtype == np.float32
    assert letters(text) == ["ox", "panda", "red apple", "ox"]
    assert not text.embeddings[~text.mask].any()
    assert store.captions == ("ox", "panda", "red apple")
    assert (store.encoder_name, store.width, store.longest) == ("counting", WIDTH, 9)


def test_embeddings_are_kept_to_bfloat16s_eight_bits(tmp_path):
    class RandomEncoder(CountingEncoder):
        def encode(self, captions, length=None):
            values = np.random.default_rng(0).normal(size=(len(captions), 3, WIDTH)).astype(np.float32)
            self.values = dict(zip(captions, values, strict=True))
            return Text(jnp.asarray(values), jnp.ones((len(captions), 3), bool))

    encoder = RandomEncoder()
    store = EmbeddingStore.build_or_open(tmp_path, ["a", "b"], encoder)
    for caption, values in encoder.values.items():
        np.testing.assert_allclose(store.lookup([caption], 3).embeddings[0], values, rtol=2**-8, atol=0)


def test_file_holds_tokens_without_padding_in_two_bytes_a_number(tmp_path):
    captions = ["x" * 30, *(f"{index:02d}" for index in range(100))]
    store = EmbeddingStore.build_or_open(tmp_path, captions, CountingEncoder())
    tokens = 30 + 100 * 2
    overhead = 4096
    assert tokens * WIDTH * 2 < store.path.stat().st_size < tokens * WIDTH * 2 + overhead
    assert [path.name for path in tmp_path.iterdir()] == [store.path.name]


def test_each_distinct_caption_is_encoded_once(tmp_path):
    encoder = CountingEncoder()
    EmbeddingStore.build_or_open(tmp_path, [f"caption {index % 150}" for index in range(400)], encoder)
    assert sorted(encoder.encoded) == sorted({f"caption {index}" for index in range(150)})


def test_complete_store_never_calls_the_encoder(tmp_path):
    EmbeddingStore.build_or_open(tmp_path, ["ox", "panda"], CountingEncoder())
    encoder = CountingEncoder()
    store = EmbeddingStore.build_or_open(tmp_path, ["panda", "ox", "ox"], encoder)
    assert letters(store.lookup(["panda"], 5)) == ["panda"] and encoder.encoded == []


def test_added_captions_alone_are_encoded(tmp_path):
    EmbeddingStore.build_or_open(tmp_path, ["ox", "panda"], CountingEncoder())
    EmbeddingStore.build_or_open(tmp_path, ["cat"], CountingEncoder())
    encoder = CountingEncoder()
    captions = ["ox", "panda", "cat", "red apple"]
    store = EmbeddingStore.build_or_open(tmp_path, captions, encoder)
    assert encoder.encoded == ["red apple"]
    assert letters(store.lookup(captions, 9)) == captions


def test_encoders_do_not_share_embeddings(tmp_path):
    first = EmbeddingStore.build_or_open(tmp_path, ["ox"], CountingEncoder("one"))
    encoder = CountingEncoder("one-more")
    second = EmbeddingStore.build_or_open(tmp_path, ["ox"], encoder)
    assert encoder.encoded == ["ox"] and first.path != second.path


def test_too_long_captions_lose_their_end_and_are_warned_of_once(tmp_path, caplog):
    store = EmbeddingStore.build_or_open(tmp_path, ["ox", "panda", "red apple"], CountingEncoder())
    with caplog.at_level(logging.WARNING, logger="absl"):
        assert letters(store.lookup(["red apple", "ox"], 3)) == ["red", "ox"]
        store.lookup(["panda"], 3)
        store.lookup(["panda"], 9)
    (message,) = [record.getMessage() for record in caplog.records]
    assert "2 of 3 captions have more than 3 tokens (up to 9)" in message


def test_unknown_caption_is_named(tmp_path):
    store = EmbeddingStore.build_or_open(tmp_path, ["ox"], CountingEncoder())
    with pytest.raises(UserError, match="has no caption 'yak'"):
        store.lookup(["ox", "yak"], 4)


@pytest.mark.parametrize("position", ["header", "captions", "tokens"])
def test_damaged_file_is_refused(tmp_path, position):
    path = EmbeddingStore.build_or_open(tmp_path, ["ox", "panda"], CountingEncoder()).path
    content = bytearray(path.read_bytes())
    place = {"header": 9, "captions": content.rindex(b"panda"), "tokens": len(content) - 5}[position]
    content[place] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match="delete it and it is built anew"):
        EmbeddingStore.build_or_open(tmp_path, ["ox", "panda"], CountingEncoder())


def test_file_cut_short_is_refused(tmp_path):
    path = EmbeddingStore.build_or_open(tmp_path, ["ox", "panda"], CountingEncoder()).path
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(UserError, match="no readable embedding store"):
        EmbeddingStore.open(path)


def test_folder_that_cannot_be_written_to_is_named(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match="cannot be written"):
        EmbeddingStore.build_or_open(tmp_path / "file" / "store", ["ox"], CountingEncoder())


def test_interrupted_encoding_leaves_no_store(tmp_path):
    class FailingEncoder(CountingEncoder):
        def encode(self, captions, length=None):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        EmbeddingStore.build_or_open(tmp_path, ["ox"], FailingEncoder())
    assert list(tmp_path.iterdir()) == []


def test_no_captions_are_refused(tmp_path):
    with pytest.raises(UserError, match="no captions"):
        EmbeddingStore.build_or_open(tmp_path, [], CountingEncoder())


def test_length_without_room_is_refused(tmp_path):
    store = EmbeddingStore.build_or_open(tmp_path, ["ox"], CountingEncoder())
    with pytest.raises(UserError, match="length of at least 1"):
        store.lookup(["ox"], 0)
