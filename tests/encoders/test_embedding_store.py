"""The store: what goes in comes out, once encoded is never encoded again, and damage is seen. No real encoder."""

import json
import logging
import os
import re
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from imagen_jax.array_types import Text
from imagen_jax.encoders import embedding_store
from imagen_jax.encoders.embedding_bucket import open_bucket
from imagen_jax.encoders.embedding_layer import open_layer, recall, remember
from imagen_jax.encoders.embedding_store import ComputedEmbeddings, EmbeddingStore, build_layer, pad_text
from imagen_jax.errors import UserError

WIDTH = 16


class CountingEncoder:
    """Embeds each letter as its code over the whole width, and records the captions that it encodes."""

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
    assert text.embeddings.shape == (4, 12, WIDTH) and text.embeddings.dtype == ml_dtypes.bfloat16
    assert letters(text) == ["ox", "panda", "red apple", "ox"]
    assert not text.embeddings[~text.mask].any()
    assert (store.encoder_name, store.width) == ("counting", WIDTH)
    (layer,) = store.layers
    assert (layer.captions, layer.lengths) == (3, {2: 1, 5: 1, 9: 1})


def test_a_batch_is_as_long_as_its_longest_caption_needs_and_padded_to_the_requested_length(tmp_path):
    captions = ["ox", "a red panda", "x" * 17, "y" * 30]
    store = EmbeddingStore.build_or_open(tmp_path, captions, CountingEncoder())
    for chosen, length, tokens in ((["ox"], 30, 8), (captions[:2], 30, 16), (captions[:2], 12, 12), (captions, 20, 20)):
        short = store.lookup(chosen, length)
        assert short.embeddings.shape == (len(chosen), tokens, WIDTH) and short.mask.shape == (len(chosen), tokens)
        text = pad_text(short, length)
        assert text.embeddings.shape == (len(chosen), length, WIDTH) and text.embeddings.dtype == np.float32
        assert letters(text) == [caption[:length] for caption in chosen]
        assert not text.embeddings[~text.mask].any()


def test_a_file_that_is_truncated_while_it_is_open_is_named(tmp_path):
    store = EmbeddingStore.build_or_open(tmp_path, ["ox", "panda"], CountingEncoder())
    found = [store.find(caption) for caption in ("ox", "panda")]
    (path,) = files_of(store)
    os.truncate(path, path.stat().st_size - 8)
    (last,) = [one for one in found if one.first]
    with pytest.raises(UserError, match=path.name):
        last.read(np.zeros((last.tokens, WIDTH), ml_dtypes.bfloat16))


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


def files_of(store):
    return [layer.folder / name for layer in store.layers for name, _ in layer.files]


def test_file_holds_tokens_without_padding_in_two_bytes_a_number(tmp_path):
    captions = ["x" * 30, *(f"{index:02d}" for index in range(100))]
    store = EmbeddingStore.build_or_open(tmp_path, captions, CountingEncoder())
    tokens = 30 + 100 * 2
    overhead = 4096
    (file,) = files_of(store)
    assert tokens * WIDTH * 2 < file.stat().st_size < tokens * WIDTH * 2 + overhead
    assert sorted(path.name for path in file.parent.iterdir()) == ["00000.json", "00000.safetensors", "store.json"]


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
    assert encoder.encoded == ["ox"] and first.name != second.name


def test_too_long_captions_lose_their_end_and_are_warned_of_once(tmp_path, caplog):
    store = EmbeddingStore.build_or_open(tmp_path, ["ox", "panda", "red apple"], CountingEncoder())
    with caplog.at_level(logging.WARNING, logger="absl"):
        assert letters(store.lookup(["red apple", "ox"], 3)) == ["red", "ox"]
        store.lookup(["panda"], 3)
        store.lookup(["panda"], 9)
    (message,) = [record.getMessage() for record in caplog.records]
    assert re.findall(r"\d+", message) == ["2", "3", "3", "9"], "how many of how many exceed which length; the max"


