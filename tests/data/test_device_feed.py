import jax
import ml_dtypes
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from imagen_jax.data.device_feed import to_devices, to_devices_padded


def test_a_host_batch_is_laid_over_the_devices_in_its_order():
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    batch = {"image": np.random.default_rng(0).normal(size=(16, 2, 2, 3)).astype(np.float32), "index": np.arange(16)}
    arrays = to_devices(batch, NamedSharding(mesh, PartitionSpec("data")))
    for name, array in arrays.items():
        np.testing.assert_array_equal(array, batch[name])
        assert [shard.data.shape[0] for shard in array.addressable_shards] == [2] * 8
    np.testing.assert_array_equal(arrays["index"].addressable_shards[3].data, [6, 7])


def test_each_array_can_have_its_own_sharding():
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    split, copied = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in (("data",), ()))
    arrays = to_devices({"image": np.zeros((8, 3)), "level": np.ones(())}, {"image": split, "level": copied})
    assert arrays["image"].sharding == split and arrays["level"].sharding == copied


@pytest.mark.parametrize("axes", [(4, 2), (8, 1), (2, 4)])
def test_shorter_arrays_are_filled_up_on_the_devices(axes):
    """Cut over the first axis of the mesh, whole along the second; the devices in an order of their own."""
    devices = np.random.default_rng(0).permutation(np.array(jax.devices())).reshape(axes)
    placement = NamedSharding(Mesh(devices, ("data", "tensor")), PartitionSpec("data"))
    array = np.random.default_rng(1).normal(size=(16, 5, 3)).astype(ml_dtypes.bfloat16)
    wanted = jax.ShapeDtypeStruct((16, 9, 3), array.dtype, sharding=placement)
    placed = to_devices_padded(array, wanted)
    assert placed.shape == wanted.shape and placed.dtype == array.dtype and placed.sharding == placement
    np.testing.assert_array_equal(placed, np.concatenate([array, np.zeros((16, 4, 3), array.dtype)], axis=1))
