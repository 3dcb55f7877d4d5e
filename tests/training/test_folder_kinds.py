"""Which folders a training begins in, and which it refuses in a sentence, without changing a file."""

import json

import jax.numpy as jnp
import pytest

from configs import openmoji_classifier, own_images, quickstart
from imagen_jax.cascade.classifier_training import train_classifier
from imagen_jax.errors import UserError
from imagen_jax.train import train
from imagen_jax.training.checkpoints.store import CheckpointStore
from imagen_jax.training.folder_kinds import check_trainable
from imagen_jax.training.workdir import keep_config

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


NO_STATE = "starting from weights is not supported yet; sample with them, or choose another --workdir"

REFUSED = {
    "a file": (lambda folder: folder.write_text("x"), "is a file"),
    "exported": (export, f"exported weights: {NO_STATE}"),
    "imported, ours": (import_ours, f"without the optimizer's state, such as an import: {NO_STATE}"),
    "imported, DeepFloyd IF's": (import_deepfloyd, f"such as an import: {NO_STATE}"),
    "an import that was cut off": (cut_import, f"such as an import: {NO_STATE}"),
    "a T5": (write("config.json", {"d_model": 64}), "no config of a training of this package"),
    "a list": (write("config.json", [1]), "no config of a training of this package"),
    "a pipeline": (write("model_index.json", {}), "a pipeline of diffusers"),
    "data": (write("manifest.json", {}), "a prepared data set"),
    "half of a data set": (write("job.json", {}), "a data set that is being prepared"),
    "pictures": (write("sampling.json", {}), "pictures that imagen_jax.sample drew"),
    "an evaluation": (write("report.json", {}), "an evaluation"),
    "half of an evaluation": (write("captions.jsonl", {}), "an evaluation"),
}


def list_all(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("kind", ["stage", "classifier"])
@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_trainings_folder_is_refused(tmp_path, name, kind):
    make, sentence = REFUSED[name]
    make(tmp_path / "run")
    before = list_all(tmp_path)
    # Through the commands' own functions, so that none forgets to ask.
    begin, config = {"stage": (train, STAGE), "classifier": (train_classifier, CLASSIFIER)}[kind]
    with pytest.raises(UserError) as refused:
        begin(config, tmp_path / "run")
    told = str(refused.value)
    assert sentence in told or "is the workdir of a stage" in told, told
    assert "choose another" in told
    assert list_all(tmp_path) == before


def test_a_stage_and_a_classifier_do_not_share_a_workdir(tmp_path):
    keep_config(tmp_path / "stage", STAGE)
    keep_config(tmp_path / "classifier", CLASSIFIER)
    with pytest.raises(UserError, match=r"workdir of a classifier, which imagen_jax train_classifier trains"):
        train(STAGE, tmp_path / "classifier")
    with pytest.raises(UserError, match=r"workdir of a stage, which imagen_jax train trains"):
        train_classifier(CLASSIFIER, tmp_path / "stage")


def test_previews_do_not_come_among_the_images(tmp_path):
    config = own_images.get_config("base,smoke")
    config.data.options.folder = str(tmp_path)
    for workdir in (tmp_path, tmp_path / "runs" / "base"):
        with pytest.raises(UserError, match="lies in the folder of the images"):
            train(config, workdir)


@pytest.mark.parametrize("there", [[], ["notes.txt"], ["supervise.log", "report.json"]])
def test_an_empty_folder_and_a_run_with_other_things_in_it_are_well(tmp_path, there):
    check_trainable(tmp_path / "absent", "stage", DATA)
    if "report.json" in there:
        keep_config(tmp_path, STAGE)
    for name in there:
        (tmp_path / name).write_text("{}")
    check_trainable(tmp_path, "stage", DATA)
