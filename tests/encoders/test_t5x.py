"""T5X checkpoints of small T5 models, held against the same models as Hugging Face lays them out."""

from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from flax.serialization import msgpack_restore, msgpack_serialize

from imagen_jax.encoders.encoder import load_text_encoder
from imagen_jax.encoders.t5 import T5Config
from imagen_jax.encoders.t5_files import derive_config, find_t5
from imagen_jax.errors import UserError
from imagen_jax.weights.t5x_folder import T5xFolder
from tests.reference.t5_folders import CONFIGS, write_t5_folder, write_t5x_folder
from tests.tiers import thorough_except

CAPTIONS = ["red apple", "a panda eating bamboo", ""]
QUERY = "target.encoder.layers_1.attention.query.kernel"


@pytest.fixture
def folder(tmp_path):
    return write_t5x_folder(tmp_path / "checkpoint_1000000")


@pytest.mark.parametrize("name", thorough_except(list(CONFIGS)[-1:], CONFIGS))
def test_the_encoder_is_that_of_the_hugging_face_folder(name, tmp_path):
    expected = load_text_encoder("t5", folder=write_t5_folder(tmp_path / "a", name), dtype="float32").encode(CAPTIONS)
    ours = load_text_encoder("t5", folder=write_t5x_folder(tmp_path / "b", name), dtype="float32").encode(CAPTIONS)
    np.testing.assert_array_equal(ours.embeddings, expected.embeddings)
    np.testing.assert_array_equal(ours.mask, expected.mask)


@pytest.mark.parametrize("name", CONFIGS)
def test_sizes_are_those_of_the_config_that_is_not_there(name, tmp_path):
    config = derive_config(T5xFolder(write_t5x_folder(tmp_path, name)))
    assert config == T5Config.read(write_t5_folder(tmp_path / "other", name) / "config.json")


def test_the_decoder_need_not_be_downloaded(folder):
    before = load_text_encoder("t5", folder=folder).encode(CAPTIONS)
    remove(folder / "target.decoder.logits_dense.kernel")
    np.testing.assert_array_equal(load_text_encoder("t5", folder=folder).encode(CAPTIONS).embeddings, before.embeddings)


def test_placeholders_of_orbax_point_to_the_same_folders(folder):
    before = load_text_encoder("t5", folder=folder).encode(CAPTIONS)
    rewrite(folder, {"query": {"kernel": f"PLACEHOLDER://{QUERY}"}})
    np.testing.assert_array_equal(load_text_encoder("t5", folder=folder).encode(CAPTIONS).embeddings, before.embeddings)


def test_a_pointer_to_elsewhere_is_not_followed(folder):
    """Else a checkpoint could have its reader open any file or address."""
    before = load_text_encoder("t5", folder=folder).encode(CAPTIONS)
    elsewhere = {"driver": "zarr", "kvstore": {"driver": "http", "base_url": "http://localhost:9"}}
    rewrite(folder, {"query": {"kernel": elsewhere}})
    np.testing.assert_array_equal(load_text_encoder("t5", folder=folder).encode(CAPTIONS).embeddings, before.embeddings)


def test_the_tokenizer_may_lie_elsewhere(folder, tmp_path):
    before = load_text_encoder("t5", folder=folder).encode(CAPTIONS)
    moved = (folder / "sentencepiece.model").rename(tmp_path / "cc_all.32000.model")
    after = load_text_encoder("t5", folder=folder, tokenizer=str(moved)).encode(CAPTIONS)
    np.testing.assert_array_equal(after.embeddings, before.embeddings)


def test_fingerprints_differ_between_weights_and_not_between_copies(folder, tmp_path):
    copy, other = write_t5x_folder(tmp_path / "copy"), write_t5x_folder(tmp_path / "other", seed=1)
    found = find_t5(folder).fingerprint
    assert find_t5(copy).fingerprint == found and find_t5(other).fingerprint != found


def remove(array: Path) -> None:
    for path in array.iterdir():
        path.unlink()
    array.rmdir()


def rewrite(folder: Path, attention: dict) -> None:
    """Changes what the file ``checkpoint`` says of one layer's attention."""
    tree = msgpack_restore((folder / "checkpoint").read_bytes())
    tree["optimizer"]["target"]["encoder"]["layers_1"]["attention"] |= attention
    (folder / "checkpoint").write_bytes(msgpack_serialize(tree))


