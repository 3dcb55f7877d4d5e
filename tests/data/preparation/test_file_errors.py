"""One file that can't be read is left out; a disk that fails ends the work with a message."""

import errno
import os
from pathlib import Path

import pytest

from imagen_jax.data.preparation.conversion import read_part
from imagen_jax.data.preparation.file_errors import reason_of
from imagen_jax.data.sources.coco import CocoImage, read_images
from imagen_jax.data.sources.records import Damage, Part
from imagen_jax.data.sources.tables import folder_parts
from imagen_jax.errors import UserError
from tests.data.conftest import noise, png_of

OF_A_FILE = (errno.ENOENT, errno.EACCES, errno.EIO, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG)
OF_THE_DISK = (errno.EMFILE, errno.ENOSPC, errno.ESTALE, errno.ENODEV, errno.ENOMEM)


def test_errors_of_one_file_have_a_reason_and_others_are_raised():
    for number in OF_A_FILE:
        assert reason_of(OSError(number, os.strerror(number), "x.png")) == os.strerror(number)
    assert reason_of(FileNotFoundError("bucket/x.png")) == "bucket/x.png"
    assert reason_of(ValueError("embedded null byte")) == "embedded null byte"
    for number in OF_THE_DISK:
        with pytest.raises(OSError, match=os.strerror(number)):
            reason_of(OSError(number, os.strerror(number), "x.png"))
    with pytest.raises(OSError, match="an error without a number"):
        reason_of(OSError("an error without a number"))


@pytest.fixture
def parts(tmp_path):
    """Two sources of one image."""
    folder = tmp_path / "train2014"
    folder.mkdir()
    (folder / "x.png").write_bytes(png_of(noise(0, 8)))
    (folder / "x.txt").write_text("an image")
    image = CocoImage("train2014/x.png", ("an image",), {"coco_id": 1})
    return [*folder_parts(folder), Part("coco", "1", lambda: read_images(folder, "train", (image,)))]


@pytest.mark.parametrize("number", [*OF_A_FILE, *OF_THE_DISK])
def test_sources_agree_on_which_is_which(parts, monkeypatch, number):
    read_bytes = Path.read_bytes

    def fail(path):
        if path.suffix == ".png":
            raise OSError(number, os.strerror(number), str(path))
        return read_bytes(path)

    monkeypatch.setattr(Path, "read_bytes", fail)
    for part in parts:
        if number in OF_A_FILE:
            (damage,) = read_part(part)
            assert isinstance(damage, Damage) and damage.detail == os.strerror(number)
        else:
            with pytest.raises(UserError, match=f"{part.name} .*{os.strerror(number)}"):
                list(read_part(part))
