"""Parameters sharded over eight devices, or whole on one."""

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from imagen_jax.weights.places import place_sharded, place_whole, shard_largest_axis


@pytest.fixture
def mesh():
    return jax.make_mesh((2, 4), ("data", "fsdp"))


@pytest.mark.parametrize(
    ("shape", "spec"),
    [
        ((16, 24), (None, ("data", "fsdp"))),
        ((24, 16), (("data", "fsdp"),)),
        ((3, 3, 8, 9), (None, None, ("data", "fsdp"))),
        ((16, 25), (("data", "fsdp"),)),
        ((12, 25), ()),
        ((64,), ()),
    ],
)
def test_the_largest_divisible_axis_is_sharded(shape, spec, mesh):
    assert shard_largest_axis(shape, mesh) == PartitionSpec(*spec)


def test_each_device_holds_its_part_and_nothing_else_is_read(mesh):
    read = []

    class Watched(np.ndarray):
        def __getitem__(self, index):
            part = super().__getitem__(index)
            read.append(part.size)
            return part

    stored = np.arange(16 * 24).reshape(16, 24)
    placed = place_sharded(mesh)("kernel", stored.view(Watched))
    assert set(read) == {16 * 3}
    np.testing.assert_array_equal(placed, stored)
    for shard in placed.addressable_shards:
        np.testing.assert_array_equal(shard.data, stored[shard.index])


@pytest.mark.parametrize("sharded", [False, True])
def test_a_parameter_outlives_the_file_it_came_from(sharded, mesh, tmp_path):
    stored = np.memmap(tmp_path / "weights", np.float32, "w+", shape=(4096, 8))
    stored[:] = 1
    placed = (place_sharded(mesh) if sharded else place_whole)("kernel", np.asarray(stored))
    stored[:] = 2
    assert (np.asarray(placed) == 1).all()
