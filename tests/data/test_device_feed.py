import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from imagen_jax.data.device_feed import to_devices


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
