"""What image files come as, and what becomes of them."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from imagen_jax.data.opened_images import DamagedImageError
from imagen_jax.data.pixels import decode_pixels
from imagen_jax.data.preparation.image_files import EDGES, ImageRules, check_image, hash_looks
from imagen_jax.errors import UserError


def smooth_pixels(height=60, width=90):
    """Smooth, so that JPEG is nearly exact."""
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([x * 255 // (width - 1), y * 255 // (height - 1), (x + y) % 64 + 96], axis=-1).astype(np.uint8)


def encoded(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, format=kind, **options)
    return buffer.getvalue()


def announcing(mode, width, height):
    """A PNG file whose header announces another size than it has: to make such an image takes seconds and gigabytes."""
    content = bytearray(encoded(Image.new(mode, (8, 8))))
    content[16:24] = struct.pack(">II", width, height)
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    return bytes(content)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_what_is_plain_is_stored_as_it_came(kind, mode):
    content = encoded(Image.fromarray(smooth_pixels()).convert(mode), kind)
    if (kind, mode) == ("WEBP", "L"):
        mode = "RGB"
    checked = check_image(content, ImageRules())
    assert checked.encoded == content
    assert (checked.width, checked.height, checked.source_width, checked.source_height) == (90, 60, 90, 60)


def test_transparency_of_every_form_becomes_white():
    pixels = smooth_pixels()
    alpha = np.zeros((60, 90), np.uint8)
    alpha[:, 45:] = 255
    layered = Image.fromarray(np.dstack([pixels, alpha]))
    palette = Image.fromarray(pixels).quantize(16)
    for content in (encoded(layered), encoded(layered.convert("LA")), encoded(layered, "WEBP", lossless=True)):
        stored = decode_pixels(check_image(content, ImageRules()).encoded)
        assert np.all(stored[:, :45] == 255) and not np.all(stored[:, 45:] == 255)
    content = encoded(palette, transparency=0)
    stored = decode_pixels(check_image(content, ImageRules()).encoded)
    assert np.all(stored[np.asarray(palette) == 0] == 255)


def test_prints_and_palettes_become_red_green_blue():
    pixels = smooth_pixels()
    inks = encoded(Image.fromarray(pixels).convert("CMYK"), "JPEG", quality=100, subsampling=0)
    stored = check_image(inks, ImageRules())
    assert Image.open(io.BytesIO(stored.encoded)).mode == "RGB"
    assert np.abs(decode_pixels(stored.encoded).astype(int) - pixels).mean() < 4
    few = Image.fromarray(pixels).quantize(8)
    stored = check_image(encoded(few), ImageRules())
    assert np.array_equal(decode_pixels(stored.encoded), np.asarray(few.convert("RGB")))


def test_sixteen_bits_become_eight_to_the_nearest():
    values = np.linspace(0, 65535, 60 * 90).reshape(60, 90).astype(np.uint16)
    stored = decode_pixels(check_image(encoded(Image.fromarray(values)), ImageRules()).encoded)
    assert np.abs(stored[..., 0] - values / 257).max() <= 0.5


def test_a_photo_taken_sideways_is_stored_upright():
    pixels = smooth_pixels()
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise by a quarter
    checked = check_image(encoded(Image.fromarray(pixels), "JPEG", quality=100, subsampling=0, exif=exif), ImageRules())
    assert (checked.width, checked.height) == (60, 90)
    turned = np.rot90(pixels, -1)
    assert np.abs(decode_pixels(checked.encoded).astype(int) - turned).mean() < 2
    assert Image.open(io.BytesIO(checked.encoded)).getexif().get(0x0112, 1) == 1


@pytest.mark.parametrize(("height", "width", "stored"), [(60, 90, (30, 20)), (90, 60, (20, 30)), (20, 30, (30, 20))])
def test_the_shorter_side_is_made_as_small_as_requested_and_none_is_enlarged(height, width, stored):
    checked = check_image(encoded(Image.fromarray(smooth_pixels(height, width))), ImageRules(shorter_side=20))
    assert (checked.width, checked.height) == stored and (checked.source_width, checked.source_height) == (
        width,
        height,
    )
    assert Image.open(io.BytesIO(checked.encoded)).size == stored
    if height == 60:
        means = smooth_pixels().reshape(20, 3, 30, 3, 3).mean(axis=(1, 3))
        differences = np.abs(decode_pixels(checked.encoded) - means)
        assert differences.mean() < 0.5 and differences.max() < 4, "nearly the means of the areas"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "image is empty"),
        (b"<!DOCTYPE html><html><body>404 Not Found</body></html>", "not an image"),
        (encoded(Image.fromarray(smooth_pixels()), "JPEG")[:-400], "image can't be decoded"),
        (encoded(Image.fromarray(smooth_pixels()))[:-60], "image can't be decoded"),
        (announcing("L", 9000, 8000), "image is too large"),
        (announcing("1", 60000, 60000), "image is too large"),
        (
            encoded(Image.new("L", (8, 8)), "GIF", save_all=True, append_images=[Image.new("L", (8, 8), 255)]),
            "image is animated",
        ),
        (encoded(Image.fromarray(np.zeros((4, 4), np.float32)), "TIFF"), "image has no 8-bit form"),
    ],
    ids=["empty", "html", "jpeg cut", "png cut", "large", "bomb", "animated", "floats"],
)  # fmt: skip
def test_what_cannot_be_trained_on_is_refused_with_a_reason(content, reason):
    with pytest.raises(DamagedImageError) as caught:
        check_image(content, ImageRules())
    assert caught.value.reason == reason


def test_mutated_files_are_read_or_refused_and_never_anything_else():
    generator = np.random.default_rng(0)
    outcomes = set()
    for kind in ("PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP"):
        whole = np.frombuffer(encoded(Image.fromarray(smooth_pixels(24, 24)), kind), np.uint8)
        for _ in range(150):
            mutated = whole.copy()
            indices = generator.integers(0, len(mutated), generator.integers(1, 6))
            mutated[indices] = generator.integers(0, 256, len(indices))
            try:
                checked = check_image(mutated[: generator.integers(1, len(mutated) + 1)].tobytes(), ImageRules())
                stored = decode_pixels(checked.encoded)
                assert stored.shape == (checked.height, checked.width, 3)
                outcomes.add("read")
            except DamagedImageError as error:
                outcomes.add(error.reason)
    assert {"read", "not an image", "image can't be decoded"} <= outcomes


def test_looks_are_alike_of_copies_and_of_nothing_else():
    def differing(one, other):
        edges = [np.frombuffer(look, np.uint8, EDGES) for look in (one, other)]
        return int(np.bitwise_count(edges[0] ^ edges[1]).sum())

    generator = np.random.default_rng(0)
    images = [
        np.asarray(Image.fromarray(generator.integers(0, 256, (5, 7, 3), np.uint8)).resize((200, 150), 3))
        for _ in range(6)
    ]
    looks = [hash_looks(pixels) for pixels in images]
    for pixels, look in zip(images, looks, strict=True):
        smaller = np.asarray(Image.fromarray(pixels).resize((100, 75), Image.Resampling.BOX))
        again = decode_pixels(encoded(Image.fromarray(pixels), "JPEG", quality=60))
        assert max(differing(look, hash_looks(copy)) for copy in (smaller, again)) <= 10
    assert min(differing(a, b) for a in looks for b in looks if a is not b) > 60


@pytest.mark.parametrize(("rule", "value"), [("shorter_side", 0), ("quality", 0), ("quality", 101)])
def test_impossible_rules_are_refused(rule, value):
    with pytest.raises(UserError, match=rf"\b{value}\b"):
        ImageRules(**{rule: value})
