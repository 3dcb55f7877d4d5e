"""Renders images in threads: the rasteriser and the PNG encoder release Python's GIL."""

import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from imagen_jax.data.pixels import encode_png
from imagen_jax.data.sources.captioned_image import CaptionedImage


def render_in_threads(images: Sequence[CaptionedImage], resolution: int) -> Iterator[bytes]:
    """Yields each image as a PNG, in order, rendering a few ahead."""
    threads = os.cpu_count() or 1
    futures: deque[Future[bytes]] = deque()
    with ThreadPoolExecutor(threads) as executor:
        for image in images:
            futures.append(executor.submit(render_png, image, resolution))
            # A bounded queue, so that a large source does not fill the memory.
            if len(futures) > 4 * threads:
                yield futures.popleft().result()
        while futures:
            yield futures.popleft().result()


def render_png(image: CaptionedImage, resolution: int) -> bytes:
    """Renders one image and encodes it as a PNG."""
    return encode_png(image.render(resolution))
