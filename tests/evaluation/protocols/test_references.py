"""References: COCO's validation images and prepared data sets, each with a key that identifies it."""

import io
import zipfile

import numpy as np
import pytest
from PIL import Image

from imagen_jax.data.stored_images import UnreadableError
from imagen_jax.errors import UserError
from imagen_jax.evaluation.protocols.references import Reference, open_reference
from tests.evaluation.protocols.coco_tree import write_coco


@pytest.fixture
def coco(tmp_path):
    return write_coco(tmp_path / "coco", 4)


def zip_images(coco):
    with zipfile.ZipFile(coco / "val2014.zip", "w") as archive:
        for file in sorted((coco / "val2014").iterdir()):
            archive.write(file, f"val2014/{file.name}")
            file.unlink()
    (coco / "val2014").rmdir()


def test_validation_alone_will_do_and_images_are_centre_squares(coco):
    reference = open_reference("coco2014", coco)
    assert reference.captions[2] == ("patches number 3", "colours number 3")
    with Image.open(coco / "val2014" / "COCO_val2014_000000000003.jpg") as image:
        pixels = np.asarray(image)
    assert pixels.shape == (40, 50, 3)
    np.testing.assert_array_equal(reference.image(2, 40), pixels[:, 5:45])
    means = pixels[:, 5:45].reshape(20, 2, 20, 2, 3).mean(axis=(1, 3))
    np.testing.assert_allclose(reference.image(2, 20), means, atol=0.51)


def test_a_zip_and_its_folder_give_the_same_images(coco):
    before = [open_reference("coco2014", coco).image(number, 10) for number in range(4)]
    zip_images(coco)
    reference = open_reference("coco2014", coco)
    np.testing.assert_array_equal([reference.image(number, 10) for number in range(4)], before)


def test_the_key_changes_with_captions_and_resolution(coco):
    key = open_reference("coco2014", coco).key(8)
    assert key != open_reference("coco2014", coco).key(16)
    captions = coco / "annotations" / "captions_val2014.json"
    captions.write_text(captions.read_text().replace("colours number 1", "shades number 1"))
    assert open_reference("coco2014", coco).key(8)["fingerprint"] != key["fingerprint"]


def test_a_missing_or_damaged_image_is_named(coco):
    (coco / "val2014" / "COCO_val2014_000000000002.jpg").unlink()
    buffer = io.BytesIO()
    Image.new("RGB", (40, 40)).save(buffer, "JPEG")
    (coco / "val2014" / "COCO_val2014_000000000004.jpg").write_bytes(buffer.getvalue()[:200])
    reference = open_reference("coco2014", coco)
    with pytest.raises(UserError, match=r"val2014/COCO_val2014_000000000002\.jpg"):
        reference.image(1, 8)
    with pytest.raises(UserError, match=r"COCO_val2014_000000000004\.jpg"):
        reference.image(3, 8)


def test_an_image_that_can_not_be_read_is_an_error_of_the_user():
    def read(number):
        raise UnreadableError("record 3 is damaged")

    with pytest.raises(UserError, match=r"3 of a set.*record 3 is damaged"):
        Reference("a set", "f", [("a",)] * 4, read).image(3, 8)


@pytest.mark.parametrize(
    ("dataset", "folder", "fact"),
    [
        ("coco2017", "x", "dataset"),
        ("coco2014", "", "--data_dir"),
        ("coco2014", "nothing/here", "nothing/here"),
        ("prepared", "nothing/here", "nothing/here"),
    ],
)
def test_unknown_names_and_missing_folders_are_named(dataset, folder, fact):
    with pytest.raises(UserError, match=fact):
        open_reference(dataset, folder)
