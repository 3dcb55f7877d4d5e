"""From the batch on this host to the global batch on all devices."""

from typing import Any

import jax
import numpy as np
from jax.sharding import Sharding
from jaxtyping import PyTree


def to_devices(host_batch: PyTree[np.ndarray], sharding: Sharding | PyTree) -> PyTree[jax.Array]:
    """Makes global arrays of the processes' shares of a batch.

    The transfer is asynchronous: it returns at once, and the next step waits for its data.

    Args:
        host_batch: arrays whose first axis is this process's share of the global batch.
        sharding: where the global batch lies; one for all arrays, or a pytree like the batch.

    Returns:
        The same tree, of arrays whose first axis is the global batch.
    """
    shardings: Any = sharding
    if isinstance(sharding, Sharding):
        shardings = jax.tree.map(lambda _: sharding, host_batch)
    return jax.tree.map(
        lambda array, place: jax.make_array_from_process_local_data(place, array), host_batch, shardings
    )
