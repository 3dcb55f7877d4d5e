"""The peaks of the chips."""

import pytest

from imagen_jax.errors import UserError
from imagen_jax.forecast.chips import CHIPS, chip_of, find_chip


@pytest.mark.parametrize("name", CHIPS)
def test_a_chip_is_found_by_either_name(name):
    assert find_chip(chip_of(name).device_kind) is chip_of(name)


@pytest.mark.parametrize(
    ("name", "generation"),
    [
        ("v5litepod", "v5e"),
        ("tpu-v4-podslice", "v4"),
        ("tpu-v5-lite-podslice", "v5e"),
        ("tpu-v5p-slice", "v5p"),
        ("tpu-v6e-slice", "v6e"),
    ],
)
def test_a_generation_may_have_the_name_of_an_accelerator(name, generation):
    assert chip_of(name) is CHIPS[generation]


def test_other_devices_have_no_peaks():
    assert find_chip("cpu") is None


def test_an_unknown_generation_is_an_error():
    with pytest.raises(UserError, match="'v5'"):
        chip_of("v5")


@pytest.mark.parametrize(
    ("name", "pod_flops", "chips"), [("v4", 1.1e18, 4096), ("v5e", 50.63e15, 256), ("v6e", 234.9e15, 256)]
)
def test_peaks_agree_with_the_printed_ones_of_whole_pods(name, pod_flops, chips):
    assert chip_of(name).flops_per_second * chips == pytest.approx(pod_flops, rel=0.03)
