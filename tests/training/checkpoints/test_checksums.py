"""Fingerprints: NumPy, which knows no mesh, gets the same; and whatever changes in an array changes them."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from imagen_jax.sharding.mesh import make_mesh
from imagen_jax.training.checkpoints import checksums
from imagen_jax.training.checkpoints.checksums import fingerprints_of

ARRAYS = {
    "float32": np.random.default_rng(0).standard_normal((24, 16, 3)).astype(np.float32),
    "bfloat16": np.random.default_rng(1).standard_normal((8, 5)).astype(ml_dtypes.bfloat16),
    "int32": np.arange(-50, 50, dtype=np.int32),
    "uint8": np.arange(256, dtype=np.uint8).reshape(4, 64),
    "bool": np.array([True, False, True]),
    "complex64": np.array([1 + 2j, 3 - 4j], np.complex64),
    "scalar": np.array(3, np.int32),
    "empty": np.zeros((0, 3), np.float32),
}


@pytest.fixture(autouse=True, params=["by NumPy", "where it lies"])
def way(request, monkeypatch):
    """Small arrays are summed by NumPy, and larger ones where they lie."""
    if request.param == "where it lies":
        monkeypatch.setattr(checksums, "SMALL", -1)


def mixed(word):
    """Murmur3's finalizer, in whole numbers as large as they get, cut to 32 bits."""
    word ^= word >> 16
    word = word * 0x85EBCA6B % 2**32
    word ^= word >> 13
    word = word * 0xC2B2AE35 % 2**32
    return word ^ word >> 16


def expected(array):
    """The statement in Python's numbers, one by one."""
    if array.dtype == bool:
        array = array.astype(np.uint8)
    width = min(array.dtype.itemsize, 4)
    words = np.frombuffer(array.tobytes(), f"<u{width}").tolist()
    sums = (
        sum(mixed(word ^ mixed((place * 0x9E3779B9 + salt) % 2**32)) for place, word in enumerate(words)) % 2**32
        for salt in (0x243F6A88, 0x85A308D3)
    )
    return "".join(f"{one:08x}" for one in sums)


@pytest.mark.parametrize("name", ARRAYS)
def test_a_fingerprint_is_what_python_computes(name):
    assert fingerprints_of({"x": jnp.asarray(ARRAYS[name])}) == {"x": expected(ARRAYS[name])}


def test_an_array_of_numpy_counts_as_what_jax_stores_of_it():
    doubles = np.random.default_rng(3).standard_normal((4, 5))
    assert fingerprints_of({"x": doubles}) == {"x": expected(doubles.astype(np.float32))}


@pytest.mark.parametrize("axes", [{"data": 8}, {"data": 4, "fsdp": 2}, {"data": 1, "fsdp": 8}])
@pytest.mark.parametrize("spec", [("data",), ("fsdp",), (("data", "fsdp"),), (None, "fsdp")])
def test_it_does_not_depend_on_where_the_array_lies(axes, spec):
    mesh = make_mesh({"data": 1, "fsdp": 1, **axes})
    placed = jax.device_put(ARRAYS["float32"], NamedSharding(mesh, PartitionSpec(*spec)))
    assert fingerprints_of({"x": placed}) == {"x": expected(ARRAYS["float32"])}


def test_a_key_counts_with_its_numbers():
    key = jax.random.key(7)
    assert fingerprints_of({"key": key}) == {"key": expected(np.asarray(jax.random.key_data(key)))}


def flip(array, *places, bit=31):
    bits = array.view(np.uint32).copy()
    for place in places:
        bits.reshape(-1)[place] ^= np.uint32(1 << bit)
    return bits.view(np.float32)


def swap(array, one, other):
    swapped = array.copy().reshape(-1)
    swapped[[one, other]] = swapped[[other, one]]
    return swapped.reshape(array.shape)


CHANGES = {
    "a bit": lambda array: flip(array, 100, bit=0),
    "two signs": lambda array: flip(array, 3, 5),
    "all signs": lambda array: -array,
    "two places": lambda array: swap(array, 3, 4),
    "two rows": lambda array: array[[1, 0, *range(2, len(array))]],
    "a zero for a number": lambda array: array * (np.arange(array.size).reshape(array.shape) != 9),
    "all zeros": np.zeros_like,
}


@pytest.mark.parametrize("change", CHANGES)
def test_each_half_sees_a_change(change):
    array = ARRAYS["float32"]
    before, after = (fingerprints_of({"x": jnp.asarray(one)})["x"] for one in (array, CHANGES[change](array)))
    assert before[:8] != after[:8] and before[8:] != after[8:]
