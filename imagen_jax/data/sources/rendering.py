"""Renders images in threads: the rasteriser and the PNG encoder release Python's GIL.

One error names all faulty images of a source, so that the user can mend them at once.
"""

import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from imagen_jax.data.pixels import encode_png
from imagen_jax.data.sources.captioned_image import CaptionedImage, FaultyImageError
from imagen_jax.errors import UserError

MAX_NAMED = 20
"""Max number of faulty images that the error names."""


def render_in_threads(images: Sequence[CaptionedImage], resolution: int) -> Iterator[bytes]:
    """Yields each image as a PNG, in order, rendering a few ahead.

    After a faulty image nothing more is yielded, but all other images are tried too.

    Raises:
        UserError: images are faulty. The message names the first ones, and says how many there are.
    """
    faults: list[tuple[str, FaultyImageError]] = []
    for image, future in start_in_threads(images, resolution):
        try:
            png = future.result()
        except FaultyImageError as error:
            faults.append((image.key, error))
        else:
            if not faults:
                yield png
    if faults:
        raise UserError(describe_faults(faults, len(images), resolution)) from faults[0][1]


def start_in_threads(
    images: Sequence[CaptionedImage], resolution: int
) -> Iterator[tuple[CaptionedImage, Future[bytes]]]:
    """Yields each image with its PNG to wait for, in order, a few ahead."""
    threads = os.cpu_count() or 1
    begun: deque[tuple[CaptionedImage, Future[bytes]]] = deque()
    with ThreadPoolExecutor(threads) as executor:
        for image in images:
            begun.append((image, executor.submit(render_png, image, resolution)))
            # A bounded queue, so that a large source does not fill the memory.
            if len(begun) > 4 * threads:
                yield begun.popleft()
        while begun:
            yield begun.popleft()


def render_png(image: CaptionedImage, resolution: int) -> bytes:
    """Renders one image and encodes it as a PNG."""
    return encode_png(image.render(resolution))


def describe_faults(faults: Sequence[tuple[str, FaultyImageError]], images: int, resolution: int) -> str:
    """Returns a sentence that names the faulty images by their faults, at most ``MAX_NAMED``, and says what to do.

    Args:
        faults: key and error of each faulty image.
        images: number of all images.
        resolution: height and width to which the images are rendered.
    """
    remedy = f"imagen-jax prepare_data --min_side={resolution}"
    if len(faults) == 1:
        return f"{faults[0][1]}; `{remedy}` leaves such an image out"
    by_fault: dict[str, list[str]] = {}
    for key, error in faults[:MAX_NAMED]:
        by_fault.setdefault(error.fault, []).append(key)
    named = [f"{fault}: {', '.join(keys)}" for fault, keys in by_fault.items()]
    if len(faults) > MAX_NAMED:
        named.append(f"and {len(faults) - MAX_NAMED} more")
    return (
        f"{len(faults)} of {images} images can't be used ({'; '.join(named)}): repair or remove them, or use "
        f"`{remedy}`, which leaves such images out"
    )
