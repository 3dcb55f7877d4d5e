"""Image files that nobody checked, opened within limits: formats that hold pixels alone, and not too many of them.

bytes or a stream -> one of ``FORMATS`` -> at most so many pixels -> Pillow's image, or DamagedImageError
"""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from PIL import Image

from imagen_jax.errors import make_printable

FORMATS = ("PNG", "JPEG", "WEBP", "AVIF", "BMP", "GIF", "JPEG2000", "PPM", "TIFF")
"""Pillow opens dozens more. Of those EPS is a program, which Pillow has Ghostscript run. JPEG covers cameras' MPO."""

MAX_PIXELS = 64_000_000
"""More are taken for a decompression bomb. Pillow itself only warns of 89 million, and refuses 179."""

MAX_SIDE = 2**16
"""Pixels of the longer side; no camera makes more, and what is as thin as a hair is no picture."""

MAX_SCANS = 100
"""Passes over the pixels of a JPEG, as libtiff has it; encoders make about ten. One can be 16 bytes and go over all."""

MAX_FRAMES = 1000
"""Of a TIFF, to count which Pillow compares each with all before it. Other formats' are counted at once."""

BEGINS_OF_SCANS = (b"\xff\xda\x00\x08\x01", b"\xff\xda\x00\x0a\x02", b"\xff\xda\x00\x0c\x03", b"\xff\xda\x00\x0e\x04")
"""Marker, length and number of components, of which libjpeg takes no others; coded pixels never look like a marker."""

BLOCK = 2**20
"""Bytes read at a time."""


class DamagedImageError(ValueError):
    """An image that can't be read.

    Attributes:
        reason: the same for all of a kind.
        detail: what there is to say of this one.
    """

    def __init__(self, reason: str, detail: str = "") -> None:
        detail = make_printable(detail)
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.detail = detail


@contextmanager
def opened_image(source: Any, largest: int = MAX_PIXELS) -> Iterator[Image.Image]:
    """Opens an image; it is decoded when its pixels are asked for, which should happen in the block.

    Args:
        source: the file's bytes, or the file.
        largest: pixels that it may have.

    Raises:
        DamagedImageError: it is empty, no image of ``FORMATS``, too large, would take too long, or can't be decoded;
            whatever goes wrong in the block is such an error too, so the block should decode and do no more.
    """
    if source == b"":
        raise DamagedImageError("image is empty")
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=FORMATS) as image:
            width, height = image.size
            if width * height > largest or max(width, height) > MAX_SIDE:
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
        # Decoders of a dozen formats raise what they please on bytes that nobody meant.
        raise DamagedImageError("image can't be decoded", f"{type(error).__name__}: {error}") from None


def check_scans(image: Any) -> None:
    """Checks how often a JPEG goes over its pixels, before it is decoded.

    Raises:
        DamagedImageError: more often than ``MAX_SCANS``.
    """
    if image.format not in ("JPEG", "MPO"):
        return
    file, place = image.fp, image.fp.tell()
    file.seek(0)
    scans, kept = 0, b""
    while scans <= MAX_SCANS and (block := file.read(BLOCK)):
        block = kept + block
        scans += sum(map(block.count, BEGINS_OF_SCANS))
        # One byte less than a beginning has, so that none is counted twice.
        kept = block[1 - len(BEGINS_OF_SCANS[0]) :]
    file.seek(place)
    if scans > MAX_SCANS:
        raise DamagedImageError("image would take too long", f"more than {MAX_SCANS} scans")


def check_frames(image: Any) -> None:
    """Checks how many frames a TIFF has.

    Raises:
        DamagedImageError: more than ``MAX_FRAMES``.
    """
    if image.format != "TIFF" or not image.is_animated:
        return
    # One by one: after a leap beyond the last one Pillow counts those that it leapt over.
    for frame in range(1, MAX_FRAMES + 1):
        try:
            image.seek(frame)
        except EOFError:
            image.seek(0)
            return
    raise DamagedImageError("image would take too long", f"more than {MAX_FRAMES} frames")
