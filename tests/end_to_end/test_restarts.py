"""A start that fails leaves nothing that refuses the corrected command; and a run continues if its paths moved."""

import json
import re
import shutil

import jax
import numpy as np
import pytest
from PIL import Image

from configs import own_images
from imagen_jax.data.preparation.preparation import Preparation, prepare
from imagen_jax.data.sources.parted_sources import PARTED_SOURCES, list_parts
from imagen_jax.errors import UserError
from imagen_jax.train import train
from imagen_jax.training.workdir import read_config
from tests.end_to_end.smoke_runs import draw_own_images
from tests.reference.t5_folders import write_t5_folder
from tests.small_networks import ONE_LEVEL
from tests.tiers import thorough_except

STEPS = 3


@pytest.fixture(autouse=True)
def short_runs(monkeypatch):
    """A run keeps the first state for its last, and no step is compiled: all that comes before is as it is."""

    def train_from(state, task, job, data, run, watch):
        steps = task.training.steps
        after = state._replace(step=jax.numpy.asarray(steps))
        for _ in range(steps - run.done):
            next(data.batches)
        run.checkpoints.save(steps, after, data.batches.get_state() | run.guard.get_state())
        run.checkpoints.wait()
        return after

    monkeypatch.setattr("imagen_jax.train.train_from", train_from)


@pytest.fixture
def images(tmp_path):
    (tmp_path / "images").mkdir()
    return draw_own_images(tmp_path / "images")


def make_config(images, tmp_path, steps=STEPS):
    config = own_images.get_config("base,smoke")
    config.network.update(ONE_LEVEL)
    config.data.data_dir = str(tmp_path / "drawn")
    config.data.options.folder = str(images)
    config.training.steps = steps
    return config


WRONG = {
    "training.batch_size": 64,  # more than there are images
    "training.gradient_accumulation": 3,
    "training.max_consecutive_nonfinite": 0,
    "training.keep_checkpoints": 0,
    "training.steps": 9,  # past the schedule
    "data.source": "openmoij",
    "data.crop": "random",  # of squares
    "data.options.folder": "/absent",
    "data.resolution": 2000,
    "text.width": 3,
    "text.embeddings": "kept",
    "optimizer.name": "adamm",
    "stage.schedule": "cosin",
    "seed": -1,
}


@pytest.mark.parametrize("key", WRONG)
@pytest.mark.thorough
def test_after_a_start_that_failed_the_corrected_command_trains(tmp_path, images, key):
    config = make_config(images, tmp_path)
    right = config.copy_and_resolve_references()
    config.update_from_flattened_dict({key: WRONG[key]})
    with pytest.raises(UserError):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run" / "config.json").exists(), "nothing is written before all is checked"
    assert int(train(right, tmp_path / "run").step) == STEPS
    assert read_config(tmp_path / "run")["training"]["steps"] == STEPS


def prepare_images(images, out):
    options = {"folder": str(images)}
    prepare(Preparation("folder", options, PARTED_SOURCES["folder"].attribution, list_parts("folder", options)), out, 0)
    return out


def of_images(tmp_path, images):
    return make_config(images, tmp_path), "data.options.folder", images


def of_data_dir(tmp_path, images):
    return make_config(images, tmp_path), "data.data_dir", tmp_path / "drawn"


def of_prepared(tmp_path, images):
    prepared = prepare_images(images, tmp_path / "prepared, of mine")
    config = make_config(prepared, tmp_path)
    config.data.source = "prepared"
    config.data.resolution = 16
    return config, "data.options.folder", prepared


def of_t5(tmp_path, images):
    folder = write_t5_folder(tmp_path / "t5")
    config = make_config(images, tmp_path)
    config.text.encoder, config.text.options = "t5", {"folder": str(folder), "dtype": "float32", "tokenizer": ""}
    config.text.width = 24
    return config, "text.options.folder", folder


def of_tokenizer(tmp_path, images):
    config, _, folder = of_t5(tmp_path, images)
    config.text.options.tokenizer = str(folder / "spiece.model")
    return config, "text.options.tokenizer", folder / "spiece.model"


PATHS = [of_images, of_data_dir, of_prepared, of_t5, of_tokenizer]


@pytest.mark.thorough
@pytest.mark.parametrize("begin", PATHS, ids=lambda begin: begin.__name__)
def test_a_run_continues_if_a_path_moved(tmp_path, images, begin):
    config, key, path = begin(tmp_path, images)
    train(config, tmp_path / "run")
    moved = tmp_path / "elsewhere" / path.name
    moved.parent.mkdir()
    if path.is_dir():
        shutil.copytree(path, moved, copy_function=shutil.copyfile)  # with other times
        shutil.rmtree(path)
    else:
        path.rename(moved)
    config.update_from_flattened_dict({key: f"{moved}/" if moved.is_dir() else str(moved)})
    config.training.steps = 4
    assert int(train(config, tmp_path / "run").step) == 4
    assert read_config(tmp_path / "run")["training"]["steps"] == 4


def change_an_image(images):
    pixels = np.random.default_rng(1).integers(0, 255, (40, 40, 3), np.uint8)
    Image.fromarray(pixels).save(images / "03.png")


def change_a_caption(images):
    (images / "03.txt").write_text("another caption\n")


@pytest.mark.parametrize("change", thorough_except([change_a_caption], [change_an_image, change_a_caption]))
@pytest.mark.parametrize(
    "begin", thorough_except([of_images], [of_images, of_prepared]), ids=lambda begin: begin.__name__
)
def test_other_data_at_the_same_path_are_refused(tmp_path, images, begin, change):
    config, _, path = begin(tmp_path, images)
    train(config, tmp_path / "run")
    change(images)
    if begin is of_prepared:
        shutil.rmtree(path)
        prepare_images(images, path)
    config.training.steps = 4
    with pytest.raises(UserError, match=r"\bdata\b"):
        train(config, tmp_path / "run")
    assert read_config(tmp_path / "run")["training"]["steps"] == STEPS


@pytest.mark.thorough
def test_another_encoder_at_the_same_path_is_refused(tmp_path, images):
    config, _, path = of_t5(tmp_path, images)
    train(config, tmp_path / "run")
    shutil.rmtree(path)
    write_t5_folder(path, seed=1)
    config.training.steps = 4
    with pytest.raises(UserError, match=r"text encoder .*t5-24-"):
        train(config, tmp_path / "run")


def test_past_the_end_of_its_schedule_no_run_continues_until_the_schedule_is_longer(tmp_path, images, capsys):
    config = make_config(images, tmp_path, steps=4)
    train(config, tmp_path / "run")
    config.training.steps = 8
    with pytest.raises(UserError, match=r"steps=8 .*\b4\b.*decay_steps=8 "):
        train(config, tmp_path / "run")
    config.optimizer.decay_steps = 8
    assert int(train(config, tmp_path / "run").step) == 8
    assert re.search(r"config\.optimizer\.decay_steps .*4.*8", "".join(capsys.readouterr()))


@pytest.mark.thorough
def test_a_run_whose_config_is_older_than_fingerprints_continues(tmp_path, images):
    config = make_config(images, tmp_path)
    train(config, tmp_path / "run")
    path = tmp_path / "run" / "config.json"
    written = read_config(tmp_path / "run")
    assert written.pop("fingerprints")
    path.write_text(json.dumps(written))
    config.training.steps = 4
    assert int(train(config, tmp_path / "run").step) == 4
    assert read_config(tmp_path / "run")["fingerprints"]["data_set"]
