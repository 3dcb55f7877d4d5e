"""Images that no reader decodes, links and what systems add, in every reader that lists a folder or an archive."""

import io
import json
import tarfile

import numpy as np
import pytest
from PIL import Image

from imagen_jax.data.opened_images import FORMATS
from imagen_jax.data.preparation.preparation import Preparation, prepare
from imagen_jax.data.sources.folder import folder_images
from imagen_jax.data.sources.records import Damage, Record
from imagen_jax.data.sources.tables import folder_parts
from imagen_jax.data.sources.tar_shards import tar_shard_parts
from imagen_jax.data.sources.tux_paint import tux_paint_parts
from imagen_jax.errors import UserError
from imagen_jax.evaluation.reports.side_by_side import images_by_prompt
from imagen_jax.web.pairs import read_images
from tests.web.rating_folders import write_image

JUNK = ("._cat.png", "__MACOSX/._cat.png", "__MACOSX/dog.png", "@eaDir/cat.png/THUMB.png", ".DS_Store", "Thumbs.db")
"""``._cat.png`` is 16 bytes of "AppleDouble"; the thumbnails of network storage are images."""

APPLE_DOUBLE = b"\x00\x05\x16\x07\x00\x02\x00\x00Mac OS X"


def png_of(shade):
    buffer = io.BytesIO()
    Image.new("RGB", (16, 16), (shade, 90, 30)).save(buffer, "PNG")
    return buffer.getvalue()


def put(folder, name, content=b"", caption=None):
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)
    if caption:
        file.with_suffix(".txt").write_text(caption)


def put_junk(folder):
    for name in JUNK:
        put(folder, name, png_of(1) if name.startswith(("@", "__MACOSX/dog")) else APPLE_DOUBLE)
    put(folder, "._cat.txt", APPLE_DOUBLE)


def listed(parts):
    found = [one for part in parts for one in part.read()]
    return (
        [one.key for one in found if isinstance(one, Record)],
        {one.key: (one.reason, one.detail) for one in found if isinstance(one, Damage)},
    )


def read_tar_of(folder):
    """All files of a folder in one shard, beside another shard that macOS made."""
    shards = folder.with_name("shards")
    shards.mkdir()
    with tarfile.open(shards / "0.tar", "w") as archive:
        for file in sorted(file for file in folder.rglob("*") if file.is_file()):
            archive.add(file, file.relative_to(folder).as_posix())
    (shards / "._0.tar").write_bytes(APPLE_DOUBLE)
    keys, damages = listed(tar_shard_parts(shards))
    return [key.removeprefix("0/") + ".png" for key in keys], damages


def read_source(folder):
    return [image.key for image in folder_images(folder)], {}


def read_stamps(folder):
    keys, damages = listed(tux_paint_parts(folder))
    return [key + ".png" for key in keys], damages


@pytest.mark.parametrize("read", [read_source, lambda folder: listed(folder_parts(folder)), read_tar_of, read_stamps])
def test_what_systems_add_is_no_image(read, tmp_path):
    folder = tmp_path / "folder"
    put(folder, "cat.png", png_of(10), "a cat")
    put(folder, "more/dog.png", png_of(20), "a dog")
    put_junk(folder)
    assert read(folder) == (["cat.png", "more/dog.png"], {})


def test_what_systems_add_is_no_drawn_picture(tmp_path):
    write_image(tmp_path, "panda")
    put_junk(tmp_path)
    images, notes = read_images(tmp_path)
    assert list(images) == [("panda", 0)] and notes == []
    assert list(images_by_prompt(tmp_path)) == ["panda"]


def test_images_that_raters_are_not_shown_are_counted(tmp_path):
    write_image(tmp_path, "panda")
    for name in ("a.heic", "b.avif"):
        put(tmp_path, name)
    _, notes = read_images(tmp_path)
    (note,) = notes
    assert f"2 of {tmp_path}" in note and "a.heic" in note


ENDINGS = {
    "PNG": (".png", ".apng"),
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "WEBP": (".webp",),
    "AVIF": (".avif",),
    "BMP": (".bmp", ".dib"),
    "GIF": (".gif",),
    "JPEG2000": (".jp2", ".j2k"),
    "PPM": (".ppm", ".pnm", ".pbm", ".pgm"),
    "TIFF": (".tif", ".tiff"),
}
"""How files of each format are called."""


