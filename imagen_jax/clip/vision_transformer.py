"""CLIP's image tower as a vision transformer (Dosovitskiy et al. 2020, arXiv 2010.11929; Radford et al. 2021, 2.4).

    patches of an image, class token -> + positions -> norm -> transformer -> class token, or mean of patches -> norm
    -> projection

Class token, positions and projection start with standard deviation width^-1/2, as in OpenAI's code. The kernel of
the patches starts with that of its number of inputs, which keeps the variance of normalised pixels.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from imagen_jax.array_types import DTYPES, Images
from imagen_jax.clip.transformer import (
    Embeddings,
    Norm,
    States,
    block_class,
    check_transformer,
    normal,
    projection,
    run_scanned,
)
from imagen_jax.errors import UserError, lookup
from imagen_jax.sharding.axes import constrain, gather, gathering, with_logical_axes

POOLS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "class_token": lambda x: x[:, 0],
    "mean": lambda x: x[:, 1:].mean(axis=1),
}
"""From the last states, ``(batch, 1 + patches, width)``, to one vector for each image."""

ZEROS: Any = nn.initializers.zeros_init()

PATCH_AXES = ("taps", "taps", "channels", "channels")
POSITION_AXES = ("places", "channels")
NOISE_AXES = ("channels", "channels")

CLEAN = 20.0
"""The log-SNR of images without noise, at which a tower that takes noisy images measures clean ones."""

MAX_PERIOD = 100.0
"""Max period of the features of a log-SNR, which lies within about ±20."""


class Patches(nn.Module):
    """Maps each patch of an image to one vector, row by row.

    Attributes:
        size: the side of a patch, in pixels.
        width: the size of the vectors.
        dtype: the compute dtype.
    """

    size: int
    width: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, images: Images) -> States:
        """Returns ``(batch, patches, width)``."""
        batch, height, width, channels = images.shape
        deviation = (self.size**2 * channels) ** -0.5
        shape = (self.size, self.size, channels, self.width)
        kernel: Any = self.param("kernel", with_logical_axes(normal(deviation), PATCH_AXES), shape)
        kernel = gather(kernel, PATCH_AXES, self.dtype)
        rows, columns = height // self.size, width // self.size
        # Patches do not overlap, so the convolution with stride ``size`` is a single matrix product.
        patches = images.astype(self.dtype).reshape(batch, rows, self.size, columns, self.size, channels)
        patches = patches.transpose(0, 1, 3, 2, 4, 5).reshape(batch, rows * columns, -1)
        return patches @ kernel.reshape(-1, self.width)


class VisionTransformer(nn.Module):
    """``tower.apply({"params": params}, images)``: normalised images to embeddings, which have any length.

    Attributes:
        resolution: the side of an image, in pixels.
        patch: the side of a patch, in pixels; a divisor of ``resolution``.
        width: the size of the hidden states.
        layers: the number of layers.
        heads: the number of attention heads; a divisor of ``width``.
        hidden: the width inside the perceptrons.
        embedding: the size of the embeddings.
        activation: a key of ``transformer.ACTIVATIONS``; OpenAI's models have "quick_gelu".
        pool: "class_token", or "mean" of the patches' last states. Either is normalised after it is pooled.
        patch_dropout: the share of patches that training leaves out (Li et al. 2022, arXiv 2212.00794).
        first_norm: whether the states are normalised before the first layer.
        noise_conditioned: whether it takes noisy images and their log-SNR, to guide diffusion (Nichol et al. 2021,
            arXiv 2112.10741, section 2.4).
        remat: a key of ``transformer.REMAT``.
        scan: whether the layers run as one loop.
        dtype: the compute dtype, a key of ``array_types.DTYPES``. The embeddings are float32.

    Raises:
        UserError: the fields contradict each other.
    """

    resolution: int
    patch: int
    width: int
    layers: int
    heads: int
    hidden: int
    embedding: int
    activation: str = "gelu"
    pool: str = "class_token"
    patch_dropout: float = 0.0
    first_norm: bool = True
    noise_conditioned: bool = False
    remat: str = "none"
    scan: bool = False
    dtype: str = "float32"

    def __post_init__(self) -> None:
        check_transformer(self)
        lookup(POOLS, self.pool, "pool")
        if self.patch < 1 or self.resolution < self.patch or self.resolution % self.patch:
            raise UserError(f"patches of {self.patch} pixels do not fill {self.resolution} pixels: choose a divisor")
        if not 0 <= self.patch_dropout < 1:
            raise UserError(f"patch_dropout={self.patch_dropout} is not a share from 0 to below 1: change it")
        super().__post_init__()

    def example_input(self) -> np.ndarray:
        """Returns an input of one image, for ``init``."""
        return np.zeros((1, self.resolution, self.resolution, 3), np.float32)

    @nn.compact
    def __call__(
        self, images: Images, train: bool = False, log_snr: Float[Array, " batch"] | None = None
    ) -> Embeddings:
        """Returns the embeddings, ``(batch, embedding)``, float32.

        Args:
            images: ``(batch, resolution, resolution, 3)``, normalised with the CLIP's mean and deviation.
            train: whether patches are left out, which needs a "dropout" key if ``patch_dropout`` is not 0.
            log_snr: log-SNR of each image, for a tower that is noise-conditioned; None for clean images.

        Raises:
            UserError: the images have another size.
        """
        if images.shape[1:] != (self.resolution, self.resolution, 3):
            raise UserError(f"images of shape {images.shape[1:]} do not fit a tower of {self.resolution} pixels")
        dtype = DTYPES[self.dtype]
        x = self.add_positions(Patches(self.patch, self.width, dtype, name="patches")(images))
        if self.noise_conditioned:
            log_snr = jnp.full(len(images), CLEAN) if log_snr is None else log_snr
            x = x + noise_embedding(self.width, "noise")(noise_features(log_snr, self.width))[:, None].astype(x.dtype)
        if train and self.patch_dropout > 0:
            x = drop_patches(x, self.patch_dropout, self.make_rng("dropout"))
        x = constrain(x, "batch", "places", "channels")
        if self.first_norm:
            x = Norm(name="first_norm")(x)
        x = self.run_layers(x)
        normed = Norm(name="last_norm")(POOLS[self.pool](x))
        return projection(self.embedding, self.width, dtype, "projection")(normed).astype(jnp.float32)

    def add_positions(self, patches: Float[Array, "batch patches tower_width"]) -> States:
        """Puts the class token before the patches, and adds the positions."""
        start = normal(self.width**-0.5)
        class_token: Any = self.param("class_token", start, (self.width,))
        shape = (patches.shape[1] + 1, self.width)
        positions: Any = self.param("positions", with_logical_axes(start, POSITION_AXES), shape)
        first = jnp.broadcast_to(class_token.astype(patches.dtype), (len(patches), 1, self.width))
        return jnp.concatenate([first, patches], axis=1) + gather(positions, POSITION_AXES, patches.dtype)[None]

    def run_layers(self, x: States) -> States:
        """Runs the layers, unrolled or as a loop."""
        make = block_class(self.remat)
        fields = (self.heads, self.hidden, self.layers, self.activation, False, self.dtype)
        names = [f"layer_{index}" for index in range(self.layers)]
        if self.scan and self.layers > 1 and not self.is_initializing():
            return run_scanned(self, make(*fields, parent=None), names, x)
        for name in names:
            x = make(*fields, name=name)(x)
        return x


def noise_features(log_snr: Float[Array, " batch"], width: int) -> Float[Array, "batch features"]:
    """Returns cosines and sines of a log-SNR, with periods from 2π/10 to ``MAX_PERIOD``."""
    count = (width + 1) // 2
    frequencies = jnp.geomspace(10.0, 2 * jnp.pi / MAX_PERIOD, count)
    angles = log_snr[:, None] * frequencies[None]
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=1)


def noise_embedding(width: int, name: str) -> nn.Dense:
    """Returns the layer that adds the noise level to each token; it starts with zeros."""
    initialise = with_logical_axes(ZEROS, NOISE_AXES)
    gathered = gathering(NOISE_AXES)
    return nn.Dense(width, kernel_init=initialise, promote_dtype=gathered, dtype=jnp.float32, name=name)


def drop_patches(x: States, share: float, key: jax.Array) -> Float[Array, "batch kept tower_width"]:
    """Leaves out a share of the patches, other ones for each image, and keeps the class token.

    It keeps ``max(1, floor((1 - share) · patches))`` patches of each image.
    """
    batch, positions, _ = x.shape
    kept = max(1, int((positions - 1) * (1 - share)))
    _, indices = jax.lax.top_k(jax.random.uniform(key, (batch, positions - 1)), kept)
    patches = jnp.take_along_axis(x[:, 1:], indices[:, :, None], axis=1)
    return jnp.concatenate([x[:, :1], patches], axis=1)
