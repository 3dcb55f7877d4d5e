"""Files and folders get the permissions that the user's umask leaves, so that colleagues can read them."""

import os
import stat

import numpy as np
import pytest

from imagen_jax.cascade import checkpoint_export
from imagen_jax.cascade.image_files import make_folder, save_png
from imagen_jax.data.preparation.builder import prepare_data
from imagen_jax.data.preparation.preparation import prepare
from imagen_jax.encoders.embedding_store import EmbeddingStore
from imagen_jax.encoders.feature_networks import FeatureSet
from imagen_jax.evaluation.metrics.frechet import RunningMoments
from imagen_jax.evaluation.metrics.reference_statistics import save_statistics
from imagen_jax.evaluation.protocols.feature_parts import write_part
from imagen_jax.storage.paths import write_whole, writing
from imagen_jax.storage.settings import keep_settings
from imagen_jax.training.checkpoints.store import CheckpointStore
from imagen_jax.training.monitoring.metrics import MetricsWriter
from imagen_jax.web.pairs import make_comparison
from imagen_jax.web.ratings import RatingStore
from tests.data.part_sources import parts
from tests.data.preparation.test_preparation import preparation
from tests.encoders.test_embedding_store import CountingEncoder
from tests.web.rating_folders import write_two_folders


def export(folder):
    checkpoint_export.write_files(folder, {"a": 1}, {"kernel": np.ones((3, 4), np.float32)})


def keep_checkpoint(folder):
    with CheckpointStore(folder / "checkpoints") as checkpoints:
        checkpoints.save_weights(3, {"kernel": np.ones((3, 4), np.float32)})


def write_metrics(folder):
    with MetricsWriter(folder, tensorboard=True) as writer:
        writer.write(1, {"loss": 0.5})
        writer.flush()
    with MetricsWriter(folder, first_step=1) as writer:  # which writes the kept lines again
        writer.write(2, {"loss": 0.4})


def keep_moments(folder):
    moments = RunningMoments(2)
    moments.add(np.random.default_rng(0).normal(size=(8, 2)).astype(np.float32))
    folder.mkdir()
    save_statistics(folder / "statistics.npz", moments.result(), {"network": "pixels"})
    write_part(folder / "00000.npz", FeatureSet(np.ones((3, 2), np.float32), None))


def rate(folder):
    comparison = make_comparison(*write_two_folders(folder))
    with RatingStore(folder / "ratings.sqlite", comparison) as store:
        store.keep("somebody", comparison.pairs[0].key, "a", "left", "right")
        check(folder)  # with its log beside it


def write_in_place_of_another(folder):
    """As a library does that writes another file and renames it, and as one that never opens what was there."""
    folder.mkdir()
    (folder / "a").touch(mode=0o600)
    with writing(folder / "a") as file:
        file.unlink()
        os.close(os.open(file, os.O_CREAT | os.O_WRONLY, 0o600))
    (folder / "c").mkdir()
    write_whole(folder / "c" / "b", b"content")


def write_images(folder):
    make_folder(folder)
    save_png(folder / "a.png", np.zeros((8, 8, 3), np.uint8), {"prompt": "a"})
    keep_settings(folder / "deep" / "sampling.json", {"seed": 1}, "images", "choose another")


def build_data_set(folder):
    (folder / "own").mkdir(parents=True)
    for name, colour in (("a", (200, 30, 30)), ("b", (30, 30, 200))):
        save_png(folder / "own" / f"{name}.png", np.full((16, 16, 3), colour, np.uint8), {})
        write_whole(folder / "own" / f"{name}.txt", f"caption {name}".encode())
    prepare_data("folder", 8, folder, folder=folder / "own")


def prepare_shards(folder):
    prepare(preparation(parts(20)), folder, 0)


WRITERS = {
    "a stage that is exported": export,
    "checkpoints": keep_checkpoint,
    "metrics": write_metrics,
    "statistics and features": keep_moments,
    "ratings": rate,
    "what a library replaces": write_in_place_of_another,
    "images and settings": write_images,
    "a rendered data set": build_data_set,
    "a prepared data set": prepare_shards,
    "embeddings": lambda folder: EmbeddingStore.build_or_open(folder, ["ox", "panda"], CountingEncoder()),
}


def check(folder):
    """Checks all that lies there under the umask of this process."""
    umask = os.umask(0o77)
    os.umask(umask)
    for path in [folder, *folder.rglob("*")]:
        mode = stat.S_IMODE(path.lstat().st_mode)
        assert mode == (0o777 if path.is_dir() else 0o666) & ~umask, f"{path}: {mode:o}"


@pytest.mark.parametrize("umask", [0o002, 0o077], ids=["shared with a group", "private"])
@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_whatever_is_written_has_the_permissions_that_the_umask_leaves(tmp_path, monkeypatch, write, umask):
    monkeypatch.setenv("IMAGEN_JAX_CACHE", str(tmp_path / "cache"))
    before = os.umask(umask)
    try:
        write(tmp_path / "written")
        check(tmp_path / "written")
    finally:
        os.umask(before)