@pytest.mark.parametrize("form", FORMATS)
def test_files_of_every_format_that_is_decoded_are_found(form, tmp_path):
    if form == "AVIF":
        pytest.importorskip("PIL._avif")
    for ending in ENDINGS[form]:
        for name in (ending, ending.upper()):
            buffer = io.BytesIO()
            Image.new("RGB", (16, 16), (200, 90, 30)).save(buffer, form)
            put(tmp_path, f"cat{len(list(tmp_path.iterdir()))}{name}", buffer.getvalue(), "a cat")
    images = folder_images(tmp_path)
    assert len(images) == 2 * len(ENDINGS[form]) == len(listed(folder_parts(tmp_path))[0])
    assert all(np.abs(image.render(16).astype(int) - (200, 90, 30)).max() < 8 for image in images)


@pytest.fixture
def mixed(tmp_path):
    """20 images, and 7 that are none of ours, links and files that are no images among them."""
    folder = tmp_path / "folder"
    for number in range(20):
        put(folder, f"{number:02d}.png", png_of(5 * number), f"image {number}")
    for name in ("a.heic", "b.HEIC", "deep/c.svg", "d.cr2"):
        put(folder, name, b"something else", "a caption")
    put(folder, "00.heic", b"the same photo as 00.png")
    put(folder, "README.md", b"no image")
    put(tmp_path / "elsewhere", "linked.png", png_of(222), "a linked image")
    (folder / "gone.png").symlink_to(tmp_path / "gone.png")
    (folder / "up").symlink_to("..")
    (folder / "link").symlink_to(tmp_path / "elsewhere")
    return folder


KEYS = [*(f"{number:02d}.png" for number in range(20)), "link/linked.png"]
LEFT_OUT = ["a.heic", "b.HEIC", "d.cr2", "deep/c.svg", "gone.png", "up"]


def test_prepare_data_counts_and_names_what_is_left_out(mixed, tmp_path):
    keys, damages = listed(folder_parts(mixed))
    assert keys == KEYS and sorted(damages) == LEFT_OUT
    assert damages["a.heic"] == ("image format is not read", ".heic: convert it to PNG, JPEG or WebP")
    assert damages["gone.png"] == ("link or folder is not read", "a link that leads nowhere")
    out = tmp_path / "out"
    manifest = prepare(
        Preparation("folder", {"folder": str(mixed)}, "ours", folder_parts(mixed), max_bad_fraction=0.5), out, 0
    )
    assert sum(manifest["counts"].values()) == 21
    assert manifest["damaged"] == {"image format is not read": 4, "link or folder is not read": 2}
    rows = [json.loads(line) for line in (out / "quarantine.jsonl").read_text().splitlines()]
    assert sorted(row["key"] for row in rows) == LEFT_OUT


def test_the_folder_source_counts_and_names_what_is_left_out(mixed, capsys):
    assert [image.key for image in folder_images(mixed)] == KEYS
    (line,) = capsys.readouterr().err.splitlines()
    assert all(fact in line for fact in (f"{mixed}: 6 ", "2 .heic", "a.heic", "1 .svg", "1 .cr2", "gone.png"))


def test_a_folder_of_nothing_else_is_an_error_with_its_formats(tmp_path):
    for name in ("a.heic", "b.heic"):
        put(tmp_path, name, b"x", "a caption")
    for list_all in (folder_images, folder_parts):
        with pytest.raises(UserError, match=rf"{tmp_path} .*2 \.heic.*a\.heic"):
            list_all(tmp_path)


def test_shards_behind_links_are_read_and_lost_ones_are_named(tmp_path):
    folder, other = tmp_path / "folder", tmp_path / "other"
    put(other / "files", "cat.png", png_of(3), "a cat")
    folder.mkdir()
    with tarfile.open(other / "0.tar", "w") as archive:
        for name in ("cat.png", "cat.txt"):
            archive.add(other / "files" / name, name)
    (folder / "here").symlink_to(other)
    (folder / "1.tar").symlink_to(tmp_path / "gone.tar")
    keys, damages = listed(tar_shard_parts(folder))
    assert keys == ["here/0/cat"] and list(damages) == ["1.tar"]
