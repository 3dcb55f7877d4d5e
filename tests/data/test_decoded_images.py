"""Every reader of pictures decodes every kind of image file to the same pixels, or refuses it in one sentence.

What is right is stated by what each format means (which number is black and which is white), and for orientation by
the table of EXIF 2.32: where the first stored row and the first stored column lie in the upright picture.
"""

import base64
import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from imagen_jax.cascade.edits import Edit, read_mask, read_picture
from imagen_jax.data.opened_images import DamagedImageError
from imagen_jax.data.pixels import decode_pixels
from imagen_jax.data.preparation.image_files import ImageRules, check_image
from imagen_jax.data.sources.captioned_image import CaptionedImage
from imagen_jax.data.sources.folder import folder_images
from imagen_jax.data.stored_images import StoredImage
from imagen_jax.data.transforms import prepare_centre, prepare_whole
from imagen_jax.errors import UserError
from imagen_jax.evaluation.protocols import sampled_images
from imagen_jax.evaluation.protocols.references import Reference
from imagen_jax.evaluation.reports.html_pages import thumbnail
from imagen_jax.web.orders import Limits, read_order
from imagen_jax.web.pairs import Found, look_into
from imagen_jax.web.rating_app import encode_bare

SIDE = 16
GREY = np.kron(np.array([[0, 80], [160, 255]], np.uint8), np.ones((8, 8), np.uint8))
"""Four fields, all different, so that each of the eight orientations looks different."""

COLOURS = np.stack([GREY, np.rot90(GREY), np.rot90(GREY, 2)], axis=-1)
HALF = np.repeat(np.array([[0] * 8 + [255] * 8], np.uint8), SIDE, axis=0)
"""An alpha channel: transparent on the left, opaque on the right."""


