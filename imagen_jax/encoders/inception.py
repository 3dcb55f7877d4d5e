"""Inception-v3 of 2015-12-05, the network of FID. It differs from the network of Szegedy et al. 2016.

    299×299 in [-1, 1] -> stem -> three blocks of 35×35 -> four of 17×17 -> two of 8×8 -> 2048 features -> 1008 scores

TensorFlow's graph of that day differs from the paper's network, and from every later copy of it, in three ways. Its
average pools exclude padding from the mean. The pooling branch of the last block takes a **maximum**. It has 1008
classes. Parameters have the names of the published file (see ``inception_weights``).
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
    """A convolution without bias, then batch normalisation with the stored statistics of training, then ReLU.

    Attributes:
        features: the number of output channels.
        size: height and width of the kernel.
        stride: the stride in pixels, in both directions.
        padded: whether to pad with zeros, so that at stride 1 the output has the size of the input.
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
    """Computes a convolution in the fastest way for this device; see ``tests/benchmarks/extract_features.md``.

    Args:
        x: the input, ``(batch, height, width, channels)``.
        kernel: the kernel, of any height and width.
        stride: the stride in both directions.
        padding: rows of zeros above and below, and columns of zeros left and right.
    """
    if computes_on_cpu() and kernel.shape[:2] == (3, 3) and stride == 1:
        return convolve_by_tiles(x, kernel, padding[0])
    if computes_on_cpu() and kernel.shape[:2] == (1, 1) and stride == 1:
        return x @ kernel[0, 0]
    around = [(amount, amount) for amount in padding]
    return jax.lax.conv_general_dilated(x, kernel, (stride, stride), around, dimension_numbers=LAYOUT)


def greatest_of_window(x: FeatureMap, stride: int = 2, padding: int = 0) -> NewFeatureMap:
    """Returns the maximum of each 3×3 window. Padding never is the maximum."""
    around = (padding, padding)
    padded = jnp.pad(x, ((0, 0), around, around, (0, 0)), constant_values=-jnp.inf)
    return reduce(jnp.maximum, under_window(padded, stride))


def mean_of_window(x: FeatureMap) -> FeatureMap:
    """Returns the mean of the 3×3 window around each pixel. Windows at the border average 4 or 6 input pixels."""

    def total(values: FeatureMap) -> FeatureMap:
        return reduce(jnp.add, under_window(jnp.pad(values, ((0, 0), (1, 1), (1, 1), (0, 0))), 1))

    return total(x) / total(jnp.ones((1, *x.shape[1:3], 1), x.dtype))


def under_window(x: FeatureMap, stride: int) -> list[jax.Array]:
    """Returns the nine shifted inputs of a 3×3 window, for all positions where the window fits.

    They are sliced explicitly, because XLA's ``reduce_window`` takes several times as long on a CPU.
    """
    down, across = ((size - 3) // stride + 1 for size in x.shape[1:3])
    return [
        x[:, row : row + stride * (down - 1) + 1 : stride, column : column + stride * (across - 1) + 1 : stride]
        for row, column in product(range(3), repeat=2)
    ]


class BlockA(nn.Module):
    """A block at 35×35 with parallel branches: a 1×1, a 5×5, two 3×3, and a mean (Szegedy et al. 2016, figure 5)."""

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
    """A block from 35×35 to 17×17 (figure 10) with branches of stride 2: a 3×3, two 3×3, and a maximum."""

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
    """A block at 17×17 (figure 6): a 1×1, a 7×7, two 7×7, and a mean. Each 7×7 is split into a row and a column."""

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
    """A block from 17×17 to 8×8 with branches of stride 2: a 3×3, a 7×7 followed by a 3×3, and a maximum."""

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
    """A block at 8×8 (figure 7): a 1×1, a 3×3, two 3×3, and a pool. The last 3×3 of a branch is a row beside a column.

    Attributes:
        pool: pools 3×3 windows and keeps the size.
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
    """The network: images ``(batch, 299, 299, 3)`` in [-1, 1] to 2048 features and 1008 class scores.

    The scores omit the bias, because the original code of the Inception score (Salimans et al. 2016) omits it.
    Published scores follow that code.
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