def test_unknown_caption_is_named(tmp_path):
    store = EmbeddingStore.build_or_open(tmp_path, ["ox"], CountingEncoder())
    with pytest.raises(UserError, match="'yak'"):
        store.lookup(["ox", "yak"], 4)


@pytest.mark.parametrize("position", [9, 0.5, -5])
def test_damaged_file_is_refused(tmp_path, position):
    (path,) = files_of(EmbeddingStore.build_or_open(tmp_path, ["ox", "panda"], CountingEncoder()))
    content = bytearray(path.read_bytes())
    content[int(len(content) * position) if isinstance(position, float) else position] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match=re.escape(str(path.parent))):
        EmbeddingStore.build_or_open(tmp_path, ["ox", "panda"], CountingEncoder())


def test_a_truncated_file_is_refused(tmp_path):
    (path,) = files_of(EmbeddingStore.build_or_open(tmp_path, ["ox", "panda"], CountingEncoder()))
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(UserError, match=path.name):
        open_layer(path.parent)
    with pytest.raises(UserError, match=path.name):
        open_bucket(path)


def test_folder_that_cannot_be_written_to_is_named(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match=re.escape(str(tmp_path / "file" / "store"))):
        EmbeddingStore.build_or_open(tmp_path / "file" / "store", ["ox"], CountingEncoder())


class InterruptedEncoder(CountingEncoder):
    """Is interrupted after a number of batches."""

    def __init__(self, batches):
        super().__init__()
        self.batches = batches

    def encode(self, captions, length=None):
        if not self.batches:
            raise KeyboardInterrupt
        self.batches -= 1
        return super().encode(captions, length)


