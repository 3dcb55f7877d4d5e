"""The text inside the network: its LayerNorm, its projection, and what the projection saves."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imagen_jax.array_types import LowResolution, Text
from imagen_jax.diffusion.conditions import Conditions, Vectors
from imagen_jax.models import EfficientUNet, UNet
from imagen_jax.models.conditioning import ConditioningEmbedding
from imagen_jax.sharding.axes import remove_logical_axes
from tests.tiers import thorough_except

WIDTH = 4096
LAST = (False, False, False, True)
NONE = (False,) * 4

PRINTED = {
    "base": lambda text_channels: UNet(512, text_channels=text_channels),
    "64→256": lambda text_channels: EfficientUNet(cross_attention=NONE, text_channels=text_channels),
    "256→1024": lambda text_channels: EfficientUNet(self_attention=NONE, text_channels=text_channels),
}
"""The networks of appendix F.1, each of which is built for images of 64 px."""


def make_text(width=12):
    mask = jnp.asarray([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]], bool)
    return Text(jax.random.normal(jax.random.key(1), (2, 5, width)), mask)


def shapes_of(network, width):
    """The parameters' shapes by their paths, of a network conditioned on all there is."""

    def init():
        image, level = jnp.zeros((1, 64, 64, 3)), jnp.zeros((1,))
        text = Text(jnp.zeros((1, 8, width)), jnp.ones((1, 8), bool))
        low = None if isinstance(network, UNet) else LowResolution(image[:, ::4, ::4], level)
        return remove_logical_axes(
            network.init(jax.random.key(0), image, level, Conditions(text=text, low_resolution=low))["params"]
        )

    leaves = jax.tree_util.tree_flatten_with_path(jax.eval_shape(init))[0]
    return {"/".join(entry.key for entry in path): leaf.shape for path, leaf in leaves}


def init_with_output(module, text):
    return jax.jit(module.init_with_output)(jax.random.key(0), jnp.zeros(2), Conditions(text=text))


def test_the_projection_follows_the_normalisation():
    text = make_text()
    module = ConditioningEmbedding(8, 16, text_heads=2, text_channels=6)
    (_, projected), variables = init_with_output(module, text)
    embeddings = np.asarray(text.embeddings, np.float64)
    centred = embeddings - embeddings.mean(axis=-1, keepdims=True)
    normal = centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + 1e-5)
    kernel = np.asarray(remove_logical_axes(variables["params"])["text_projection"]["kernel"], np.float64)
    assert kernel.shape == (12, 6)
    np.testing.assert_allclose(projected.embeddings, normal @ kernel, atol=1e-5)
    assert np.array_equal(projected.mask, text.mask)


def test_without_a_projection_the_text_keeps_its_width():
    module = ConditioningEmbedding(8, 16, text_heads=2)
    (_, text), variables = init_with_output(module, make_text())
    assert text.embeddings.shape == (2, 5, 12) and "text_projection" not in variables["params"]


def test_tokens_of_a_vector_are_as_wide_as_the_text():
    module = ConditioningEmbedding(8, 16, text_heads=2, vector_tokens=3)
    conditions = Conditions(text=make_text(), image_vector=Vectors(jnp.ones((2, 4)), jnp.ones(2, bool)))
    (_, tokens), _ = jax.jit(module.init_with_output)(jax.random.key(0), jnp.zeros(2), conditions)
    assert tokens.embeddings.shape == (2, 5 + 3, 12)


@pytest.mark.parametrize("name", thorough_except(["64→256"], PRINTED))
def test_only_the_norm_and_the_projection_read_the_encoders_width(name):
    odd = 4093  # no other size in the network is that
    shapes = shapes_of(PRINTED[name](512), odd)
    reading = {path for path, shape in shapes.items() if odd in shape}
    module = "conditioning"
    assert reading == {f"{module}/text_norm/scale", f"{module}/text_norm/bias", f"{module}/text_projection/kernel"}


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("name", "direct", "projected"),
    [("base", 2.442, 2.141), ("64→256", 0.550, 0.486), ("256→1024", 0.546, 0.482)],
)
def test_what_the_projection_saves_at_the_papers_size(name, direct, projected):
    """In billions of parameters. The paper speaks of 2B for the base."""
    for text_channels, expected in ((None, direct), (512, projected)):
        shapes = shapes_of(PRINTED[name](text_channels), WIDTH)
        total = sum(int(np.prod(shape)) for shape in shapes.values())
        assert total / 1e9 == pytest.approx(expected, abs=0.0005)
