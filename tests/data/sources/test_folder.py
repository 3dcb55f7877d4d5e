import os

import numpy as np
import pytest
from PIL import Image

from imagen_jax.data.sources.folder import folder_images
from imagen_jax.errors import UserError


def test_images_are_listed_with_the_first_line_of_their_captions(image_folder):
    images = folder_images(image_folder)
    assert [(image.key, image.caption) for image in images][:2] == [("apple.png", "a apple"), ("bear.png", "a bear")]
    assert images[-1].key == "more/jay.png"


def test_same_caption_is_same_concept_whatever_its_capitals(image_folder):
    (image_folder / "bear.txt").write_text("A Apple", encoding="utf-8")
    apple, bear, cat = folder_images(image_folder)[:3]
    assert apple.concept == bear.concept != cat.concept


def test_an_image_is_cropped_to_its_centre_and_made_smaller(tmp_path):
    # Left third red, middle green, right blue: the centre square of 30×10 is all green.
    stripes = np.zeros((10, 30, 3), np.uint8)
    for third in range(3):
        stripes[:, 10 * third : 10 * third + 10, third] = 255
    Image.fromarray(stripes).save(tmp_path / "flag.png")
    (tmp_path / "flag.txt").write_text("a flag", encoding="utf-8")
    (flag,) = folder_images(tmp_path)
    assert (flag.render(4) == [0, 255, 0]).all()


def test_transparency_becomes_white(tmp_path):
    Image.new("RGBA", (8, 8), (200, 0, 0, 0)).save(tmp_path / "nothing.png")
    Image.new("LA", (8, 8), (0, 128)).save(tmp_path / "veil.png")
    for name in ("nothing", "veil"):
        (tmp_path / f"{name}.txt").write_text(name, encoding="utf-8")
    nothing, veil = folder_images(tmp_path)
    assert (nothing.render(8) == 255).all()
    assert (np.abs(veil.render(8).astype(int) - 127) <= 1).all()


def test_a_photo_taken_sideways_is_turned_upright(tmp_path):
    pixels = np.zeros((8, 8, 3), np.uint8)
    pixels[:4] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # The camera's top is at the right.
    Image.fromarray(pixels).save(tmp_path / "photo.png", exif=exif)
    (tmp_path / "photo.txt").write_text("a photo", encoding="utf-8")
    (photo,) = folder_images(tmp_path)
    assert (photo.render(8)[:, 4:] == 255).all() and (photo.render(8)[:, :4] == 0).all()


def test_what_is_no_image_is_named(image_folder):
    (image_folder / "bear.png").write_bytes(b"not an image")
    bear = folder_images(image_folder)[1]
    with pytest.raises(UserError, match=r"bear\.png"):
        bear.render(8)


def test_a_truncated_image_is_named(image_folder):
    file = image_folder / "cat.png"
    file.write_bytes(file.read_bytes()[:400])
    with pytest.raises(UserError, match=r"cat\.png"):
        folder_images(image_folder)[2].render(8)


def test_an_image_smaller_than_the_resolution_is_named(image_folder):
    with pytest.raises(UserError, match=r"apple\.png .*\b24\b"):
        folder_images(image_folder)[0].render(32)


def test_a_missing_caption_is_named(image_folder):
    (image_folder / "dog.txt").unlink()
    with pytest.raises(UserError, match=r"dog\.png .*dog\.txt"):
        folder_images(image_folder)[3].render(8)


@pytest.mark.parametrize(("content", "fact"), [(b"", ""), (b" \nsecond", ""), (b"\xff\xfe\xfa", ".*UTF-8")])
def test_an_unusable_caption_is_named(image_folder, content, fact):
    (image_folder / "elk.txt").write_bytes(content)
    with pytest.raises(UserError, match=rf"elk\.txt{fact}"):
        folder_images(image_folder)[4].render(8)


def test_a_byte_order_mark_is_no_part_of_a_caption(image_folder):
    (image_folder / "apple.txt").write_bytes(b"\xef\xbb\xbfan apple\r\n")
    assert folder_images(image_folder)[0].caption == "an apple"


def test_a_missing_and_an_empty_folder_are_named(tmp_path):
    with pytest.raises(UserError, match=f"{tmp_path}/nowhere"):
        folder_images(tmp_path / "nowhere")
    with pytest.raises(UserError, match=str(tmp_path)):
        folder_images(tmp_path)


def test_a_changed_file_has_another_fingerprint(image_folder):
    before = folder_images(image_folder)
    os.utime(image_folder / "apple.png", ns=(1, 1))
    after = folder_images(image_folder)
    changed = [old.key for old, new in zip(before, after, strict=True) if old.fingerprint != new.fingerprint]
    assert changed == ["apple.png"]
