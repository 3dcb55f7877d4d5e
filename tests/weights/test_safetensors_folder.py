"""Tensors mapped one by one, held against what the safetensors library reads."""

import json

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from imagen_jax.errors import UserError
from imagen_jax.weights.safetensors_folder import SafetensorsFolder

TYPES = ["?", "u1", "i1", "i2", "i4", "i8", "f2", "f4", "f8", ml_dtypes.bfloat16]


def test_every_type_and_shape_reads_as_the_library_reads_it(tmp_path):
    generator = np.random.default_rng(0)
    shapes = [(), (5,), (3, 7), (2, 3, 4, 5), (0, 4)]
    tensors = {
        f"{np.dtype(dtype).name}{shape}": np.asarray(100 * generator.random(shape)).astype(dtype)
        for dtype in TYPES
        for shape in shapes
    }
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    ours, theirs = SafetensorsFolder(tmp_path), load_file(tmp_path / "model.safetensors")
    assert set(ours) == set(theirs) and len(ours) == len(TYPES) * len(shapes)
    for name, tensor in theirs.items():
        assert ours[name].dtype == tensor.dtype and ours[name].shape == tensor.shape
        np.testing.assert_array_equal(ours[name], tensor)


def test_a_tensor_is_a_view_of_the_file_that_cannot_be_written_to(tmp_path):
    save_file({"a": np.ones(3, np.float32)}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="read-only"):
        SafetensorsFolder(tmp_path)["a"][0] = 2


def test_a_type_that_numpy_has_not_is_named(tmp_path):
    save_file({"a": np.ones(3, ml_dtypes.float8_e4m3fn)}, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match=r"\ba\b.*model\.safetensors .*'F8_E4M3'"):
        SafetensorsFolder(tmp_path)


def test_of_two_indexes_the_one_is_read_whose_shards_are_there(tmp_path):
    for variant, shard in (
        ("", "model-00001-of-00001.safetensors"),
        (".fp16", "model.fp16-00001-of-00001.safetensors"),
    ):
        index = {"weight_map": {"a": shard}}
        (tmp_path / f"model.safetensors.index{variant}.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match=r"model-00001-of-00001\.safetensors"):
        SafetensorsFolder(tmp_path)
    save_file({"a": np.ones(3, np.float16)}, tmp_path / "model.fp16-00001-of-00001.safetensors")
    assert SafetensorsFolder(tmp_path)["a"].dtype == np.float16


@pytest.mark.parametrize("shape", [[1] * 100 + [16], [0, 2**63]])
def test_a_shape_that_the_library_passes_and_no_array_has_is_refused(tmp_path, shape):
    size = 0 if 0 in shape else 64
    header = {"a": {"dtype": "F32", "shape": shape, "data_offsets": [0, size]}}
    content = json.dumps(header).encode()
    (tmp_path / "model.safetensors").write_bytes(len(content).to_bytes(8, "little") + content + bytes(size))
    with pytest.raises(UserError, match=r"model\.safetensors .*\ba\b"):
        SafetensorsFolder(tmp_path)


@pytest.mark.parametrize("shard", ["../x", "/x", "", "..", "x" * 300, "\ud800", 3, ["x"], {"a": 1}])
def test_an_index_that_names_no_file_beside_it_is_refused(tmp_path, shard):
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": shard}}))
    with pytest.raises(UserError, match=r"model\.safetensors\.index\.json"):
        SafetensorsFolder(tmp_path)


@pytest.mark.parametrize("content", [b"[" * 5000, b'{"weight_map": {"a": ' + b"[" * 500 + b"]" * 500 + b"}}"])
def test_a_deeply_nested_index_is_refused(tmp_path, content):
    (tmp_path / "model.safetensors.index.json").write_bytes(content)
    with pytest.raises(UserError, match=r"model\.safetensors\.index\.json"):
        SafetensorsFolder(tmp_path)