def content_of(folder):
    return {file.relative_to(folder): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_an_interrupted_run_continues_at_the_bucket_and_the_files_are_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(embedding_store, "BUCKET_CAPTIONS", 50)
    captions = [f"caption {index}" for index in range(300)]
    whole = EmbeddingStore.build_or_open(tmp_path / "whole", captions, CountingEncoder())
    assert len(files_of(whole)) == 6
    with pytest.raises(KeyboardInterrupt):
        EmbeddingStore.build_or_open(tmp_path / "interrupted", captions, InterruptedEncoder(3))
    assert not list((tmp_path / "interrupted").rglob("store.json"))
    encoder = CountingEncoder()
    resumed = EmbeddingStore.build_or_open(tmp_path / "interrupted", captions, encoder)
    assert 100 < len(encoder.encoded) < 250, "some buckets were there"
    assert content_of(tmp_path / "interrupted") == content_of(tmp_path / "whole")
    assert letters(resumed.lookup(captions[::37], 12)) == captions[::37] and resumed.name == whole.name


def test_processes_share_the_buckets_and_make_the_same_files(tmp_path, monkeypatch):
    monkeypatch.setattr(embedding_store, "BUCKET_CAPTIONS", 50)
    captions = [f"caption {index % 200}" for index in range(300)]
    whole = build_layer(tmp_path / "whole", lambda: captions, CountingEncoder())
    encoders = [CountingEncoder(), CountingEncoder()]
    barrier = threading.Barrier(2)
    with ThreadPoolExecutor(2) as pool:
        layers = list(
            pool.map(
                lambda index: build_layer(
                    tmp_path / "shared", lambda: captions, encoders[index], share=(index, 2), barrier=barrier.wait
                ),
                range(2),
            )
        )
    assert all(encoder.encoded for encoder in encoders)
    assert sorted(encoders[0].encoded + encoders[1].encoded) == sorted(set(captions)), "each once"
    assert content_of(tmp_path / "shared") == content_of(tmp_path / "whole")
    assert layers[0].folder.name == whole.folder.name


def test_what_has_all_captions_of_a_data_set_is_remembered(tmp_path):
    layer = build_layer(tmp_path, lambda: ["ox", "panda"], CountingEncoder())
    assert recall(tmp_path, "data") is None
    remember(tmp_path, "data", layer)
    encoder = CountingEncoder()
    store = EmbeddingStore.build_or_open(
        tmp_path.parent, [], CountingEncoder(tmp_path.name), also=[recall(tmp_path, "data")]
    )
    assert letters(store.lookup(["panda"], 5)) == ["panda"] and encoder.encoded == []
    shutil.rmtree(layer.folder)
    assert recall(tmp_path, "data") is None, "so that the next run rebuilds it"


def test_a_missing_bucket_of_another_host_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(embedding_store, "BUCKET_CAPTIONS", 2)
    captions = ["ox", "panda", "yak", "cat", "hen"]
    with pytest.raises(UserError, match=r"00001\.json"):
        build_layer(tmp_path, lambda: captions, CountingEncoder(), share=(0, 2))


def test_computed_embeddings_are_the_stored_ones(tmp_path):
    captions = ["ox", "panda", "red apple"]
    stored = EmbeddingStore.build_or_open(tmp_path, captions, CountingEncoder()).lookup(captions, 4)
    for length in (4, 12):
        stored = EmbeddingStore.build_or_open(tmp_path, captions, CountingEncoder()).lookup(captions, length)
        computed = ComputedEmbeddings(CountingEncoder()).lookup(captions, length)
        np.testing.assert_array_equal(computed.embeddings, stored.embeddings)
        np.testing.assert_array_equal(computed.mask, stored.mask)


def test_no_captions_are_refused(tmp_path):
    with pytest.raises(UserError):
        EmbeddingStore.build_or_open(tmp_path, [], CountingEncoder())


def test_length_without_room_is_refused(tmp_path):
    store = EmbeddingStore.build_or_open(tmp_path, ["ox"], CountingEncoder())
    with pytest.raises(UserError, match=r"\b0 tokens"):
        store.lookup(["ox"], 0)


@pytest.mark.parametrize(
    "note", [b"[1]", b'{"layer": true}', b'{"layer": "../x"}', b"\xff", b'{"layer": "' + b"x" * 999 + b'"}']
)
def test_a_note_that_names_no_layer_is_an_error(tmp_path, note):
    (tmp_path / "data.json").write_bytes(note)
    with pytest.raises(UserError, match=r"data\.json"):
        recall(tmp_path, "data")


@pytest.mark.parametrize("change", [{"width": "16"}, {"captions": None}, {"lengths": {"2": "1"}}, {"buckets": []}])
def test_a_layer_whose_counts_are_invalid_is_an_error(tmp_path, change):
    (layer,) = EmbeddingStore.build_or_open(tmp_path, ["ox"], CountingEncoder()).layers
    description = json.loads((layer.folder / "store.json").read_text())
    (layer.folder / "store.json").write_text(json.dumps(description | change))
    with pytest.raises(UserError, match=layer.folder.name):
        open_layer(layer.folder)


def test_a_layer_of_another_width_is_an_error(tmp_path):
    (layer,) = EmbeddingStore.build_or_open(tmp_path, ["ox"], CountingEncoder()).layers
    with pytest.raises(UserError, match=r"\b16\b.*\b8\b"):
        EmbeddingStore("counting", 8, (replace(layer, width=8),)).lookup(["ox"], 4)


@pytest.mark.parametrize("name", ["high", "low", "offsets", "tokens"])
def test_a_bucket_whose_tensors_do_not_fit_is_an_error(tmp_path, name):
    high, low = np.zeros((2, 2), np.uint64)
    whole = {"high": high, "low": low, "offsets": np.array([0, 1, 3]), "tokens": np.zeros((3, 4), ml_dtypes.bfloat16)}
    file = tmp_path / "00000.safetensors"
    save_file(whole, file)
    assert open_bucket(file).width == 4
    save_file(whole | {name: np.concatenate([whole[name], whole[name][:1]])}, file)
    with pytest.raises(UserError, match=file.name):
        open_bucket(file)
    save_file(whole | {"offsets": np.array([0, 4, 3])}, file)
    with pytest.raises(UserError, match=rf"{file.name}.*offsets"):
        open_bucket(file)
