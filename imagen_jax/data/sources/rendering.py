"""Draws images in threads: the rasteriser and the PNG encoder leave Python's lock to others while they work."""

import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from imagen_jax.data.pixels import encode_png
from imagen_jax.data.sources.captioned_image import CaptionedImage


def render_in_threads(images: Sequence[CaptionedImage], resolution: int) -> Iterator[bytes]:
    """Yields each image as a PNG, in order, with a few drawn ahead."""
    threads = os.cpu_count() or 1
    drawn: deque[Future[bytes]] = deque()
    with ThreadPoolExecutor(threads) as executor:
        for image in images:
            drawn.append(executor.submit(render_png, image, resolution))
            # A bounded queue, so that a large source does not fill the memory.
            if len(drawn) > 4 * threads:
                yield drawn.popleft().result()
        while drawn:
            yield drawn.popleft().result()


def render_png(image: CaptionedImage, resolution: int) -> bytes:
    """Draws one image and encodes it."""
    return encode_png(image.render(resolution))
