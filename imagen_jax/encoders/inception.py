"""Inception-v3 of 2015-12-05, whose features FID compares: a network of its own, not the one of Szegedy et al. 2016.

    299×299 in [-1, 1] -> stem -> three blocks of 35×35 -> four of 17×17 -> two of 8×8 -> 2048 features -> 1008 scores

What is told apart from the paper's network (and from every later copy of it) is what TensorFlow's graph of that day
has: average pools that leave padding out of the mean, a **maximum** in the pooling branch of the last block, and 1008
classes. Names of parameters are those of the published file (see ``inception_weights``).
"""

from collections.abc import Callable
from functools import partial, reduce
from itertools import product

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from imagen_jax.array_types import Images
from imagen_jax.encoders.efficientnet_lite0 import FeatureMap, NewFeatureMap, Normalise
from imagen_jax.encoders.feature_network import Features
from imagen_jax.models.convolutions import convolve_by_tiles
from imagen_jax.runtime.backend import computes_on_cpu

RESOLUTION = 299
FEATURES = 2048
CLASSES = 1008

LAYOUT = ("NHWC", "HWIO", "NHWC")


class Convolution(nn.Module):
    """A convolution without bias, batch normalisation with the statistics that training left, and max(·, 0).

    Attributes:
        features: channels of the result.
        size: height and width of the kernel.
        stride: pixels from one place of the kernel to the next.
        padded: whether zeros around the input make the result as large as the input, where the stride is 1.
    """

    features: int
    size: tuple[int, int] = (1, 1)
    stride: int = 1
    padded: bool = True

    @nn.compact
    def __call__(self, x: FeatureMap) -> NewFeatureMap:
        shape = (*self.size, x.shape[-1], self.features)
        kernel = self.param("kernel", nn.initializers.zeros_init(), shape)
        padding = (self.size[0] // 2, self.size[1] // 2) if self.padded else (0, 0)
        return nn.relu(Normalise(name="bn")(convolve(x, kernel, self.stride, padding)))


def convolve(
    x: FeatureMap, kernel: Float[Array, "down across channels outputs"], stride: int, padding: tuple[int, int]
) -> NewFeatureMap:
    """The convolution as the device at hand computes it fastest; see ``tests/benchmarks/extract_features.md``.

    Args:
        x: the input.
        kernel: of any size.
        stride: the same down and across.
        padding: rows of zeros above and below, columns of zeros left and right.
    """
    if computes_on_cpu() and kernel.shape[:2] == (3, 3) and stride == 1:
        return convolve_by_tiles(x, kernel, padding[0])
    if computes_on_cpu() and kernel.shape[:2] == (1, 1) and stride == 1:
        return x @ kernel[0, 0]
    around = [(amount, amount) for amount in padding]
    return jax.lax.conv_general_dilated(x, kernel, (stride, stride), around, dimension_numbers=LAYOUT)


def greatest_of_window(x: FeatureMap, stride: int = 2, padding: int = 0) -> NewFeatureMap:
    """The maximum in each 3×3 window; of the input alone, never of padding."""
    around = (padding, padding)
    padded = jnp.pad(x, ((0, 0), around, around, (0, 0)), constant_values=-jnp.inf)
    return reduce(jnp.maximum, under_window(padded, stride))


def mean_of_window(x: FeatureMap) -> FeatureMap:
    """The mean of the 3×3 window around each place; at the borders of those 4 or 6 inputs of it that there are."""

    def total(values: FeatureMap) -> FeatureMap:
        return reduce(jnp.add, under_window(jnp.pad(values, ((0, 0), (1, 1), (1, 1), (0, 0))), 1))

    return total(x) / total(jnp.ones((1, *x.shape[1:3], 1), x.dtype))


def under_window(x: FeatureMap, stride: int) -> list[jax.Array]:
    """What lies under each of the nine places of a 3×3 window, wherever the window fits.

    Written out since XLA's own windows take several times as long on a CPU.
    """
    down, across = ((size - 3) // stride + 1 for size in x.shape[1:3])
    return [
        x[:, row : row + stride * (down - 1) + 1 : stride, column : column + stride * (across - 1) + 1 : stride]
        for row, column in product(range(3), repeat=2)
    ]


class BlockA(nn.Module):
    """Of 35×35: a 1×1, a 5×5, two 3×3, and a mean, side by side (Szegedy et al. 2016, figure 5)."""

    pool_features: int

    @nn.compact
    def __call__(self, x: FeatureMap) -> NewFeatureMap:
        five = Convolution(48, name="branch5x5_1")(x)
        three = Convolution(64, name="branch3x3dbl_1")(x)
        three = Convolution(96, (3, 3), name="branch3x3dbl_2")(three)
        branches = [
            Convolution(64, name="branch1x1")(x),
            Convolution(64, (5, 5), name="branch5x5_2")(five),
            Convolution(96, (3, 3), name="branch3x3dbl_3")(three),
            Convolution(self.pool_features, name="branch_pool")(mean_of_window(x)),
        ]
        return jnp.concatenate(branches, axis=-1)


class BlockB(nn.Module):
    """From 35×35 to 17×17 (figure 10): a 3×3, two 3×3 and a maximum, each in steps of two."""

    @nn.compact
    def __call__(self, x: FeatureMap) -> NewFeatureMap:
        three = Convolution(64, name="branch3x3dbl_1")(x)
        three = Convolution(96, (3, 3), name="branch3x3dbl_2")(three)
        branches = [
            Convolution(384, (3, 3), 2, padded=False, name="branch3x3")(x),
            Convolution(96, (3, 3), 2, padded=False, name="branch3x3dbl_3")(three),
            greatest_of_window(x),
        ]
        return jnp.concatenate(branches, axis=-1)


class BlockC(nn.Module):
    """Of 17×17: a 1×1, a 7×7 and two 7×7 as rows and columns, and a mean (figure 6)."""

    inner_features: int

    @nn.compact
    def __call__(self, x: FeatureMap) -> NewFeatureMap:
        inner = self.inner_features
        once = Convolution(inner, name="branch7x7_1")(x)
        once = Convolution(inner, (1, 7), name="branch7x7_2")(once)
        twice = Convolution(inner, name="branch7x7dbl_1")(x)
        twice = Convolution(inner, (7, 1), name="branch7x7dbl_2")(twice)
        twice = Convolution(inner, (1, 7), name="branch7x7dbl_3")(twice)
        twice = Convolution(inner, (7, 1), name="branch7x7dbl_4")(twice)
        branches = [
            Convolution(192, name="branch1x1")(x),
            Convolution(192, (7, 1), name="branch7x7_3")(once),
            Convolution(192, (1, 7), name="branch7x7dbl_5")(twice),
            Convolution(192, name="branch_pool")(mean_of_window(x)),
        ]
        return jnp.concatenate(branches, axis=-1)


class BlockD(nn.Module):
    """From 17×17 to 8×8: a 3×3, a 7×7 and a 3×3, and a maximum, each in steps of two."""

    @nn.compact
    def __call__(self, x: FeatureMap) -> NewFeatureMap:
        three = Convolution(192, name="branch3x3_1")(x)
        seven = Convolution(192, name="branch7x7x3_1")(x)
        seven = Convolution(192, (1, 7), name="branch7x7x3_2")(seven)
        seven = Convolution(192, (7, 1), name="branch7x7x3_3")(seven)
        branches = [
            Convolution(320, (3, 3), 2, padded=False, name="branch3x3_2")(three),
            Convolution(192, (3, 3), 2, padded=False, name="branch7x7x3_4")(seven),
            greatest_of_window(x),
        ]
        return jnp.concatenate(branches, axis=-1)


class BlockE(nn.Module):
    """Of 8×8: a 1×1, a 3×3 and two 3×3 whose last is a row beside a column, and a pool (figure 7).

    Attributes:
        pool: of 3×3 windows, to the same size.
    """

    pool: Callable[[FeatureMap], FeatureMap]

    @nn.compact
    def __call__(self, x: FeatureMap) -> NewFeatureMap:
        once = Convolution(384, name="branch3x3_1")(x)
        twice = Convolution(448, name="branch3x3dbl_1")(x)
        twice = Convolution(384, (3, 3), name="branch3x3dbl_2")(twice)
        branches = [
            Convolution(320, name="branch1x1")(x),
            Convolution(384, (1, 3), name="branch3x3_2a")(once),
            Convolution(384, (3, 1), name="branch3x3_2b")(once),
            Convolution(384, (1, 3), name="branch3x3dbl_3a")(twice),
            Convolution(384, (3, 1), name="branch3x3dbl_3b")(twice),
            Convolution(192, name="branch_pool")(self.pool(x)),
        ]
        return jnp.concatenate(branches, axis=-1)


class InceptionV3(nn.Module):
    """The network: ``(batch, 299, 299, 3)`` in [-1, 1] to 2048 features and 1008 class scores.

    The scores are without their bias, as the Inception score has been computed since its first code: it took the last
    layer's product alone (Salimans et al. 2016), and so do all who compare with it.
    """

    @nn.compact
    def __call__(self, images: Images) -> Features:
        x = Convolution(32, (3, 3), 2, padded=False, name="Conv2d_1a_3x3")(images)
        x = Convolution(32, (3, 3), padded=False, name="Conv2d_2a_3x3")(x)
        x = greatest_of_window(Convolution(64, (3, 3), name="Conv2d_2b_3x3")(x))
        x = Convolution(80, name="Conv2d_3b_1x1")(x)
        x = greatest_of_window(Convolution(192, (3, 3), padded=False, name="Conv2d_4a_3x3")(x))
        for letter, pool_features in zip("bcd", (32, 64, 64), strict=True):
            x = BlockA(pool_features, name=f"Mixed_5{letter}")(x)
        x = BlockB(name="Mixed_6a")(x)
        for letter, inner_features in zip("bcde", (128, 160, 160, 192), strict=True):
            x = BlockC(inner_features, name=f"Mixed_6{letter}")(x)
        x = BlockD(name="Mixed_7a")(x)
        x = BlockE(mean_of_window, name="Mixed_7b")(x)
        x = BlockE(partial(greatest_of_window, stride=1, padding=1), name="Mixed_7c")(x)
        pooled = x.mean(axis=(1, 2))
        return Features(pooled, nn.Dense(CLASSES, use_bias=False, name="fc")(pooled))
