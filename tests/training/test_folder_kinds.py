"""Which folders a training begins in, and which it refuses in a sentence, without changing a file."""

import json

import jax.numpy as jnp
import pytest

from configs import openmoji_classifier, own_images, quickstart
from imagen_jax.errors import UserError
from imagen_jax.train import train, train_classifier
from imagen_jax.training.checkpoints.store import CheckpointStore
from imagen_jax.training.folder_kinds import check_trainable
from imagen_jax.training.workdir import keep_config
from tests.tiers import thorough_rows_except

STAGE = quickstart.get_config("base,smoke")
CLASSIFIER = openmoji_classifier.get_config(",smoke")
DATA = STAGE.data.to_dict()
PARAMS = {"layer": {"kernel": jnp.ones((2, 2))}}


def write(name, content):
    def make(folder):
        folder.mkdir()
        (folder / name).write_text(json.dumps(content))

    return make


def export(folder):
    keep_config(folder, STAGE)
    (folder / "model.safetensors").write_bytes(b"weights")


def import_ours(folder):
    keep_config(folder, STAGE)
    with CheckpointStore(folder / "checkpoints") as checkpoints:
        checkpoints.save_weights(7, PARAMS)


def import_deepfloyd(folder):
    write("config.json", {name: {} for name in ("text", "stage", "network", "sampling")})(folder)
    with CheckpointStore(folder / "checkpoints") as checkpoints:
        checkpoints.save_weights(0, PARAMS)


def cut_import(folder):
    with CheckpointStore(folder / "checkpoints") as checkpoints:
        checkpoints.save_weights(0, PARAMS)


REFUSED = {
    "a file": (lambda folder: folder.write_text("x"), "file"),
    "exported": (export, "exported weights"),
    "imported, ours": (import_ours, "optimizer"),
    "imported, DeepFloyd IF's": (import_deepfloyd, "optimizer"),
    "an import that was cut off": (cut_import, "optimizer"),
    "a T5": (write("config.json", {"d_model": 64}), "config.json"),
    "a list": (write("config.json", [1]), "config.json"),
    "a pipeline": (write("model_index.json", {}), "diffusers"),
    "data": (write("manifest.json", {}), "data set"),
    "half of a data set": (write("job.json", {}), "data set"),
    "images": (write("sampling.json", {}), "imagen_jax.sample"),
    "an evaluation": (write("report.json", {}), "an evaluation"),
    "half of an evaluation": (write("captions.jsonl", {}), "an evaluation"),
}


def list_all(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        *((name, "stage") for name in REFUSED),
        *thorough_rows_except([("data", "classifier")], [(name, "classifier") for name in REFUSED]),
    ],
)
def test_a_folder_of_another_kind_is_refused(tmp_path, name, kind):
    make, fact = REFUSED[name]
    make(tmp_path / "run")
    before = list_all(tmp_path)
    # Through the commands' own functions, so that none forgets the check.
    begin, config = {"stage": (train, STAGE), "classifier": (train_classifier, CLASSIFIER)}[kind]
    with pytest.raises(UserError) as refused:
        begin(config, tmp_path / "run")
    message = str(refused.value)
    assert fact in message or "stage" in message, message
    assert "--workdir" in message
    assert list_all(tmp_path) == before


def test_a_stage_and_a_classifier_do_not_share_a_workdir(tmp_path):
    keep_config(tmp_path / "stage", STAGE)
    keep_config(tmp_path / "classifier", CLASSIFIER)
    with pytest.raises(UserError, match="imagen_jax train_classifier"):
        train(STAGE, tmp_path / "classifier")
    with pytest.raises(UserError, match="imagen_jax train "):
        train_classifier(CLASSIFIER, tmp_path / "stage")


def test_previews_do_not_come_among_the_images(tmp_path):
    config = own_images.get_config("base,smoke")
    config.data.options.folder = str(tmp_path)
    for workdir in (tmp_path, tmp_path / "runs" / "base"):
        with pytest.raises(UserError, match="--workdir"):
            train(config, workdir)


@pytest.mark.parametrize("there", [[], ["notes.txt"], ["supervise.log", "report.json"]])
def test_an_empty_folder_and_a_run_with_other_things_in_it_are_well(tmp_path, there):
    check_trainable(tmp_path / "absent", "stage", DATA)
    if "report.json" in there:
        keep_config(tmp_path, STAGE)
    for name in there:
        (tmp_path / name).write_text("{}")
    check_trainable(tmp_path, "stage", DATA)
