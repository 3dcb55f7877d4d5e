"""Features of all images of a data set: by key, plain and mirrored, resumed, and never of other weights or images."""

import numpy as np
import pytest

from imagen_jax.data.data_sets import open_data_sets
from imagen_jax.data.pixels import decode_pixels
from imagen_jax.data.stored_images import load_split
from imagen_jax.encoders import image_embeddings
from imagen_jax.encoders.feature_network import FeatureNetwork, Features
from imagen_jax.encoders.image_embeddings import folder_of, list_shards, open_image_embeddings
from imagen_jax.errors import UserError
from tests.end_to_end.smoke_runs import draw_own_images


def means_of_halves(sha256="a" * 64):
    """A network whose features are the mean of the left half and that of the right half, of each colour."""

    def extract(weights, images):
        halves = images.astype("float32").reshape(images.shape[0], images.shape[1], 2, -1, 3).mean(axis=(1, 3))
        return Features(halves.reshape(images.shape[0], 6) / 255)

    return FeatureNetwork("halves", "halves", 6, "none", sha256, extract)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    images = draw_own_images(tmp_path_factory.mktemp("images"))
    data = tmp_path_factory.mktemp("data")
    return open_data_sets("folder", 16, str(data), 0.2, {"folder": str(images)}).folders[0]


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr(image_embeddings, "SHARD_IMAGES", 16)


def test_each_image_has_its_features_and_those_of_its_mirror_image(folder):
    store = open_image_embeddings([folder], means_of_halves())
    images = [image for split in ("train", "validation") for image in load_split(folder, split)]
    keys = [image.key for image in images]
    pixels = np.stack([decode_pixels(image.encoded) for image in images]).astype(np.float32) / 255
    left, right = pixels[:, :, :8].mean(axis=(1, 2)), pixels[:, :, 8:].mean(axis=(1, 2))
    assert len(keys) == 40 and store.width == 6
    np.testing.assert_allclose(store.lookup(keys), np.concatenate([left, right], axis=1), atol=2e-3)
    turned = np.arange(40) % 2 == 1
    expected = np.where(turned[:, None], np.concatenate([right, left], axis=1), np.concatenate([left, right], axis=1))
    np.testing.assert_allclose(store.lookup(keys, turned), expected, atol=2e-3)
    with pytest.raises(UserError, match="nobody"):
        store.lookup(["nobody"])


def test_complete_shards_are_not_computed_again_and_damaged_ones_are_told(folder, monkeypatch):
    network = means_of_halves("b" * 64)
    whole = open_image_embeddings([folder], network)
    place = folder_of(folder, network)
    shards = sorted(place.iterdir())
    assert len(shards) == len(list(list_shards(folder))) >= 3
    removed = shards[1]
    written = {shard: shard.stat().st_mtime_ns for shard in shards}
    removed.unlink()
    again = open_image_embeddings([folder], network)
    np.testing.assert_array_equal(again.plain, whole.plain)
    assert all(shard.stat().st_mtime_ns == written[shard] for shard in shards if shard != removed)
    removed.write_bytes(removed.read_bytes()[:100])
    with pytest.raises(UserError, match=removed.name):
        open_image_embeddings([folder], network)


def test_other_weights_have_another_folder(folder):
    assert folder_of(folder, means_of_halves()) != folder_of(folder, means_of_halves("c" * 64))


def test_two_data_sets_with_the_same_keys_are_refused(folder):
    with pytest.raises(UserError, match="same key"):
        open_image_embeddings([folder, folder], means_of_halves())