def saved(image, form="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, format=form, **options)
    return buffer.getvalue()


def rgb(grey):
    return np.repeat(np.asarray(grey, np.uint8)[..., None], 3, axis=-1)


def on_white(pixels):
    return np.where(HALF[..., None] == 255, pixels, 255)


def png16(values, colour_type, *chunks):
    """A PNG with 16 bits a channel, which Pillow writes for grey alone."""
    height, width = values.shape[:2]

    def chunk(name, content):
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0))
    return (
        b"\x89PNG\r\n\x1a\n"
        + header
        + b"".join(chunk(*one) for one in chunks)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


WIDE = GREY.astype(np.uint16) * 257
"""16 bits: 65535 is as white as 255, so 257 is as dark as 1."""

ALPHA16 = HALF.astype(np.uint16) * 257
PALETTE = Image.fromarray(COLOURS).quantize(8)
BLACK_AND_WHITE = np.where(GREY >= 128, 255, 0)
LIGHTNESS = np.stack([np.where(GREY >= 128, 255, 0), np.zeros_like(GREY), np.zeros_like(GREY)], -1).astype(np.uint8)
INKS = np.concatenate([255 - COLOURS, np.zeros_like(COLOURS[..., :1])], axis=-1)

KINDS = {
    "1": (saved(Image.fromarray(GREY >= 128)), rgb(BLACK_AND_WHITE), 0),
    "L": (saved(Image.fromarray(GREY)), rgb(GREY), 0),
    "L with a transparent grey": (
        saved(Image.fromarray(GREY), transparency=80),
        rgb(np.where(GREY == 80, 255, GREY)),
        0,
    ),
    "LA": (saved(Image.fromarray(np.dstack([GREY, HALF]), "LA")), on_white(rgb(GREY)), 0),
    "P": (saved(PALETTE), np.asarray(PALETTE.convert("RGB")), 0),
    "P with a transparent entry": (
        saved(PALETTE, transparency=0),
        np.where(np.asarray(PALETTE)[..., None] == 0, 255, np.asarray(PALETTE.convert("RGB"))),
        0,
    ),
    "RGB": (saved(Image.fromarray(COLOURS)), COLOURS, 0),
    "RGBA": (saved(Image.fromarray(np.dstack([COLOURS, HALF]))), on_white(COLOURS), 0),
    "CMYK": (saved(Image.fromarray(INKS, "CMYK"), "TIFF"), COLOURS, 0),
    "YCbCr JPEG": (saved(Image.fromarray(COLOURS), "JPEG", quality=100, subsampling=0), COLOURS, 2),
    "YCbCr TIFF": (saved(Image.new("YCbCr", (SIDE, SIDE), (90, 128, 128)), "TIFF"), np.full((SIDE, SIDE, 3), 90), 1),
    "LAB": (saved(Image.fromarray(LIGHTNESS, "LAB"), "TIFF"), rgb(BLACK_AND_WHITE), 1),
    "I;16 PNG": (saved(Image.fromarray(WIDE)), rgb(GREY), 0),
    "I;16 TIFF": (saved(Image.fromarray(WIDE), "TIFF"), rgb(GREY), 0),
    "I;16B TIFF": (saved(Image.frombytes("I;16B", (SIDE, SIDE), WIDE.astype(">u2").tobytes()), "TIFF"), rgb(GREY), 0),
    "I;16 JPEG 2000": (saved(Image.fromarray(WIDE), "JPEG2000"), rgb(GREY), 0),
    "16-bit PGM": (b"P5 16 16 65535\n" + WIDE.astype(">u2").tobytes(), rgb(GREY), 0),
    "16-bit grey with a transparent grey": (
        png16(WIDE, 0, (b"tRNS", struct.pack(">H", 80 * 257))),
        rgb(np.where(GREY == 80, 255, GREY)),
        0,
    ),
    "16-bit LA": (png16(np.dstack([WIDE, ALPHA16]), 4), on_white(rgb(GREY)), 1),
    "16-bit RGB": (png16(COLOURS.astype(np.uint16) * 257, 2), COLOURS, 1),
    "16-bit RGBA": (png16(np.dstack([COLOURS.astype(np.uint16) * 257, ALPHA16]), 6), on_white(COLOURS), 1),
}  # fmt: skip
"""An image file, the pixels that it means, and by how many levels each may differ."""

REFUSED = {
    "floats from 0 to 1": saved(Image.fromarray(GREY.astype(np.float32) / 255), "TIFF"),
    "floats from 0 to 255": saved(Image.fromarray(GREY.astype(np.float32)), "TIFF"),
    "32-bit integers": saved(Image.fromarray(GREY.astype(np.int32)), "TIFF"),
    "animated": saved(Image.fromarray(GREY), "GIF", save_all=True, append_images=[Image.fromarray(255 - GREY)]),
}


def stored(content):
    return StoredImage("picture", ("a picture",), content)


def through_folder(content, folder):
    (folder / "picture.png").write_bytes(content)
    (folder / "picture.txt").write_text("a picture")
    (image,) = folder_images(folder)
    assert isinstance(image, CaptionedImage)
    return image.render(SIDE)


def through_reference(content, _):
    return Reference("r", "f", [("a",)], lambda _: stored(content)).image(0, SIDE)


def through_file(read):
    def read_file(content, folder):
        (folder / "picture.png").write_bytes(content)
        return read(folder / "picture.png")

    return read_file


def sent(**files):
    """The edit of an order that comes with these files."""
    urls = {name: "data:image/png;base64," + base64.b64encode(content).decode() for name, content in files.items()}
    return read_order(urls, [], Limits()).decode_edit()


def through_upload(content, _):
    return sent(image=content).image


def through_rating(content, folder):
    (folder / "picture.png").write_bytes(content)
    if not isinstance(found := look_into(folder / "picture.png"), Found):
        raise DamagedImageError(found)
    return np.asarray(Image.open(io.BytesIO(encode_bare(found.file))))


READERS = {
    "prepare_data": lambda content, _: decode_pixels(check_image(content, ImageRules()).encoded),
    "training, centre": lambda content, _: prepare_centre(stored(content), SIDE).pixels,
    "training, whole": lambda content, _: prepare_whole(stored(content), SIDE).pixels,
    "the folder source": through_folder,
    "sample --image": through_file(read_picture),
    "serve's upload": through_upload,
    "evaluate's reference": through_reference,
    "evaluate's drawn pictures": through_file(sampled_images.read_image),
    "rate": through_rating,
}  # fmt: skip


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_reader_sees_what_the_file_means(kind, reader, tmp_path):
    content, expected, tolerance = KINDS[kind]
    pixels = READERS[reader](content, tmp_path)
    assert pixels.shape == (SIDE, SIDE, 3) and pixels.dtype == np.uint8
    assert np.abs(pixels.astype(int) - expected).max() <= tolerance


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("kind", REFUSED)
def test_every_reader_refuses_what_has_no_one_meaning(kind, reader, tmp_path):
    with pytest.raises((UserError, DamagedImageError), match=r"8-bit|animated"):
        READERS[reader](REFUSED[kind], tmp_path)


def as_stored(upright, orientation):
    """The pixels that a file of an orientation stores of an upright picture, by EXIF's table.

    The first stored row is the upright picture's: 1 and 2 top, 3 and 4 bottom, 5 and 8 left, 6 and 7 right; the first
    stored column: 1 and 4 left, 2 and 3 right, 5 and 6 top, 7 and 8 bottom.
    """
    rows = {1: "top", 2: "top", 3: "bottom", 4: "bottom", 5: "left", 6: "right", 7: "right", 8: "left"}[orientation]
    columns = {1: "left", 2: "right", 3: "right", 4: "left", 5: "top", 6: "top", 7: "bottom", 8: "bottom"}[orientation]
    height, width = upright.shape[:2]
    shape = (height, width) if orientation <= 4 else (width, height)
    pixels = np.empty((*shape, *upright.shape[2:]), upright.dtype)
    for row in range(shape[0]):
        for column in range(shape[1]):
            offsets = {rows: row, columns: column}
            y = offsets.get("top", height - 1 - offsets.get("bottom", 0))
            x = offsets.get("left", width - 1 - offsets.get("right", 0))
            pixels[row, column] = upright[y, x]
    return pixels


def turned(upright, orientation, form):
    """A file of an upright picture that is stored in an orientation."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {
        "JPEG": {"quality": 100, "subsampling": 0},
        "WEBP": {"lossless": True},
        "AVIF": {"quality": 100, "subsampling": "4:4:4"},
    }
    image = Image.fromarray(np.ascontiguousarray(as_stored(upright, orientation)))
    return saved(image, form, exif=exif, **options.get(form, {}))


FORMS = ("JPEG", "PNG", "WEBP", "TIFF", "AVIF")


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_reader_turns_a_photo_upright(orientation, form, reader, tmp_path):
    if form == "AVIF":
        pytest.importorskip("PIL._avif")
    pixels = READERS[reader](turned(COLOURS, orientation, form), tmp_path)
    assert np.abs(pixels.astype(int) - COLOURS).max() <= (8 if form == "AVIF" else 2)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_thumbnail_is_upright_and_its_transparency_white(orientation, tmp_path):
    (tmp_path / "picture.png").write_bytes(turned(rgb(GREY), orientation, "PNG"))
    small = np.asarray(Image.open(io.BytesIO(thumbnail(tmp_path / "picture.png", SIDE, 10_000))))
    assert np.abs(small.astype(int) - rgb(GREY)).mean() < 10
    (tmp_path / "picture.png").write_bytes(saved(Image.new("RGBA", (SIDE, SIDE), (0, 0, 0, 0))))
    assert np.asarray(Image.open(io.BytesIO(thumbnail(tmp_path / "picture.png", SIDE, 10_000)))).min() > 250


MASK = np.zeros((SIDE, 2 * SIDE), np.uint8)
MASK[:4, :14] = 255  # within the centre square too, and alike under no turn
OBLONG = np.concatenate([COLOURS, 255 - COLOURS], axis=1)


def mask_kinds():
    wide = MASK.astype(np.uint16) * 257
    half = np.where(MASK == 255, 255, 30).astype(np.uint8)  # darker than the middle: nothing is drawn there
    palette = Image.fromarray(MASK).convert("P")
    yield "1", saved(Image.fromarray(MASK > 0))
    yield "L", saved(Image.fromarray(MASK))
    yield "LA", saved(Image.fromarray(np.dstack([np.full_like(MASK, 255), MASK]), "LA"))
    yield "P", saved(palette)
    yield "RGB", saved(Image.fromarray(rgb(MASK)))
    yield "RGBA", saved(Image.fromarray(np.dstack([rgb(np.full_like(MASK, 255)), MASK])))
    yield "CMYK", saved(Image.fromarray(np.dstack([rgb(255 - MASK), np.zeros_like(MASK)]), "CMYK"), "TIFF")
    yield "I;16", saved(Image.fromarray(wide))
    yield "I;16B", saved(Image.frombytes("I;16B", MASK.shape[::-1], wide.astype(">u2").tobytes()), "TIFF")
    yield "dim 16 bits", saved(Image.fromarray(half.astype(np.uint16) * 257))
    yield "16-bit PGM", b"P5 %d %d 65535\n" % MASK.shape[::-1] + wide.astype(">u2").tobytes()
    yield "16-bit RGB", png16(rgb(MASK).astype(np.uint16) * 257, 2)
    for form in FORMS[:4]:
        for orientation in range(1, 9):
            yield f"orientation {orientation} in {form}", turned(MASK, orientation, form)


MASKS = dict(mask_kinds())


def mask_by_flag(content, folder):
    (folder / "mask").write_bytes(content)
    return read_mask(folder / "mask")


def mask_by_upload(content, _):
    return sent(image=saved(Image.fromarray(OBLONG)), mask=content).mask


@pytest.mark.parametrize("read", [mask_by_flag, mask_by_upload])
@pytest.mark.parametrize("kind", list(MASKS))
def test_a_mask_of_every_kind_is_white_where_it_is_white(kind, read, tmp_path):
    mask = read(MASKS[kind], tmp_path)
    assert mask.shape == MASK.shape
    np.testing.assert_array_equal(mask > 0.5, MASK == 255)


@pytest.mark.parametrize("kind", REFUSED)
def test_a_mask_that_has_no_one_meaning_is_refused(kind, tmp_path):
    with pytest.raises(UserError, match=r"8-bit|animated"):
        mask_by_flag(REFUSED[kind], tmp_path)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photo_and_the_mask_of_its_upright_form_fit_each_other(orientation, tmp_path):
    """An editor writes the mask upright, without EXIF; the camera's photo lies on its side."""
    (tmp_path / "photo.jpg").write_bytes(turned(OBLONG, orientation, "JPEG"))
    (tmp_path / "mask.png").write_bytes(saved(Image.fromarray(MASK)))
    edit = Edit(image=read_picture(tmp_path / "photo.jpg"), mask=read_mask(tmp_path / "mask.png"))
    assert edit.image.shape[:2] == edit.mask.shape == (SIDE, 2 * SIDE)
    assert np.abs(edit.image.astype(int) - OBLONG).max() <= 2


def test_a_smaller_jpeg_is_upright_too():
    """Training decodes JPEG at a half, a quarter or an eighth of its size."""
    large = np.kron(OBLONG, np.ones((8, 8, 1), np.uint8))
    for orientation in range(1, 9):
        pixels = decode_pixels(turned(large, orientation, "JPEG"), SIDE)
        assert pixels.shape == OBLONG.shape and np.abs(pixels.astype(int) - OBLONG).max() <= 3
