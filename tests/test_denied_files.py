"""An unreadable file of another user: the error says so, and does not advise to download, delete or repair it."""

import os
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from configs import own_images
from imagen_jax.cascade import checkpoint_export
from imagen_jax.cascade.edits import read_picture
from imagen_jax.cascade.experiment import read_model
from imagen_jax.cascade.image_files import save_png
from imagen_jax.cascade.loading import load_stage
from imagen_jax.cascade.stage import abstract_params, build_stage
from imagen_jax.data.preparation.preparation import prepare
from imagen_jax.data.prompts import read_prompts
from imagen_jax.data.sources.folder import folder_images
from imagen_jax.data.sources.tar_shards import tar_shard_parts
from imagen_jax.data.stored_images import captions_of, load_split
from imagen_jax.encoders.embedding_store import EmbeddingStore
from imagen_jax.encoders.encoder import load_text_encoder
from imagen_jax.encoders.feature_networks import FeatureSet
from imagen_jax.encoders.pretrained_clip import load_clip
from imagen_jax.evaluation.metrics.reference_statistics import read_published_statistics
from imagen_jax.evaluation.protocols.feature_parts import read_part, write_part
from imagen_jax.runtime import main
from imagen_jax.training.checkpoints.store import CheckpointStore
from imagen_jax.training.workdir import keep_config
from imagen_jax.web.pairs import make_comparison
from imagen_jax.web.ratings import RatingStore
from tests.data.part_sources import parts
from tests.data.preparation.test_preparation import preparation
from tests.drawn_params import draw_params
from tests.encoders.test_embedding_store import CountingEncoder
from tests.reference.clip_folders import write_clip_file, write_clip_folder
from tests.reference.t5_folders import write_t5_folder, write_t5x_folder
from tests.web.rating_folders import write_two_folders

NOBODY = 65534


def stage():
    config = own_images.get_config("base,smoke")
    return config, draw_params(abstract_params(build_stage(config)))


def export(folder):
    config, params = stage()
    checkpoint_export.write(read_model(config), params, 7, folder)
    return lambda: load_stage(folder)


def keep_run(folder):
    config, params = stage()
    keep_config(folder, config)
    with CheckpointStore(folder / "checkpoints") as checkpoints:
        checkpoints.save_weights(3, params)
    return lambda: load_stage(folder)


def t5(folder, write=write_t5_folder):
    write(folder)
    return lambda: load_text_encoder("t5", folder=folder, dtype="float32").encode(["red apple"])


def clip_folder(folder):
    write_clip_folder(folder)
    return lambda: load_clip(str(folder), "")


def clip_file(folder):
    file = write_clip_file(folder)
    return lambda: load_clip(str(file), "")


def embeddings(folder):
    def build():
        return EmbeddingStore.build_or_open(folder, ["ox", "panda"], CountingEncoder()).lookup(["ox"], 8)

    build()
    return build


def statistics(folder):
    folder.mkdir()
    np.savez(folder / "statistics.npz", mu=np.zeros(2), sigma=np.eye(2))
    return lambda: read_published_statistics(folder / "statistics.npz")


def features(folder):
    folder.mkdir()
    write_part(folder / "00000.npz", FeatureSet(np.ones((3, 2), np.float32), None))
    return lambda: read_part(folder / "00000.npz")


def prompts(folder):
    folder.mkdir()
    (folder / "prompts.txt").write_text("a panda\n")
    return lambda: read_prompts(folder / "prompts.txt")


def image(folder):
    folder.mkdir()
    save_png(folder / "a.png", np.zeros((16, 16, 3), np.uint8), {})
    return lambda: read_picture(folder / "a.png")


def images(folder):
    image(folder)
    (folder / "a.txt").write_text("a caption")
    return lambda: [each.render(8) for each in folder_images(folder=folder)]


def shard(folder):
    folder.mkdir()
    (folder / "0.tar").write_bytes(b"\0" * 10240)
    return lambda: [list(part.read()) for part in tar_shard_parts(folder=folder)]


def prepared(folder):
    prepare(preparation(parts(20)), folder, 0)
    return lambda: (captions_of(folder, "train"), load_split(folder, "train")[0])


def ratings(folder):
    comparison = make_comparison(*write_two_folders(folder))
    with RatingStore(folder / "ratings.sqlite", comparison):
        pass

    def read():
        with RatingStore(folder / "ratings.sqlite", comparison) as store:
            store.ratings()

    return read


CASES = [
    (export, "config.json"),
    (export, "model.safetensors"),
    (export, "SHA256SUMS"),
    (keep_run, "config.json"),
    (keep_run, "checkpoints/3/ema_params/_METADATA"),
    (t5, "config.json"),
    (t5, "model.safetensors"),
    (t5, "spiece.model"),
    (lambda folder: t5(folder, write_t5x_folder), "checkpoint"),
    (lambda folder: t5(folder, write_t5x_folder), "target.token_embedder.embedding/.zarray"),
    (clip_folder, "config.json"),
    (clip_folder, "model.safetensors"),
    (clip_folder, "vocab.json"),
    (clip_file, "small.pt"),
    (clip_file, "bpe_simple_vocab_16e6.txt.gz"),
    (embeddings, "store.json"),
    (embeddings, "00000.safetensors"),
    (statistics, "statistics.npz"),
    (features, "00000.npz"),
    (prompts, "prompts.txt"),
    (image, "a.png"),
    (images, "a.png"),
    (shard, "0.tar"),
    (prepared, "manifest.json"),
    (prepared, "features.json"),
    (ratings, "ratings.sqlite"),
]


@contextmanager
def as_somebody_else(folder):
    """Where root runs the tests, who may read anything, inside it is a user who may not."""
    if os.geteuid():
        yield
        return
    for parent in (folder, *folder.parents):
        if not parent.stat().st_mode & 1:
            parent.chmod(parent.stat().st_mode | 0o11)
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.parametrize(("write", "name"), CASES)
def test_a_file_without_read_permission_is_reported_as_such(tmp_path, monkeypatch, capsys, write, name):
    monkeypatch.setenv("IMAGEN_JAX_CACHE", str(tmp_path / "cache"))
    if not main.flags.FLAGS.is_parsed():
        main.flags.FLAGS.mark_as_parsed()
    read = write(tmp_path / "theirs")
    read()  # all is well, and all that is imported is
    (file,) = (path for path in (tmp_path / "theirs").rglob(Path(name).name) if str(path).endswith(name))
    file.chmod(0)
    capsys.readouterr()
    with as_somebody_else(tmp_path), pytest.raises(SystemExit) as ended:
        main.run_guarded(lambda: read() and None)
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert ended.value.code == 2 and len(errors) == 1, errors
    assert "owner" in errors[0], errors
    for word in ("download", "delete", "repair", "fetch", "restore", "anew"):
        assert word not in errors[0]
