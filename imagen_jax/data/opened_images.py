"""Opens unchecked image files within limits: only raster formats, and a max size.

bytes or a stream -> one of ``FORMATS`` -> at most ``MAX_PIXELS`` pixels -> Pillow's image, or DamagedImageError
"""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from PIL import Image

from imagen_jax.errors import make_printable

FORMATS = ("PNG", "JPEG", "WEBP", "AVIF", "BMP", "GIF", "JPEG2000", "PPM", "TIFF")
"""Accepted image formats.

Pillow opens dozens more, among them EPS, whose files are programs that Pillow runs with Ghostscript. "JPEG" includes
MPO files, which cameras write.
"""

MAX_PIXELS = 64_000_000
"""Max width × height.

A larger image is treated as a decompression bomb. Pillow itself only warns above 89 million pixels, and raises above
179 million.
"""

MAX_SIDE = 2**16
"""Max pixels of the longer side.

No camera exceeds it, and a longer image within ``MAX_PIXELS`` is too thin to be useful.
"""

MAX_SCANS = 100
"""Max number of scans of a JPEG, which are passes over its pixels.

libtiff has the same limit, and encoders write about ten. A scan of 16 bytes can cover all pixels.
"""

MAX_FRAMES = 1000
"""Max number of frames of a TIFF.

To count them, Pillow compares each frame with all before it. Counting the frames of other formats is fast.
"""

BEGINS_OF_SCANS = (b"\xff\xda\x00\x08\x01", b"\xff\xda\x00\x0a\x02", b"\xff\xda\x00\x0c\x03", b"\xff\xda\x00\x0e\x04")
"""First bytes of a JPEG scan: marker, length and number of components.

libjpeg accepts no others, and coded pixels never contain a marker.
"""

BLOCK = 2**20
"""Number of bytes read at a time."""


class DamagedImageError(ValueError):
    """Raised for an image that can't be read.

    Attributes:
        reason: general reason, equal for all images with the same kind of damage.
        detail: details of this image, or an empty string.
    """

    def __init__(self, reason: str, detail: str = "") -> None:
        detail = make_printable(detail)
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.detail = detail


@contextmanager
def opened_image(source: Any, max_pixels: int = MAX_PIXELS) -> Iterator[Image.Image]:
    """Opens an image as a context manager. Pillow decodes it lazily, so decode it within the block.

    Args:
        source: the file's bytes, or the file.
        max_pixels: max width × height in pixels.

    Raises:
        DamagedImageError: the image is empty, of none of ``FORMATS``, too large, too slow to decode, or can't be
            decoded. Any other exception in the block except ``MemoryError`` becomes this error, so the block should
            only decode.
    """
    if source == b"":
        raise DamagedImageError("image is empty")
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=FORMATS) as image:
            width, height = image.size
            if width * height > max_pixels or max(width, height) > MAX_SIDE:
                raise DamagedImageError("image is too large", f"{width}×{height} pixels")
            check_scans(image)
            check_frames(image)
            yield image
    except (DamagedImageError, MemoryError):
        raise
    except Image.UnidentifiedImageError:
        begin = f"begins with {source[:16]!r}" if isinstance(source, bytes) else ""
        raise DamagedImageError("not an image", begin) from None
    except Image.DecompressionBombError as error:
        raise DamagedImageError("image is too large", str(error)) from None
    except Exception as error:
        # The decoders raise many exception types on invalid bytes.
        raise DamagedImageError("image can't be decoded", f"{type(error).__name__}: {error}") from None


def check_scans(image: Any) -> None:
    """Checks the number of scans of a JPEG before it is decoded.

    Raises:
        DamagedImageError: there are more than ``MAX_SCANS``.
    """
    if image.format not in ("JPEG", "MPO"):
        return
    file, start = image.fp, image.fp.tell()
    file.seek(0)
    scans, kept = 0, b""
    while scans <= MAX_SCANS and (block := file.read(BLOCK)):
        block = kept + block
        scans += sum(map(block.count, BEGINS_OF_SCANS))
        # One byte shorter than a scan's first bytes, so that none is counted twice.
        kept = block[1 - len(BEGINS_OF_SCANS[0]) :]
    file.seek(start)
    if scans > MAX_SCANS:
        raise DamagedImageError("image would take too long", f"more than {MAX_SCANS} scans")


def check_frames(image: Any) -> None:
    """Checks the number of frames of a TIFF.

    Raises:
        DamagedImageError: there are more than ``MAX_FRAMES``.
    """
    if image.format != "TIFF" or not image.is_animated:
        return
    # Seek frame by frame: after a seek beyond the last frame, Pillow counts all the frames that it skipped.
    for frame in range(1, MAX_FRAMES + 1):
        try:
            image.seek(frame)
        except EOFError:
            image.seek(0)
            return
    raise DamagedImageError("image would take too long", f"more than {MAX_FRAMES} frames")
