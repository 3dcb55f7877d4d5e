"""Statistics on disk: a round trip, another key, damage, and the files of others."""

import io
import json
import zipfile

import numpy as np
import pytest

from imagen_jax.errors import UserError
from imagen_jax.evaluation.metrics.frechet import frechet_distance, moments_of
from imagen_jax.evaluation.metrics.reference_statistics import (
    load_statistics,
    read_published_statistics,
    save_statistics,
)

KEY = {
    "network": "Inception-v3 of 2015-12-05",
    "resize": "clean",
    "sha256": "57d2",
    "data": "coco, validation",
    "n": 30,
}


@pytest.fixture
def moments():
    return moments_of(np.random.default_rng(0).standard_normal((30, 5)).astype(np.float32))


@pytest.fixture
def path(tmp_path, moments):
    save_statistics(tmp_path / "coco.npz", moments, KEY)
    return tmp_path / "coco.npz"


def test_what_is_written_is_read(path, moments):
    loaded = load_statistics(path, dict(reversed(KEY.items())))
    assert loaded.pictures == moments.pictures
    np.testing.assert_array_equal(loaded.mean, moments.mean)
    np.testing.assert_allclose(loaded.scatter, moments.scatter, rtol=1e-15)
    assert [file.name for file in path.parent.iterdir()] == ["coco.npz"]


def test_equal_statistics_make_equal_files(path, moments):
    save_statistics(path.with_name("again.npz"), moments, KEY)
    assert path.read_bytes() == path.with_name("again.npz").read_bytes()


def test_a_file_is_free_of_pickles_and_has_the_names_of_the_field(path, moments):
    with np.load(path, allow_pickle=False) as file:
        np.testing.assert_array_equal(file["mu"], moments.mean)
        np.testing.assert_array_equal(file["sigma"], moments.covariance)
        assert json.loads(str(file["key"])) == KEY


@pytest.mark.parametrize(
    ("change", "facts"),
    [
        ({"resize": "legacy_tensorflow"}, "resize 'clean'.*'legacy_tensorflow'"),
        ({"n": 30_000, "sha256": "57d3"}, "sha256 '57d2'.*'57d3'"),
        ({"guidance": 1.5}, r"guidance None.*1\.5"),
    ],
)
def test_another_key_is_refused_by_its_first_difference(path, change, facts):
    with pytest.raises(UserError, match=facts):
        load_statistics(path, KEY | change)


def test_an_entry_that_we_lack_is_a_difference(path):
    with pytest.raises(UserError, match=r"n 30.*None"):
        load_statistics(path, {name: value for name, value in KEY.items() if name != "n"})


def test_a_missing_file_is_named(tmp_path):
    for read in (read_published_statistics, lambda path: load_statistics(path, KEY)):
        with pytest.raises(UserError, match=r"none\.npz"):
            read(tmp_path / "none.npz")


def test_no_damage_gets_through(path):
    whole = path.read_bytes()
    numbers = whole.index(np.load(path)["sigma"].tobytes())
    flipped = bytearray(whole)
    flipped[numbers + 20] ^= 1
    for damaged in (b"", b"PK", b"mu", whole[: len(whole) // 2], whole[:-30], bytes(flipped)):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=r"coco\.npz"):
            load_statistics(path, KEY)


def test_other_contents_are_refused(path, tmp_path):
    def read(**arrays):
        np.savez(path, **arrays)
        return read_published_statistics(path)

    two = np.eye(2)
    with pytest.raises(UserError, match=r"'mu'.*images"):
        read(images=two)
    with pytest.raises(UserError, match=r"'sigma'.*mu"):
        read(mu=two)
    with pytest.raises(UserError, match=r"\(3,\).*\(2, 2\)"):
        read(mu=np.zeros(3), sigma=two)
    with pytest.raises(UserError):
        read(mu=np.array([0.0, np.nan]), sigma=two)
    for sigma in (-two, np.array([[1.0, 0.5], [0.0, 1.0]])):
        with pytest.raises(UserError, match="sigma"):
            read(mu=np.zeros(2), sigma=sigma)
    np.save(tmp_path / "one.npy", two)
    with pytest.raises(UserError, match=r"one\.npy"):
        read_published_statistics(tmp_path / "one.npy")


def test_a_pickle_is_not_opened(tmp_path):
    class Trap:
        def __reduce__(self):
            return (pytest.fail, ("a pickle was opened",))

    buffer = io.BytesIO()
    np.save(buffer, np.array([Trap()], dtype=object), allow_pickle=True)
    with zipfile.ZipFile(tmp_path / "trap.npz", "w") as archive:
        archive.writestr("mu.npy", buffer.getvalue())
        archive.writestr("sigma.npy", buffer.getvalue())
    with pytest.raises(UserError, match=r"trap\.npz"):
        read_published_statistics(tmp_path / "trap.npz")


def test_published_files_are_read_and_their_count_is_not_known(tmp_path, path, moments):
    # As ADM's, which hold images and statistics of another layer too.
    others = {"arr_0": np.zeros((2, 4, 4, 3), np.uint8), "mu_s": np.zeros(3), "sigma_s": np.eye(3)}
    covariance = moments.covariance.astype(np.float32)
    np.savez(tmp_path / "adm.npz", mu=moments.mean, sigma=covariance, **others)
    published = read_published_statistics(tmp_path / "adm.npz")
    assert published.pictures is None
    assert published.covariance.dtype == np.float64
    assert frechet_distance(moments, published) == pytest.approx(0.0, abs=1e-6)
    with pytest.raises(UserError, match=r"adm\.npz"):
        load_statistics(tmp_path / "adm.npz", KEY)
    assert read_published_statistics(path).pictures == 30


def test_one_image_has_no_statistics(tmp_path):
    with pytest.raises(UserError, match=r"\b2\b.*\b1\b"):
        save_statistics(tmp_path / "one.npz", moments_of(np.ones((1, 3))), KEY)
    assert not list(tmp_path.iterdir())


def test_an_unwritable_path_is_named(tmp_path, moments):
    with pytest.raises(UserError, match=r"missing/coco\.npz"):
        save_statistics(tmp_path / "missing" / "coco.npz", moments, KEY)


def test_they_can_be_in_a_bucket(bucket, moments):
    save_statistics(bucket / "coco.npz", moments, KEY)
    np.testing.assert_array_equal(load_statistics(bucket / "coco.npz", KEY).mean, moments.mean)
    with pytest.raises(UserError, match=r"none\.npz"):
        load_statistics(bucket / "none.npz", KEY)
