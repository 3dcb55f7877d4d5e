"""Transfers the batch of this host into the global batch on all devices."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Sharding
from jaxtyping import PyTree


def to_devices(host_batch: PyTree[np.ndarray], sharding: Sharding | PyTree) -> PyTree[jax.Array]:
    """Makes global arrays from each process's share of a batch.

    The transfer is asynchronous: the function returns at once, and the next step waits for its data.

    Args:
        host_batch: arrays whose first axis is this process's share of the global batch.
        sharding: sharding of the global batch: one for all arrays, or a pytree like the batch.

    Returns:
        The same pytree, of arrays whose first axis is the global batch.
    """
    shardings: Any = sharding
    if isinstance(sharding, Sharding):
        shardings = jax.tree.map(lambda _: sharding, host_batch)
    return jax.tree.map(
        lambda array, sharding: jax.make_array_from_process_local_data(sharding, array), host_batch, shardings
    )


def to_devices_padded(array: np.ndarray, wanted: jax.ShapeDtypeStruct) -> jax.Array:
    """Makes a global array from shares whose second axes may differ in length between processes.

    The devices pad the second axis with zeros, so only the actual data is transferred.

    Args:
        array: this process's share of the first axis; its second axis is at most as long as that of ``wanted``.
        wanted: shape and sharding of the global array; only the first axis may be sharded.

    Returns:
        The global array, with the shape and sharding of ``wanted``.
    """
    assert wanted.sharding is not None
    indices = wanted.sharding.addressable_devices_indices_map(wanted.shape)
    rows = {device: range(wanted.shape[0])[index[0]] for device, index in indices.items()}
    # A process's rows need not be contiguous in the global array. Its share contains them in ascending order.
    starts = sorted({each.start for each in rows.values()})
    shares = dict(zip(starts, np.split(array, len(starts)), strict=True))
    pieces = [
        pad_second_axis(jax.device_put(shares[each.start], device), wanted.shape[1]) for device, each in rows.items()
    ]
    return jax.make_array_from_single_device_arrays(wanted.shape, wanted.sharding, pieces)


@partial(jax.jit, static_argnums=1)
def pad_second_axis(array: jax.Array, length: int) -> jax.Array:
    """Pads the second axis of an array with zeros up to a length."""
    return jnp.pad(array, [(0, length - size if axis == 1 else 0) for axis, size in enumerate(array.shape)])
