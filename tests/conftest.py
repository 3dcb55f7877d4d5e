"""Eight devices on the CPU, and every shape that the package declares checked at every call."""

import os

# Programs that a test starts see no accelerator either.
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["MPLBACKEND"] = "Agg"

import jax
import jaxtyping
import pytest

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")
# The tests compile much and compute little: this halves their time. A compilation cache saves a sixth more, once it is
# filled, and is one more thing to doubt.
jax.config.update("jax_disable_most_optimizations", True)

# Before any test imports the package: what is imported already is not checked.
jaxtyping.install_import_hook("imagen_jax", "beartype.beartype")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts slow tests last, so that a small mistake shows early."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is not None)
