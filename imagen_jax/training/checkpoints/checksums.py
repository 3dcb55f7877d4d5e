"""Fingerprints of arrays: 64 bits that change with any number in the array.

    array -> its bits as 32-bit words -> each mixed with its index -> summed, twice

Large arrays are summed on the devices where they are. Small ones are summed by NumPy, because JAX would compile a
program for each of their shapes, which takes longer.

A sum modulo 2³² does not depend on the order of its terms, so a fingerprint does not depend on mesh or sharding.
Murmur3's finalizer (Appleby, 2011) mixes each word with its index. A weighted sum is not enough: two flipped signs
would cancel, because 2³¹ times an odd weight is always 2³¹.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, UInt32

GOLDEN_RATIO = 0x9E3779B9
"""2³² divided by the golden ratio; odd."""

SALTS = (0x243F6A88, 0x85A308D3)
"""The first fractional bits of π: one salt for each of the two sums."""

SMALL = 2**16
"""Size of the largest array that is summed by NumPy."""


def fingerprints_of(arrays: Mapping[str, Any]) -> dict[str, str]:
    """Returns the fingerprint of each array, as 16 hexadecimal digits; for random keys, that of their key data.

    If several processes hold the arrays together, all must call this, and all get the same result.

    Args:
        arrays: arrays by name, of any shape and type.
    """
    # All sums are dispatched before the first is waited for. With several CPU devices each is waited for at once:
    # programs with collectives would take each other's threads and could deadlock.
    one_by_one = jax.default_backend() == "cpu" and jax.local_device_count() > 1
    sums: dict[str, Any] = {}
    small: dict[str, Any] = {}
    for name, array in arrays.items():
        numbers = numbers_of(array)
        # NumPy's own arrays may have a type that JAX does not keep, such as float64.
        if isinstance(numbers, jax.Array) and numbers.is_fully_addressable and numbers.size <= SMALL:
            small[name] = numbers
            continue
        sums[name] = sum_words(numbers)
        if one_by_one:
            jax.block_until_ready(sums[name])
    found = {name: sum_words_on_host(array) for name, array in jax.device_get(small).items()}
    found |= jax.device_get(sums)
    return {name: "".join(f"{int(one):08x}" for one in found[name]) for name in arrays}


def numbers_of(array: Any) -> Any:
    """Returns an array as it is stored on disk: a random key as its key data."""
    return jax.random.key_data(array) if jax.dtypes.issubdtype(array.dtype, jax.dtypes.prng_key) else array


Sums = tuple[UInt32[Array, ""], UInt32[Array, ""]]


@jax.jit
def sum_words(array: Array) -> Sums:
    """Returns the two sums of an array's words."""
    words = words_of(array)
    position = jnp.zeros(words.shape, jnp.uint32)
    stride = 1
    for axis in reversed(range(words.ndim)):
        along = jax.lax.broadcasted_iota(jnp.uint32, words.shape, axis)
        position = position + along * jnp.uint32(stride % 2**32)
        stride *= words.shape[axis]
    scattered = position * jnp.uint32(GOLDEN_RATIO)
    both = tuple(mix(words ^ mix(scattered + jnp.uint32(salt))) for salt in SALTS)
    # One reduction for both: XLA on the CPU then compiles in a third of the time and runs ten times faster.
    nothing = jnp.uint32(0)
    return jax.lax.reduce(both, (nothing, nothing), add_both, tuple(range(words.ndim)))


def add_both(one: Sums, other: Sums) -> Sums:
    """Adds two pairs of sums, each to its counterpart."""
    return one[0] + other[0], one[1] + other[1]


def words_of(array: Array) -> UInt32[Array, "..."]:
    """Returns an array's bits as 32-bit words: a shorter number fills one word, a longer one several."""
    if jnp.issubdtype(array.dtype, jnp.complexfloating):
        array = jnp.stack([array.real, array.imag], axis=-1)
    if array.dtype == jnp.bool_ or jax.dtypes.itemsize_bits(array.dtype) < 8:
        array = array.astype(jnp.int8)
    bits = jax.dtypes.itemsize_bits(array.dtype)
    words = jax.lax.bitcast_convert_type(array, jnp.dtype(f"uint{min(bits, 32)}"))
    return words.astype(jnp.uint32)


def mix(word: UInt32[Array, "..."] | UInt32[np.ndarray, "..."]) -> Any:
    """Applies Murmur3's finalizer: each bit of the result depends on the whole word, and no two words collide."""
    word = (word ^ (word >> 16)) * np.uint32(0x85EBCA6B)
    word = (word ^ (word >> 13)) * np.uint32(0xC2B2AE35)
    return word ^ (word >> 16)


def sum_words_on_host(array: np.ndarray) -> tuple[int, int]:
    """Returns what ``sum_words`` does, by NumPy."""
    if np.iscomplexobj(array):
        array = np.stack([array.real, array.imag], axis=-1)
    if array.dtype == bool or jax.dtypes.itemsize_bits(array.dtype) < 8:
        array = array.astype(np.int8)
    bits = min(jax.dtypes.itemsize_bits(array.dtype), 32)
    words = np.ascontiguousarray(array).reshape(-1).view(f"uint{bits}").astype(np.uint32)
    scattered = np.arange(words.size, dtype=np.uint32) * np.uint32(GOLDEN_RATIO)
    first, second = (np.sum(mix(words ^ mix(scattered + np.uint32(salt))), dtype=np.uint32) for salt in SALTS)
    return int(first), int(second)
