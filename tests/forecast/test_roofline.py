"""Times of collectives on a pod whose chips are pretended, worked out by hand."""

from itertools import product
from types import SimpleNamespace

import pytest

from imagen_jax.forecast.chips import CHIPS
from imagen_jax.forecast.collectives import Collective
from imagen_jax.forecast.roofline import Roofline, estimate, seconds_of
from imagen_jax.forecast.topologies import Pod

V4, V5E = CHIPS["v4"], CHIPS["v5e"]


def pretend(chip, sides, slices=1):
    """Chips in the order of their coordinates, the last axis running fastest, slice after slice."""
    coords = list(product(*(range(side) for side in sides)))
    return Pod(
        chip, sides, slices, [SimpleNamespace(coords=coord, slice_index=s) for s in range(slices) for coord in coords]
    )


def gather(group, size=8e9):
    return Collective("all-gather", size, tuple(group), 1, "")


@pytest.mark.parametrize(
    ("group", "links"),
    [(range(4), 2), (range(2), 1), (range(0, 16, 4), 2), (range(16), 4), (range(64), 6)],
    ids=["a ring", "half a ring", "a ring across", "two rings", "all three"],
)
def test_a_gather_takes_as_long_as_its_links_need(group, links):
    members = len(group)
    pod = pretend(V4, (4, 4, 4))
    assert seconds_of(gather(group), pod, pod.devices) == pytest.approx(8e9 * (members - 1) / members / (links * 45e9))


def test_a_side_that_does_not_close_to_a_ring_has_one_way():
    pod = pretend(V5E, (4, 4))
    assert seconds_of(gather(range(4)), pod, pod.devices) == pytest.approx(8e9 * 3 / 4 / 45e9)


def test_the_mesh_decides_which_chips_a_group_has():
    """Numbers of a group are positions in the mesh: here it lists the chips backwards."""
    pod = pretend(V4, (4, 4, 4))
    across = [pod.devices[0], pod.devices[21], *pod.devices[1:21], *pod.devices[22:]]
    assert seconds_of(gather((0, 1)), pod, across) == pytest.approx(8e9 / 2 / (3 * 45e9))


def test_between_slices_the_sum_of_a_slice_goes_out_once():
    """64 chips of two slices: an all-reduce within each, and a 32nd of the array between two chips over the network."""
    pod = pretend(V4, (4, 4, 2), slices=2)
    one = Collective("all-reduce", 8e9, tuple(range(64)), 1, "")
    within = 2 * 8e9 * 31 / 32 / ((2 + 2 + 1) * 45e9)
    outside = 2 * 8e9 / 32 * 1 / 2 / (25e9 / 4)
    assert seconds_of(one, pod, pod.devices) == pytest.approx(within + outside)


def test_the_roofline_is_the_max_of_the_three():
    pod = pretend(V4, (4, 4, 4))
    roofline = estimate(pod, pod.devices, 275e12, 0.6e12, [gather(range(4), size=0.9e11 * 4 / 3 * 0.25)])
    assert roofline == pytest.approx(Roofline(1.0, 0.5, 0.25))
    assert (roofline.seconds, roofline.bound) == (1.0, "compute")
