"""Images are opened within limits, and whatever is wrong with one is one kind of error."""

import io
import subprocess
import sys
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from imagen_jax.cascade.edits import read_mask, read_picture
from imagen_jax.data.opened_images import FORMATS, MAX_FRAMES, MAX_PIXELS, MAX_SCANS, DamagedImageError, opened_image
from imagen_jax.data.pixels import decode_pixels
from imagen_jax.errors import UserError
from imagen_jax.storage.paths import to_path


def encoded(image, form="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, format=form, **options)
    return buffer.getvalue()


SMALL = Image.fromarray(np.arange(192, dtype=np.uint8).reshape(8, 8, 3))


@pytest.mark.parametrize("form", FORMATS)
def test_formats_are_opened(form):
    if form == "AVIF":
        pytest.importorskip("PIL._avif")
    with opened_image(encoded(SMALL, form)) as image:
        assert image.format == form and image.size == (8, 8)
    with opened_image(io.BytesIO(encoded(SMALL, form))) as image:
        image.load()


@pytest.mark.parametrize("form", ["ICO", "PCX", "SGI", "TGA", "EPS", "PDF"])
def test_other_formats_are_not(form):
    with pytest.raises(DamagedImageError, match="not an image"), opened_image(encoded(SMALL, form)):
        pass


def test_what_pillow_warns_of_is_an_error(tmp_path):
    # 90 million pixels, of which Pillow says "could be decompression bomb" and decodes them.
    bomb = encoded(Image.new("1", (10_000, 9_000)))
    assert len(bomb) < 20_000 and MAX_PIXELS < 10_000 * 9_000
    with pytest.raises(DamagedImageError, match=r"DecompressionBombWarning|too large"), opened_image(bomb):
        pass
    (tmp_path / "bomb.png").write_bytes(bomb)
    for read in (read_picture, read_mask):
        with pytest.raises(UserError, match=r"bomb\.png"):
            read(tmp_path / "bomb.png")


def test_a_text_that_is_a_bomb_is_an_error():
    info = PngInfo()
    info.add(b"zTXt", b"prompt\0\0" + zlib.compress(b"x" * 50_000_000))
    with pytest.raises(DamagedImageError, match="can't be decoded"):
        decode_pixels(encoded(SMALL, pnginfo=info))


def test_an_image_that_is_cut_short_is_an_error():
    for form in ("PNG", "JPEG", "WEBP"):
        whole = encoded(Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)), form)
        with pytest.raises(DamagedImageError):
            decode_pixels(whole[: len(whole) // 2])


def with_scans(count):
    """A progressive JPEG whose smallest scan comes again and again."""
    whole = encoded(Image.new("L", (64, 64), 128), "JPEG", progressive=True)
    scans = whole[:-2].split(b"\xff\xda")[1:]
    return whole[:-2] + (b"\xff\xda" + min(scans, key=len)) * (count - len(scans)) + whole[-2:]


@pytest.mark.parametrize("block", [2**20, 7])
def test_an_image_of_endless_scans_is_an_error(monkeypatch, block):
    """An image of 7900 × 7900 pixels and 383 kB could take 17 seconds."""
    monkeypatch.setattr("imagen_jax.data.opened_images.BLOCK", block)
    assert decode_pixels(with_scans(MAX_SCANS)).shape == (64, 64, 3)
    many = with_scans(MAX_SCANS + 1)
    for source in (many, io.BytesIO(many)):
        with pytest.raises(DamagedImageError, match=r"\b100 scans"), opened_image(source):
            pass


def test_what_looks_like_scans_and_is_none_does_not_count():
    """Of bytes by chance, such as a film behind a photo, every 65,536th begins as a marker."""
    chance = b"\xff\xda" * 100_000 + np.random.default_rng(0).bytes(10**6)
    with opened_image(io.BytesIO(encoded(SMALL, "JPEG") + chance)) as image:
        image.load()


def test_an_image_of_endless_frames_is_an_error():
    """They would be counted in a time that grows with their square: 24,000 took 8 seconds."""
    frame = bytearray(encoded(Image.new("L", (8, 8)), "TIFF"))
    begin = int.from_bytes(frame[4:8], "little")
    end = begin + 2 + 12 * int.from_bytes(frame[begin : begin + 2], "little")
    for count, matches in ((MAX_FRAMES, False), (MAX_FRAMES + 1, True)):
        parts = [bytes(frame[:end])]
        for number in range(1, count):
            following = len(frame) + (number - 1) * (end - begin + 4)
            parts.append((following).to_bytes(4, "little") + (bytes(frame[end + 4 :]) if number == 1 else b""))
            parts.append(bytes(frame[begin:end]))
        content = b"".join([*parts, bytes(4)])
        if matches:
            with pytest.raises(DamagedImageError, match=r"\b1000 frames"), opened_image(content):
                pass
        else:
            with opened_image(content) as image:
                assert image.n_frames == MAX_FRAMES and image.tell() == 0
                image.load()


def test_a_detail_can_be_printed():
    with pytest.raises(DamagedImageError) as caught, opened_image(b"\x1b[2J\xff" * 900):
        pass
    assert str(caught.value).isprintable() and len(str(caught.value)) < 1500


LARGEST = """
import io
from pathlib import Path
from PIL import Image
from imagen_jax.data.preparation.image_files import ImageRules, check_image
for mode in ("RGBA", "I;16"):
    buffer = io.BytesIO()
    Image.new(mode, (8000, 8000)).save(buffer, format="PNG", compress_level=1)
    check_image(buffer.getvalue(), ImageRules(64))
# Not getrusage's, which counts the process that this one was forked from.
print(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux reports a process's peak of memory")
@pytest.mark.thorough
def test_an_image_of_max_size_takes_less_than_a_gigabyte():
    done = subprocess.run([sys.executable, "-c", LARGEST], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 1.4 * 2**20, "the libraries take a third of a gigabyte"


def test_a_mask_is_white_where_it_is_white_and_opaque_and_takes_little_memory(tmp_path):
    rgba = np.random.default_rng(0).integers(0, 256, (600, 500, 4), np.uint8)
    rgba[:2, :2] = 255
    Image.fromarray(rgba).save(tmp_path / "mask.png")
    tracemalloc.start()
    mask = read_mask(to_path(tmp_path / "mask.png"))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    shares = rgba.astype(np.float64) / 255
    np.testing.assert_allclose(mask, shares[..., :3].mean(-1) * shares[..., 3], atol=1e-6)
    assert mask.dtype == np.float32 and mask[0, 0] == 1
    assert peak < 20 * mask.size, "a few bytes for each pixel, whatever its channels"
