"""Parameters by part and by kind."""

import jax
import jax.numpy as jnp
import pytest

from imagen_jax.array_types import LowResolution, Text
from imagen_jax.diffusion.conditions import Conditions
from imagen_jax.forecast.parameter_count import KINDS, count_parameters, format_counts, kind_of, part_of, total_of
from imagen_jax.models import EfficientUNet, UNet
from imagen_jax.sharding.axes import remove_logical_axes


@pytest.fixture(scope="module")
def unet():
    """Shapes of a U-Net of 8 and 16 channels with an attention at 8 px: small enough to count by hand."""

    def init():
        text = Text(jnp.zeros((1, 5, 12)), jnp.ones((1, 5), bool))
        network = UNet(8, (1, 2), 1, attention_resolutions=(8,), head_channels=4, text_heads=2, text_channels=6)
        return remove_logical_axes(
            network.init(jax.random.key(0), jnp.zeros((1, 16, 16, 3)), jnp.zeros((1,)), Conditions(text=text))["params"]
        )

    return jax.eval_shape(init)


def block(inputs, outputs):
    """A residual block's own parameters: two normalisations, two convolutions, maybe one on the skip."""
    skip = (inputs + 1) * outputs if inputs != outputs else 0
    return 2 * inputs + (9 * inputs + 1) * outputs + 2 * outputs + (9 * outputs + 1) * outputs + skip


def test_a_small_unet_by_hand(unet):
    counts = count_parameters(unet)
    embedding = 4 * 8
    assert counts == {
        "conditioning": dict.fromkeys(KINDS, 0)
        | {
            "text": 2 * 12 + 13 * 6 + 3 * 7 * 6 + 2 * 6 + 7 * embedding + (embedding + 1) * embedding,
            "embeddings": 9 * embedding + (embedding + 1) * embedding,
        },
        "input and output": dict.fromkeys(KINDS, 0) | {"convolutions": (27 + 1) * 8 + 2 * 8 + (72 + 1) * 3},
        "down 0": dict.fromkeys(KINDS, 0)
        | {
            "convolutions": block(8, 8),
            "resampling": block(8, 8),
            "embeddings": 2 * (embedding + 1) * 16,
        },
        "down 1": dict.fromkeys(KINDS, 0)
        | {
            "convolutions": block(8, 16),
            "attention": 2 * 16 + 4 * 17 * 16,
            "text": 2 * 7 * 16,
            "embeddings": (embedding + 1) * 32,
        },
        "middle": dict.fromkeys(KINDS, 0)
        | {
            "convolutions": 2 * block(16, 16),
            "attention": 2 * 16 + 4 * 17 * 16,
            "text": 2 * 7 * 16,
            "embeddings": 2 * (embedding + 1) * 32,
        },
        "up 1": dict.fromkeys(KINDS, 0)
        | {
            "convolutions": block(32, 16) + block(24, 16),
            "resampling": block(16, 16),
            "attention": 2 * (2 * 16 + 4 * 17 * 16),
            "text": 2 * 2 * 7 * 16,
            "embeddings": 3 * (embedding + 1) * 32,
        },
        "up 0": dict.fromkeys(KINDS, 0)
        | {"convolutions": block(24, 8) + block(16, 8), "embeddings": 2 * (embedding + 1) * 16},
    }
    assert list(counts) == ["conditioning", "input and output", "down 0", "down 1", "middle", "up 1", "up 0"]
    assert total_of(counts) == sum(leaf.size for leaf in jax.tree.leaves(unet))


def test_the_parts_of_the_efficient_unet():
    def init():
        network = EfficientUNet((8, 16), (1, 1), (2, 2), (False, True), (False, True), 2, 2, input_gates=True)
        image, level = jnp.zeros((1, 16, 16, 3)), jnp.zeros((1,))
        text = Text(jnp.zeros((1, 5, 12)), jnp.ones((1, 5), bool))
        return remove_logical_axes(
            network.init(
                jax.random.key(0), image, level, Conditions(text=text, low_resolution=LowResolution(image, level))
            )["params"]
        )

    counts = count_parameters(jax.eval_shape(init))
    assert list(counts) == ["conditioning", "input and output", "down 0", "down 1", "up 1", "up 0"]
    feed_forward = 2 * 16 + 17 * 32 + 33 * 16
    self_attention, cross_attention = 2 * 16 + 4 * 17 * 16, 2 * 16 + 2 * 17 * 16
    assert counts["down 1"]["attention"] == self_attention + cross_attention + feed_forward
    assert counts["down 1"]["resampling"] == (9 * 8 + 1) * 16
    assert counts["up 1"]["resampling"] == (9 * 16 + 1) * 4 * 8


def test_an_unknown_module_is_its_own_part_and_comes_last():
    assert (part_of("down_12_resample"), part_of("middle_1"), part_of("stem")) == ("down 12", "middle", "stem")
    assert kind_of(("stem", "kernel")) == "convolutions"
    counts = count_parameters({"stem": {"kernel": jnp.zeros((3, 2))}, "up_0_0": {"kernel": jnp.zeros(4)}})
    assert list(counts) == ["up 0", "stem"] and counts["stem"]["convolutions"] == 6


def test_the_table_adds_up(unet):
    counts = count_parameters(unet)
    title, *rows, last = list(format_counts(counts))
    assert title.split() == ["parameters", *KINDS, "total"]
    assert len(rows) == len(counts) and {len(row) for row in rows} == {len(title)}
    numbers = [[int(word.replace(",", "")) for word in row.split()[-len(KINDS) - 1 :]] for row in rows]
    assert last.split()[1:] == [f"{sum(column):,}" for column in zip(*numbers, strict=True)]
