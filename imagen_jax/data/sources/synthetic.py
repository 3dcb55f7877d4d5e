"""Coloured shapes on coloured backgrounds with true captions: any amount of data, without a download.

They serve tests, benchmarks and a first run on a pod. An image depends only on the seed and its index, so no list of
images is stored. Flat colours make smaller files than photographs do, which matters for benchmarks of reading.
"""

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
from jaxtyping import Float32

from imagen_jax.array_types import HostPixels
from imagen_jax.data.pixels import encode_jpeg, encode_png
from imagen_jax.data.sources.records import Part, Record
from imagen_jax.errors import UserError, lookup
from imagen_jax.runtime.seeds import check_seed

ATTRIBUTION = "Coloured shapes, drawn by imagen-jax itself: no credit is needed"

VERSION = 1
"""Version of the images. Increase it when the same options give other images."""

MIN_SIDE = 8
"""Min width and height in pixels. In smaller images the shapes can't be distinguished."""

Plane = Float32[np.ndarray, "height width"]

COLOURS = {
    "black": (0, 0, 0),
    "blue": (30, 60, 220),
    "brown": (120, 70, 30),
    "green": (20, 140, 50),
    "grey": (128, 128, 128),
    "orange": (250, 140, 20),
    "pink": (250, 150, 190),
    "purple": (120, 30, 150),
    "red": (220, 25, 35),
    "white": (255, 255, 255),
    "yellow": (250, 225, 40),
}


def _disc(x: Plane, y: Plane) -> Plane:
    return np.hypot(x, y) - np.float32(0.9)


def _square(x: Plane, y: Plane) -> Plane:
    return np.maximum(abs(x), abs(y)) - np.float32(0.8)


def _bar(x: Plane, y: Plane) -> Plane:
    return np.maximum(abs(x) - np.float32(0.95), abs(y) - np.float32(0.25))


def _pillar(x: Plane, y: Plane) -> Plane:
    return _bar(y, x)


def _diamond(x: Plane, y: Plane) -> Plane:
    return (abs(x) + abs(y) - np.float32(0.95)) * np.float32(0.5**0.5)


def _triangle(x: Plane, y: Plane) -> Plane:
    # As high as its base is wide, the tip above.
    return np.maximum((2 * abs(x) - y - np.float32(0.8)) * np.float32(0.2**0.5), y - np.float32(0.8))


def _ring(x: Plane, y: Plane) -> Plane:
    return abs(np.hypot(x, y) - np.float32(0.7)) - np.float32(0.2)


SHAPES: dict[str, Callable[[Plane, Plane], Plane]] = {
    "bar": _bar,
    "diamond": _diamond,
    "disc": _disc,
    "pillar": _pillar,
    "ring": _ring,
    "square": _square,
    "triangle": _triangle,
}
"""Signed distance of a point from a shape that fills -1…1, negative inside; y points downwards."""


ENCODINGS: dict[str, Callable[[HostPixels], bytes]] = {"jpeg": encode_jpeg, "png": encode_png}


def synthetic_parts(
    count: int = 1000, resolution: int = 64, images_per_part: int = 1000, seed: int = 0, encoding: str = "jpeg"
) -> list[Part]:
    """Lists images of one shape each in parts; images with the same caption are one concept.

    An image does not depend on ``count`` or ``images_per_part``.

    Args:
        count: number of images.
        resolution: width and height in pixels, at least ``MIN_SIDE``.
        images_per_part: max number of images of a part.
        seed: seed of the images, see ``check_seed``.
        encoding: ``jpeg`` or ``png``.

    Raises:
        UserError: a number is too small, the seed is invalid, or the encoding is unknown.
    """
    lookup(ENCODINGS, encoding, "encoding of synthetic images")
    numbers = {
        "count": (count, 1),
        "resolution": (resolution, MIN_SIDE),
        "images_per_part": (images_per_part, 1),
    }
    seed = check_seed(seed, "seed of the synthetic images")
    for name, (number, minimum) in numbers.items():
        if number < minimum:
            raise UserError(f"{name} of the synthetic images is {number}: choose {minimum} or more")
    return [
        Part(
            name=f"synthetic-{start // images_per_part:05d}",
            fingerprint=f"{VERSION} {resolution} {seed} {encoding} {indices.start}-{indices.stop}",
            read=partial(draw_records, indices, resolution, seed, encoding),
        )
        for start in range(0, count, images_per_part)
        for indices in [range(start, min(start + images_per_part, count))]
    ]


def draw_records(indices: range, resolution: int, seed: int, encoding: str) -> Iterator[Record]:
    """Draws the images with the given indices, in order."""
    for index in indices:
        caption, pixels = draw(seed, index, resolution)
        metadata = {"width": resolution, "height": resolution}
        yield Record(f"{seed}-{index:09d}", (caption,), ENCODINGS[encoding](pixels), metadata, concept=caption)


def draw(seed: int, index: int, resolution: int) -> tuple[str, HostPixels]:
    """Returns a caption such as ``"a red disc on a blue ground"``, and the image that it describes.

    The shape is completely inside the image. Its longer side is about a third to nine tenths of the image's side.

    Args:
        seed: seed of the images, at least 0.
        index: index of the image, at least 0.
        resolution: width and height in pixels.
    """
    random = np.random.default_rng([seed, index])
    shape = list(SHAPES)[random.integers(len(SHAPES))]
    colour, ground = (list(COLOURS)[number] for number in random.choice(len(COLOURS), size=2, replace=False))
    radius = random.uniform(0.2, 0.45)
    centre_x, centre_y = random.uniform(radius, 1 - radius, size=2)
    centres = (np.arange(resolution) + 0.5) / resolution
    x, y = np.meshgrid((centres - centre_x) / radius, (centres - centre_y) / radius)
    outside = SHAPES[shape](x.astype(np.float32), y.astype(np.float32))
    covered = np.clip(0.5 - outside * (radius * resolution), 0, 1)[..., None]
    pixels = covered * np.array(COLOURS[colour]) + (1 - covered) * np.array(COLOURS[ground])
    return f"{with_article(colour)} {shape} on {with_article(ground)} ground", np.rint(pixels).astype(np.uint8)


def with_article(word: str) -> str:
    """Puts "a" or "an" before a word."""
    return f"{'an' if word[0] in 'aeiou' else 'a'} {word}"
