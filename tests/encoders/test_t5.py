"""Small T5 models with random weights, held against what transformers makes of the same files."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file

from imagen_jax.data.tokenizer import ONE_TOKEN
from imagen_jax.encoders.embedding_store import EmbeddingStore
from imagen_jax.encoders.encoder import load_text_encoder
from imagen_jax.encoders.t5 import SIZES, T5Config, T5Encoder, relative_position_buckets
from imagen_jax.encoders.t5_files import read_config
from imagen_jax.encoders.t5_weights import import_t5_weights
from imagen_jax.errors import UserError
from imagen_jax.weights.named_tensors import parameter_shapes
from imagen_jax.weights.places import place_sharded
from imagen_jax.weights.safetensors_folder import SafetensorsFolder
from tests.reference.make_t5_reference import GOLDEN, LENGTHS, MAX_OFFSET, make_ids
from tests.reference.t5_folders import (
    CONFIGS,
    make_tensors,
    settings_of,
    write_t5_folder,
    write_tensors,
    write_tokenizer,
)
from tests.tiers import thorough_except


@pytest.fixture(scope="module")
def golden():
    return dict(np.load(GOLDEN))


@pytest.fixture
def folder(tmp_path):
    return write_t5_folder(tmp_path / "t5")


def load_hidden(folder: Path, ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Last hidden states in full float32."""
    config = read_config(folder)
    params = import_t5_weights(SafetensorsFolder(folder), config)
    with jax.default_matmul_precision("highest"):
        return np.asarray(T5Encoder(config).apply({"params": params}, jnp.asarray(ids), jnp.asarray(mask)))


@pytest.mark.parametrize("kind", thorough_except(["padded"], LENGTHS))
@pytest.mark.parametrize("name", CONFIGS)
def test_hidden_states_are_those_of_transformers(name, kind, golden, tmp_path):
    ids, mask = make_ids(name, LENGTHS[kind])
    ours = load_hidden(write_t5_folder(tmp_path, name, shards=3), ids, mask)
    np.testing.assert_allclose(ours[mask], golden[f"{name}/{kind}"][mask], rtol=0, atol=2e-5)


@pytest.mark.parametrize("buckets", [16, 32])
def test_buckets_are_those_of_transformers_at_every_edge(buckets, golden):
    table = relative_position_buckets(MAX_OFFSET + 1, MAX_OFFSET + 1, buckets, 128)
    # From the last key back to the first for the last query, then on for the first query.
    ours = np.concatenate([table[-1], table[0, 1:]])
    assert np.array_equal(ours, golden[f"buckets/{buckets}"])


@pytest.mark.parametrize("sizes", [["small", "xxl"], pytest.param([*SIZES], marks=pytest.mark.thorough)])
def test_the_published_sizes_have_the_published_numbers_of_parameters(sizes):
    """T5 v1.1 XXL is called an 11B model; its encoder is 4.76B (Imagen, section 2.1: 4.6B without the embedding)."""
    counts = {
        name: sum(int(np.prod(leaf.shape)) for leaf in parameter_shapes(T5Encoder(config).init, *ONE_TOKEN).values())
        for name, config in SIZES.items()
        if name in sizes
    }
    embedding = 32128 * 4096
    assert round(counts["xxl"] / 1e9, 2) == 4.76 and round((counts["xxl"] - embedding) / 1e9, 1) == 4.6
    assert list(counts.values()) == sorted(counts.values())


@pytest.mark.thorough
def test_bfloat16_weights_stay_near_float32_and_norms_stay_float32(folder):
    encoder = load_text_encoder("t5", folder=folder)
    full = load_text_encoder("t5", folder=folder, dtype="float32").encode(["red apple"])
    half = encoder.encode(["red apple"])
    assert half.embeddings.dtype == jnp.float32
    np.testing.assert_allclose(half.embeddings, full.embeddings, atol=0.15)
    params = encoder.parts.parameters
    assert params["layer_0_attention"]["query"]["kernel"].dtype == jnp.bfloat16
    assert params["final_norm"]["scale"].dtype == params["position_bias"]["embedding"].dtype == jnp.float32


def test_weights_stored_in_bfloat16_are_read(folder):
    tensors = {name: tensor.astype(ml_dtypes.bfloat16) for name, tensor in make_tensors("narrow").items()}
    write_tensors(folder, tensors)
    params = import_t5_weights(SafetensorsFolder(folder), read_config(folder))
    expected = tensors["encoder.final_layer_norm.weight"].astype(np.float32)
    np.testing.assert_array_equal(params["final_norm"]["scale"], expected)


def test_a_caption_ends_with_eos_and_begins_with_nothing(folder):
    encoder = load_text_encoder("t5", folder=folder, dtype="float32")
    (ids, empty) = encoder.tokenize(["red apple", ""], 128)
    assert ids[-1] == 1 and 0 not in ids and ids.count(1) == 1 and empty == [1]
    text = encoder.encode(["red apple", ""], length=9)
    assert text.embeddings.shape == (2, 9, 24)
    assert text.mask.sum(axis=1).tolist() == [len(ids), 1] and not np.any(text.embeddings[1, 1:])


