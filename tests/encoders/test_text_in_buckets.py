"""Text encoders and embeddings in a bucket: the same numbers as from a disk, and no more bytes than needed."""

import shutil

import jax
import numpy as np
import pytest

from imagen_jax.encoders.embedding_store import EmbeddingStore
from imagen_jax.encoders.encoder import load_text_encoder
from imagen_jax.encoders.minilm import find_folder
from imagen_jax.errors import UserError
from tests.encoders.test_embedding_store import CountingEncoder, letters
from tests.reference.t5_folders import write_t5_folder, write_t5x_folder
from tests.storage.uploads import upload

CAPTIONS = ["red apple", "a panda eating bamboo"]


def assert_same_parts(ours, theirs):
    assert ours.parts.tokenize(CAPTIONS) == theirs.parts.tokenize(CAPTIONS)
    assert jax.tree.structure(ours.parts.parameters) == jax.tree.structure(theirs.parts.parameters)
    leaves = zip(jax.tree.leaves(ours.parts.parameters), jax.tree.leaves(theirs.parts.parameters), strict=True)
    assert all(np.array_equal(one, other) for one, other in leaves)


@pytest.mark.parametrize(
    "write",
    [
        pytest.param(write_t5_folder, marks=pytest.mark.thorough),
        lambda folder: write_t5_folder(folder, shards=3),
        pytest.param(write_t5x_folder, marks=pytest.mark.thorough),
    ],
)
def test_t5_is_the_same_from_a_bucket(write, tmp_path, bucket, fake_buckets):
    here = write(tmp_path / "t5")
    there = upload(here, bucket / "models" / "t5")
    (there / "pytorch_model.bin").write_bytes(b"never read")
    ours = load_text_encoder("t5", folder=str(here), dtype="float32")
    fake_buckets.log.clear()
    theirs = load_text_encoder("t5", folder=str(there), dtype="float32")
    assert theirs.name == ours.name, "embeddings that were made from the disk serve the bucket too"
    assert_same_parts(ours, theirs)
    assert not [line for line in fake_buckets.log if "pytorch_model" in line and "GET /storage" not in line]


def test_a_file_of_t5_that_is_missing_is_named(tmp_path, bucket):
    there = upload(write_t5_folder(tmp_path / "t5"), bucket / "t5")
    (there / "spiece.model").unlink()
    with pytest.raises(UserError, match=f"{there}/spiece.model"):
        load_text_encoder("t5", folder=str(there))


def test_minilm_is_the_same_from_a_bucket(tmp_path, bucket):
    shutil.copytree(find_folder(), tmp_path / "minilm")
    there = upload(tmp_path / "minilm", bucket / "minilm")
    ours, theirs = load_text_encoder("minilm"), load_text_encoder("minilm", folder=str(there))
    assert_same_parts(ours, theirs)


def test_embeddings_are_kept_in_the_bucket(bucket, fake_buckets, tmp_path, monkeypatch):
    folder = bucket / "data" / "embeddings"
    store = EmbeddingStore.build_or_open(str(folder), ["ox", "panda"], CountingEncoder())
    assert letters(store.lookup(["panda", "ox"], 5)) == ["panda", "ox"]
    (layer,) = store.layers
    assert sorted(path.name for path in layer.folder.iterdir()) == ["00000.json", "00000.safetensors", "store.json"]
    # Another machine opens it, and embeds what is new.
    monkeypatch.setenv("IMAGEN_JAX_CACHE", str(tmp_path / "other_cache"))
    encoder = CountingEncoder()
    assert letters(EmbeddingStore.build_or_open(folder, ["ox", "panda"], encoder).lookup(["ox"], 2)) == ["ox"]
    more = EmbeddingStore.build_or_open(folder, ["ox", "panda", "yak"], encoder)
    assert encoder.encoded == ["yak"] and letters(more.lookup(["panda", "yak"], 5)) == ["panda", "yak"]


def test_a_bucket_that_takes_no_embeddings_costs_no_encoding(bucket, fake_buckets):
    fake_buckets.denied.add("embeddings")
    encoder = CountingEncoder()
    with pytest.raises(UserError, match=str(bucket / "embeddings")):
        EmbeddingStore.build_or_open(bucket / "embeddings", ["ox"], encoder)
    assert encoder.encoded == []
