"""The mesh and the placements, on eight pretended devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding

from imagen_jax.errors import UserError
from imagen_jax.sharding.axes import (
    UNNAMED,
    axes_of,
    constrain,
    gather,
    remove_logical_axes,
    storage_spec,
    to_partition_spec,
    unnamed_parameters,
    with_logical_axes,
)
from imagen_jax.sharding.mesh import make_mesh
from imagen_jax.sharding.placement import batch_placement, place_state, replicated

CONVOLUTION = ("taps", "taps", "channels", "hidden")


def test_the_rest_of_the_devices_go_to_the_open_axis():
    assert dict(make_mesh({"data": -1}).shape) == {"slice": 1, "data": 8, "fsdp": 1, "tensor": 1}
    assert dict(make_mesh({"data": 2, "fsdp": -1, "tensor": 2}).shape) == {
        "slice": 1, "data": 2, "fsdp": 2, "tensor": 2,
    }  # fmt: skip


def test_slices_are_the_outermost_axis():
    """Devices that don't say where they sit are taken in their order: the first half is the first slice."""
    mesh = make_mesh({"slice": 2, "data": -1, "fsdp": 2})
    assert [device.id for device in mesh.devices[0].flat] == [0, 1, 2, 3]
    assert mesh.devices.shape == (2, 2, 2, 1)


@pytest.mark.parametrize(
    ("sizes", "facts"),
    [
        ({"data": 3}, "config.mesh.fsdp of 1, 2, 4, 8 or"),
        ({"data": 4, "fsdp": 4}, "config.mesh.fsdp of 1, 2, 4, 8 or config.mesh.tensor of 1, 2 or"),
        ({"data": -1, "fsdp": 3}, "config.mesh.fsdp of 1, 2, 4, 8, with config.mesh.data=-1"),
        ({"data": 0, "fsdp": -1}, r"\b8 device"),
        ({"data": -1, "fsdp": 3, "tensor": 5}, r"\b1 .*config\.mesh\.fsdp, tensor and slice"),
    ],
)
def test_the_error_for_a_mesh_that_does_not_fit_has_sizes_that_do(sizes, facts):
    with pytest.raises(UserError, match=facts):
        make_mesh(sizes)


def test_a_misspelt_axis_names_the_nearest():
    with pytest.raises(UserError, match="'fsdp'"):
        make_mesh({"fspd": 2})


@pytest.mark.parametrize(
    ("shape", "axes", "spec"),
    [
        ((3, 3, 64, 128), CONVOLUTION, [(), (), ("fsdp",), ("tensor",)]),
        ((3, 3, 64, 128), ("taps", "taps", "hidden", "channels"), [(), (), ("tensor", "fsdp"), ()]),
        ((3, 3, 64, 128), ("taps", "taps", "channels", "channels"), [(), (), ("fsdp", "tensor"), ()]),
        ((3, 3, 6, 1024), ("taps", "taps", "channels", "channels"), [(), (), (), ("fsdp", "tensor")]),
        ((128, 8, 32), ("channels", "heads", "head_channels"), [("fsdp",), ("tensor",), ()]),
        ((8, 8), ("channels", "hidden"), [(), ()]),
    ],
    ids=["input axis", "both on one", "computed with whole", "input axis does not divide", "heads", "small"],
)
def test_a_kernel_is_sharded_along_its_input_axis_and_by_its_axis_names(shape, axes, spec):
    assert storage_spec(shape, axes, make_mesh({"data": 1, "fsdp": 4, "tensor": 2})) == spec


@pytest.mark.parametrize(
    ("shape", "mesh", "facts"),
    [((3, 3, 63, 129), {"data": 4, "fsdp": 2}, r"fsdp=2 .*63, 129"),
     ((3, 3, 64, 129), {"data": 4, "tensor": 2}, "tensor=2 .*129 hidden")],
)  # fmt: skip
def test_a_kernel_that_cannot_be_sharded_is_named(shape, mesh, facts):
    shapes = {"block": {"kernel": jax.ShapeDtypeStruct(shape, jnp.float32)}}
    with pytest.raises(UserError, match=f"block/kernel: .*{facts}"):
        place_state(shapes, {"block": {"kernel": CONVOLUTION}}, make_mesh(mesh))


def test_an_unknown_axis_names_the_nearest():
    with jax.set_mesh(make_mesh({"data": 8})), pytest.raises(UserError, match=r"'chanels'.*'channels'"):
        constrain(jnp.zeros((8, 2)), "batch", "chanels")