@pytest.mark.thorough
def test_whole_models_bring_a_decoder_that_is_passed_over(folder):
    extra = {"decoder.final_layer_norm.weight": np.ones(24, np.float32), "lm_head.weight": np.ones((9, 24), np.float32)}
    before = load_hidden(folder, *make_ids("narrow", (7,)))
    write_tensors(folder, make_tensors("narrow") | extra)
    assert np.array_equal(load_hidden(folder, *make_ids("narrow", (7,))), before)


def test_an_encoder_alone_may_call_its_embedding_its_own(folder):
    before = load_hidden(folder, *make_ids("narrow", (7,)))
    tensors = make_tensors("narrow")
    tensors["encoder.embed_tokens.weight"] = tensors.pop("shared.weight")
    write_tensors(folder, tensors)
    assert np.array_equal(load_hidden(folder, *make_ids("narrow", (7,))), before)


def test_a_tensor_is_placed_before_the_next_is_read(folder):
    """What lets XXL load into little more memory than its weights."""
    events = []

    class Watched(SafetensorsFolder):
        def __getitem__(self, name):
            events.append("read")
            return super().__getitem__(name)

    def place(path, array):
        events.append("placed")
        return array

    import_t5_weights(Watched(folder), read_config(folder), place=place)
    parameters = len(make_tensors("narrow"))
    # The type check that runs in tests looks into the mapping before and after.
    assert "read placed " * parameters in " ".join([*events, ""])