def damage(folder: Path, how: str) -> None:
    checkpoint = folder / "checkpoint"
    match how:
        case "truncated msgpack":
            checkpoint.write_bytes(checkpoint.read_bytes()[:-100])
        case "another msgpack":
            checkpoint.write_bytes(msgpack_serialize({"params": {"kernel": np.ones(3)}}))
        case "TensorFlow":
            checkpoint.write_text('model_checkpoint_path: "model.ckpt-1000000"\n')
        case "missing array":
            remove(folder / QUERY)
        case "missing array that determines a size":
            remove(folder / "target.encoder.relpos_bias.rel_embedding")
        case "missing chunk":
            (folder / QUERY / "1.0").unlink()
        case "truncated chunk":
            chunk = folder / QUERY / "1.0"
            chunk.write_bytes(chunk.read_bytes()[:99])
        case "truncated metadata":
            (folder / QUERY / ".zarray").write_text("{")
        case "T5 of 2019":
            tree = msgpack_restore(checkpoint.read_bytes())
            perceptron = tree["optimizer"]["target"]["encoder"]["layers_0"]["mlp"]
            perceptron["wi"] = perceptron.pop("wi_0")
            checkpoint.write_bytes(msgpack_serialize(tree))
        case "no tokenizer":
            (folder / "sentencepiece.model").unlink()


@pytest.mark.parametrize(
    ("how", "facts"),
    [
        ("truncated msgpack", ("checkpoint",)),
        ("another msgpack", ("checkpoint", "optimizer")),
        ("TensorFlow", ("checkpoint", "TensorFlow", "T5X")),
        ("missing array", (QUERY,)),
        ("missing array that determines a size", ("target.encoder.relpos_bias.rel_embedding",)),
        ("missing chunk", (QUERY, "{1, 0}")),
        ("truncated chunk", (QUERY, "1.0")),
        ("truncated metadata", (QUERY, ".zarray")),
        ("T5 of 2019", ("target.encoder.layers_0.mlp.wi_0.kernel", "v1.1")),
        ("no tokenizer", ("spiece.model",)),
    ],
)
def test_damage_is_one_sentence_that_names_file_and_tensor(how, facts, folder):
    damage(folder, how)
    message = refuse(folder)
    assert all(fact in message for fact in facts), message
    assert "\n" not in message and "tensorstore_spec" not in message


@pytest.mark.parametrize(
    ("name", "tensor", "facts"),
    [
        (QUERY, np.ones((24, 39), np.float32), (QUERY, "(24, 39)", "(24, 40)")),
        (QUERY, np.ones((24, 40), np.uint16), (QUERY, "uint16", "version 3")),
        ("target.encoder.relpos_bias.rel_embedding", np.ones((7, 32), np.float32), (" 7 ", " 40")),
        ("target.encoder.relpos_bias.rel_embedding", np.ones(32, np.float32), ("rel_embedding", "(32,)")),
        ("target.encoder.layers_1.mlp.wi.kernel", np.eye(2), ("target.encoder.layers_1.mlp.wi.kernel",)),
    ],
)
def test_a_tensor_that_does_not_fit_is_named(name, tensor, facts, tmp_path):
    folder = write_t5x_folder(tmp_path, changes={name.removeprefix("target."): tensor})
    message = refuse(folder)
    assert all(fact in message for fact in facts), message


@pytest.mark.thorough
def test_any_byte_of_the_msgpack_may_be_damaged(folder):
    """It is refused in a sentence, or what it changes are numbers and names."""
    content = (folder / "checkpoint").read_bytes()
    for position in range(0, len(content), 13):
        (folder / "checkpoint").write_bytes(
            content[:position] + bytes([content[position] ^ 0x51]) + content[position + 1 :]
        )
        with suppress(UserError):
            tensors = T5xFolder(folder)
            for name in tensors:
                tensors.shape_of(name)


def refuse(folder: Path) -> str:
    """The one sentence with which the encoder of a folder refuses to encode."""
    with pytest.raises(UserError) as raised:
        load_text_encoder("t5", folder=folder).encode(["red apple"])
    return str(raised.value)
