"""The mesh and the placements, on eight pretended devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imagen_jax.errors import UserError
from imagen_jax.sharding.mesh import make_mesh
from imagen_jax.sharding.placement import batch_placement, place_state, replicated


def test_the_rest_of_the_devices_go_to_the_open_axis():
    assert dict(make_mesh({"data": -1}).shape) == {"data": 8, "fsdp": 1}
    assert dict(make_mesh({"data": 2, "fsdp": -1}).shape) == {"data": 2, "fsdp": 4}


@pytest.mark.parametrize(
    "sizes", [{"data": 3}, {"data": 4, "fsdp": 4}, {"data": -1, "fsdp": 3}, {"data": 0, "fsdp": -1}]
)
def test_a_mesh_that_does_not_fit_says_what_would(sizes):
    with pytest.raises(UserError, match="product is 8"):
        make_mesh(sizes)


def test_a_misspelt_axis_names_the_nearest():
    with pytest.raises(UserError, match="'fsdp'"):
        make_mesh({"fspd": 2})


def test_parameters_are_cut_along_their_largest_axis_that_divides():
    mesh = make_mesh({"data": 2, "fsdp": 4})
    shapes = {
        "kernel": jax.ShapeDtypeStruct((3, 3, 64, 128), jnp.float32),
        "odd": jax.ShapeDtypeStruct((129, 400), jnp.float32),
        "bias": jax.ShapeDtypeStruct((128,), jnp.float32),
        "step": jax.ShapeDtypeStruct((), jnp.int32),
    }
    specs = {name: tuple(place.spec) for name, place in place_state(shapes, mesh).items()}
    assert specs == {"kernel": (None, None, None, "fsdp"), "odd": (None, "fsdp"), "bias": (), "step": ()}


def test_each_device_holds_its_share_of_a_batch_and_all_of_a_replicated_array():
    mesh = make_mesh({"data": 4, "fsdp": 2})
    batch = jax.device_put(np.zeros((16, 2)), batch_placement(mesh, 16))
    assert {shard.data.shape for shard in batch.addressable_shards} == {(2, 2)}
    whole = jax.device_put(np.zeros((16, 2)), replicated(mesh))
    assert {shard.data.shape for shard in whole.addressable_shards} == {(16, 2)}


def test_a_batch_that_does_not_divide_is_a_mistake():
    with pytest.raises(UserError, match="multiple of 8"):
        batch_placement(make_mesh({"data": -1}), 12)