@pytest.mark.parametrize("dtype", thorough_except(["bfloat16"], ["float32", "bfloat16"]))
def test_a_mesh_holds_each_kernel_once_and_encodes_the_same(dtype, folder):
    mesh = jax.make_mesh((8,), ("devices",))
    whole = load_text_encoder("t5", folder=folder, dtype=dtype)
    sharded = load_text_encoder("t5", folder=folder, dtype=dtype, place=place_sharded(mesh))
    kernels = [leaf for leaf in jax.tree.leaves(sharded.parts.parameters) if leaf.ndim == 2]
    assert len(kernels) == 3 * 7 + 2
    for kernel in kernels:
        assert {shard.data.size for shard in kernel.addressable_shards} == {kernel.size // 8}
        assert len({shard.device for shard in kernel.addressable_shards}) == 8
    captions = ["red apple", "a panda eating bamboo"]
    tolerance = {"float32": 2e-5, "bfloat16": 0.15}[dtype]
    np.testing.assert_allclose(
        sharded.encode(captions).embeddings, whole.encode(captions).embeddings, rtol=0, atol=tolerance
    )


def test_small_letters_alone_are_read(folder):
    exact = load_text_encoder("t5", folder=folder)
    small = load_text_encoder("t5", folder=folder, lowercase=True)
    assert small.tokenize(["  Red APPLE\n"], 128) == exact.tokenize(["red apple"], 128)
    assert exact.tokenize(["Red APPLE"], 128) != exact.tokenize(["red apple"], 128)


def test_padding_that_is_encoded_is_what_the_network_makes_of_padded_ids(folder):
    encoder = load_text_encoder("t5", folder=folder, dtype="float32", max_tokens=77, encode_padding=True)
    text = encoder.encode(["red apple", ""])
    assert text.embeddings.shape == (2, 77, 24) and np.all(text.mask)
    (short, empty) = load_text_encoder("t5", folder=folder).tokenize(["red apple", ""], 77)
    ids = np.asarray([short + [0] * (77 - len(short)), empty + [0] * 76], np.int32)
    np.testing.assert_allclose(text.embeddings, load_hidden(folder, ids, ids != 0), rtol=0, atol=1e-5)


def test_padding_that_is_encoded_leaves_a_long_caption_its_end(folder):
    encoder = load_text_encoder("t5", folder=folder, max_tokens=8, encode_padding=True)
    (ids,) = encoder.tokenize(["red apple " * 9], 8)
    assert len(ids) == 8 and ids[-1] == 1 and 0 not in ids


def test_padding_that_is_encoded_is_kept_in_a_store(folder, tmp_path):
    encoder = load_text_encoder("t5", folder=folder, max_tokens=12, encode_padding=True)
    store = EmbeddingStore.build_or_open(tmp_path / "store", ["red apple", ""], encoder)
    text = store.lookup(["red apple", ""], 12)
    assert text.mask.all()
    np.testing.assert_allclose(text.embeddings, encoder.encode(["red apple", ""]).embeddings, rtol=1e-2)


def test_names_depend_on_weights_and_settings(folder, tmp_path):
    other = write_t5_folder(tmp_path / "other", seed=1)
    copy = write_t5_folder(tmp_path / "copy")
    options = [{}, {"dtype": "float32"}, {"max_tokens": 77}, {"lowercase": True}, {"encode_padding": True}]
    options.append({"lowercase": True, "encode_padding": True})
    names = [load_text_encoder("t5", folder=folder, **one).name for one in options]
    assert len({*names, load_text_encoder("t5", folder=other).name}) == 7
    assert load_text_encoder("t5", folder=copy).name == names[0]


def damage(folder: Path, how: str) -> None:
    tensors = load_file(folder / "model.safetensors")
    weights = folder / "model.safetensors"
    query = "encoder.block.1.layer.0.SelfAttention.q.weight"
    match how:
        case "truncated":
            weights.write_bytes(weights.read_bytes()[:-100])
        case "no weights":
            weights.unlink()
        case "pickle":
            weights.rename(folder / "pytorch_model.bin")
        case "renamed tensor":
            tensors["encoder.block.1.layer.0.SelfAttention.query.weight"] = tensors.pop(query)
            write_tensors(folder, tensors)
        case "wrong shape":
            write_tensors(folder, tensors | {query: tensors[query][:-1]})
        case "missing shard":
            weights.unlink()
            write_tensors(folder, tensors, shards=3)
            (folder / "model-00002-of-00003.safetensors").unlink()
        case "shard of another model":
            weights.unlink()
            write_tensors(folder, tensors, shards=2)
            write_tensors(folder / "..", {"else": np.ones(2, np.float32)})
            (folder / ".." / "model.safetensors").rename(folder / "model-00002-of-00002.safetensors")
        case "index that points outside":
            weights.rename(folder.parent / "elsewhere.safetensors")
            (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../elsewhere.safetensors"}}')
        case "no tokenizer":
            (folder / "spiece.model").unlink()
        case "damaged tokenizer":
            (folder / "spiece.model").write_bytes(b"no sentencepiece")
        case "tokenizer of other conventions":
            write_tokenizer(folder / "spiece.model", pad_id=3)
        case "no config":
            (folder / "config.json").unlink()
        case "T5 of 2019":
            config = (folder / "config.json").read_text().replace("gated-gelu", "relu")
            (folder / "config.json").write_text(config)


@pytest.mark.parametrize(
    ("how", "facts"),
    [
        ("truncated", ("model.safetensors",)),
        ("no weights", ("model.safetensors",)),
        ("pickle", ("pytorch_model.bin",)),
        ("renamed tensor", ("encoder.block.1.layer.0.SelfAttention.q.weight", "SelfAttention.query.weight")),
        ("wrong shape", ("encoder.block.1.layer.0.SelfAttention.q.weight", "(39, 24)", "(24, 40)")),
        ("missing shard", ("model-00002-of-00003.safetensors",)),
        ("shard of another model", ("model-00002-of-00002.safetensors",)),
        ("index that points outside", ("elsewhere.safetensors",)),
        ("no tokenizer", ("spiece.model",)),
        ("damaged tokenizer", ("spiece.model",)),
        ("tokenizer of other conventions", ("spiece.model", "0 and 1")),
        ("no config", ("config.json",)),
        ("T5 of 2019", ("feed_forward_proj", "gated-gelu")),
    ],
)
def test_damage_is_one_sentence_that_names_file_and_tensor(how, facts, folder):
    damage(folder, how)
    with pytest.raises(UserError) as raised:
        load_text_encoder("t5", folder=folder).encode(["red apple"])
    for fact in facts:
        assert fact in str(raised.value)


def test_a_missing_folder_names_the_flag_and_the_weights():
    with pytest.raises(UserError, match=r"config\.text\.options\.folder=.*t5-v1_1-xxl"):
        load_text_encoder("t5")


@pytest.mark.parametrize("text", ["{}", "[]", "{", '{"model_type": "t5", "feed_forward_proj": "gated-gelu"}'])
def test_an_invalid_config_is_an_error(text, tmp_path):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(UserError, match=r"config\.json"):
        T5Config.read(tmp_path / "config.json")


@pytest.mark.parametrize(
    ("key", "value"), [("num_layers", "2"), ("d_kv", None), ("layer_norm_epsilon", 0), ("d_ff", 1.5)]
)
def test_an_invalid_size_is_named(key, value, folder):
    settings = settings_of("narrow") | {key: value}
    (folder / "config.json").write_text(json.dumps(settings))
    with pytest.raises(UserError, match=rf"config\.json has {key}="):
        load_text_encoder("t5", folder=folder)


def test_the_tokenizer_may_lie_beside_the_folder_as_diffusers_has_it(tmp_path):
    inside = write_t5_folder(tmp_path / "inside")
    beside = write_t5_folder(tmp_path / "text_encoder")
    (tmp_path / "tokenizer").mkdir()
    (beside / "spiece.model").rename(tmp_path / "tokenizer" / "spiece.model")
    texts = [load_text_encoder("t5", folder=folder).encode(["red apple"]) for folder in (inside, beside)]
    np.testing.assert_array_equal(texts[0].embeddings, texts[1].embeddings)
