"""Degrades images as BSRGAN does (Zhang et al. 2021, section 3), to train super-resolution for imperfect inputs.

pixels -> two blurs, a resize by chance, the resize to the low resolution, noise and JPEG, in random order -> JPEG

unCLIP's second upsampler trains so (Ramesh et al. 2022, appendix C, citing Rombach et al. 2022). The paper prints no
numbers. These are those of BSRGAN's published code for the factor f between both resolutions:

    blur       Gaussian of 7 to 25 pixels, half of them with one deviation, U(0, 2 + f/5), and half with two variances,
               U(0, 4 + f), along random axes
    halved     before all else, for 1/4 of the images where f = 4; then f = 2
    resized    for 3/4 to 1/U(1, 2f) of the size, else blurred, U(0.1, 0.6f), and every f-th pixel taken
    noise      Gaussian with a deviation of 2 to 25 of 255: 40% in each channel, 40% equal in all, 20% correlated
    JPEG       quality 30 to 95; for 90% of the images once in between, and for all at the end

Differences: no noise of a camera's sensor, resizing by Pillow, which is antialiased, and 8 bits after each operation.
"""

import io
from collections.abc import Callable

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from imagen_jax.array_types import HostPixels
from imagen_jax.data.opened_images import opened_image
from imagen_jax.data.pixels import SquarePixels

NewPixels = UInt8[np.ndarray, "new_height new_width 3"]

Operation = Callable[[HostPixels, np.random.Generator], NewPixels]
"""``operation(pixels, generator)``: one random degradation."""

SMOOTH = (Image.Resampling.BILINEAR, Image.Resampling.BICUBIC, Image.Resampling.BOX)


def degrade(pixels: SquarePixels, generator: np.random.Generator, factor: int) -> NewPixels:
    """Degrades a square image and shrinks it by ``factor``.

    Args:
        pixels: the image; its size is a multiple of ``factor``.
        generator: source of all randomness.
        factor: f, at least 2.
    """
    size = len(pixels) // factor
    if factor == 4 and generator.random() < 0.25:
        pixels, factor = resize(pixels, len(pixels) // 2, pick(generator)), 2

    def blur_by_chance(pixels: HostPixels, generator: np.random.Generator) -> HostPixels:
        return blur(pixels, random_kernel(generator, factor))

    def resize_by_chance(pixels: HostPixels, generator: np.random.Generator) -> NewPixels:
        if generator.random() < 0.75:
            return resize(pixels, int(len(pixels) / generator.uniform(1, 2 * factor)), pick(generator))
        pixels = blur(pixels, gaussian(25, generator.uniform(0.1, 0.6 * factor)))
        return resize(pixels, len(pixels) // factor, Image.Resampling.NEAREST)

    def resize_to_size(pixels: HostPixels, generator: np.random.Generator) -> NewPixels:
        return resize(pixels, size, pick(generator))

    operations: list[Operation] = [
        blur_by_chance,
        blur_by_chance,
        resize_by_chance,
        resize_to_size,
        add_noise,
        compress_mostly,
    ]
    order = list(generator.permutation(len(operations)))
    first, second = sorted(order.index(operations.index(one)) for one in (resize_by_chance, resize_to_size))
    order[first], order[second] = operations.index(resize_by_chance), operations.index(resize_to_size)
    for number in order:
        pixels = operations[number](pixels, generator)
    return compress(pixels, generator)


def pick(generator: np.random.Generator) -> Image.Resampling:
    """Picks one of the antialiased filters."""
    return SMOOTH[int(generator.integers(len(SMOOTH)))]


def resize(pixels: HostPixels, size: int, method: Image.Resampling) -> NewPixels:
    """Resizes to ``size`` pixels, at least 1, in both directions."""
    size = max(size, 1)
    return np.asarray(Image.fromarray(pixels).resize((size, size), method))


def gaussian(
    size: int, deviation: float, other_deviation: float | None = None, angle: float = 0.0
) -> Float[np.ndarray, "{size} {size}"]:
    """Returns a Gaussian kernel whose values sum to one.

    Args:
        size: height and width, odd.
        deviation: standard deviation in pixels, along the first axis.
        other_deviation: the same along the second axis; None for an equal one.
        angle: angle of the first axis to the rows, in radians.
    """
    deviations = [max(one, 0.05) for one in (deviation, deviation if other_deviation is None else other_deviation)]
    across = np.arange(size) - size // 2
    x, y = across[None, :], across[:, None]
    along = (np.cos(angle) * x + np.sin(angle) * y) / deviations[0]
    aside = (np.cos(angle) * y - np.sin(angle) * x) / deviations[1]
    kernel = np.exp(-(along**2 + aside**2) / 2)
    return kernel / kernel.sum()


def random_kernel(generator: np.random.Generator, factor: int) -> np.ndarray:
    """Returns the kernel of a random blur, see the module docstring."""
    size = 2 * int(generator.integers(2, 12)) + 3
    if generator.random() < 0.5:
        return gaussian(size, generator.uniform(0, 2 + 0.2 * factor))
    one, other = np.sqrt(generator.uniform(0, 4 + factor, 2))
    return gaussian(size, one, other, generator.uniform(0, np.pi))


def blur(pixels: HostPixels, kernel: np.ndarray) -> HostPixels:
    """Convolves each channel with a symmetric kernel of odd size; the image is mirrored at its edges."""
    margin = len(kernel) // 2
    padded = np.pad(pixels.astype(np.float64), ((margin, margin), (margin, margin), (0, 0)), mode="reflect")
    height, width, _ = padded.shape
    # By Fourier transforms: a kernel of 25×25 has 625 products a pixel.
    spectrum = np.fft.rfft2(padded, axes=(0, 1)) * np.fft.rfft2(kernel, (height, width))[:, :, None]
    blurred = np.fft.irfft2(spectrum, (height, width), axes=(0, 1))[2 * margin :, 2 * margin :]
    return to_bytes(blurred)


def to_bytes(values: np.ndarray) -> HostPixels:
    """Rounds values on the scale of 0…255 to the nearest integer, and clips them."""
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def add_noise(pixels: HostPixels, generator: np.random.Generator) -> HostPixels:
    """Adds Gaussian noise, see the module docstring."""
    level, kind = int(generator.integers(2, 26)), generator.random()
    height, width, channels = pixels.shape
    if kind < 0.4:
        noise = level * generator.standard_normal((height, width, 1))
    elif kind < 0.8:
        noise = level * generator.standard_normal(pixels.shape)
    else:
        axes, _ = np.linalg.qr(generator.standard_normal((channels, channels)))
        scales = 25.0 * np.sqrt(generator.random(channels))
        noise = (scales * generator.standard_normal(pixels.shape)) @ axes.T
    return to_bytes(pixels + noise)


def compress(pixels: HostPixels, generator: np.random.Generator) -> HostPixels:
    """Stores as JPEG of a random quality, with halved chroma, and reads it again."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="JPEG", quality=int(generator.integers(30, 96)))
    with opened_image(file) as image:
        return np.asarray(image.convert("RGB"))


def compress_mostly(pixels: HostPixels, generator: np.random.Generator) -> HostPixels:
    """Stores 90% of the images as JPEG, and returns the others unchanged."""
    return compress(pixels, generator) if generator.random() < 0.9 else pixels