def test_names_come_off_and_a_kernel_without_any_has_a_name_that_says_so():
    named = {
        "kernel": with_logical_axes(jax.nn.initializers.ones, CONVOLUTION)(jax.random.key(0), (1, 1, 2, 3), jnp.float32)
    }
    assert axes_of(named) == {"kernel": CONVOLUTION}
    np.testing.assert_array_equal(remove_logical_axes(named)["kernel"], np.ones((1, 1, 2, 3)))
    plain = axes_of({"dense": {"kernel": jnp.zeros((2, 3)), "bias": jnp.zeros(3)}, "table": jnp.zeros((2**8, 2**7))})
    assert plain == {"dense": {"kernel": (UNNAMED,) * 2, "bias": None}, "table": (UNNAMED,) * 2}
    assert unnamed_parameters(plain) == ["dense/kernel", "table"]


@pytest.mark.parametrize(
    ("shape", "mesh", "expected"),
    [
        ((256, 512), {"fsdp": 2, "tensor": 4}, [(), ("fsdp", "tensor")]),  # the largest
        ((2048, 12), {"fsdp": 2, "tensor": 4}, [("fsdp", "tensor"), ()]),
        ((1030, 100), {"fsdp": 2, "tensor": 4}, [("fsdp",), ()]),  # neither is a multiple of 8, both of 2
        ((1031, 101), {"fsdp": 2, "tensor": 4}, [(), ()]),
        ((256, 512), {"data": 8}, [(), ()]),
        ((16, 16), {"fsdp": 8}, [(), ()]),  # too small
    ],
)
def test_a_kernel_without_names_is_sharded_along_its_largest_divisible_axis(shape, mesh, expected):
    assert storage_spec(shape, (UNNAMED,) * 2, make_mesh(mesh)) == expected


def test_without_a_mesh_a_kernel_is_only_converted():
    kernel = jax.random.normal(jax.random.key(0), (3, 3, 64, 128))
    np.testing.assert_array_equal(gather(kernel, CONVOLUTION, jnp.bfloat16), kernel.astype(jnp.bfloat16))


def test_a_gathered_kernel_is_whole_in_the_compute_type_and_its_gradient_lies_in_parts():
    """Eight devices, each with its own example x: the gradient of Σ x·w by w is Σ x, in the parts of w."""
    mesh = make_mesh({"data": 2, "fsdp": 4})
    weight = jax.random.normal(jax.random.key(0), (256, 64))
    examples = jax.random.normal(jax.random.key(1), (8, 256))
    stored = NamedSharding(mesh, to_partition_spec(storage_spec(weight.shape, ("channels", "hidden"), mesh)))
    assert stored.shard_shape(weight.shape) == (64, 64)

    def loss(weight, examples):
        return jnp.sum(examples @ gather(weight, ("channels", "hidden"), jnp.float32))

    with jax.set_mesh(mesh):
        placed = jax.device_put(weight, stored), jax.device_put(examples, batch_placement(mesh, 8))
        gradient = jax.jit(jax.grad(loss))(*placed)
        used = jax.jit(lambda weight: gather(weight, ("channels", "hidden"), jnp.bfloat16))(placed[0])
    assert gradient.sharding.is_equivalent_to(stored, 2)
    np.testing.assert_allclose(gradient, np.repeat(np.sum(examples, axis=0)[:, None], 64, axis=1), rtol=1e-5)
    assert used.dtype == jnp.bfloat16 and used.sharding.is_fully_replicated
    np.testing.assert_array_equal(used, weight.astype(jnp.bfloat16))


def test_each_device_holds_its_share_of_a_batch_and_all_of_a_replicated_array():
    mesh = make_mesh({"data": 2, "fsdp": 2, "tensor": 2})
    batch = jax.device_put(np.zeros((16, 2)), batch_placement(mesh, 16))
    assert {shard.data.shape for shard in batch.addressable_shards} == {(4, 2)}
    whole = jax.device_put(np.zeros((16, 2)), replicated(mesh))
    assert {shard.data.shape for shard in whole.addressable_shards} == {(16, 2)}


def test_a_batch_that_does_not_divide_is_a_mistake():
    with pytest.raises(UserError, match=r"\b12\b.*\b8\b"):
        batch_placement(make_mesh({"data": -1}), 12)
