"""What the command lines of ``command_lines`` name: small stages, images, data sets, written once into one folder."""

import json
from pathlib import Path

import jax
import numpy as np
from PIL import Image

from configs import openmoji_classifier
from imagen_jax.cascade import checkpoint_export
from imagen_jax.cascade.classifier import build_classifier, initial_params
from imagen_jax.cascade.experiment import read_classifier_experiment
from imagen_jax.cascade.loading import load_stage
from imagen_jax.data.preparation.conversion import Conversion
from imagen_jax.data.preparation.preparation import Preparation, prepare
from imagen_jax.data.sources.synthetic import synthetic_parts
from imagen_jax.data.stored_images import captions_of
from imagen_jax.training.checkpoints.store import CheckpointStore
from tests.drawn_params import draw_params
from tests.end_to_end.smoke_runs import draw_own_images
from tests.reference.clip_folders import write_clip_folder
from tests.small_cascades import write_cascade
from tests.web.rating_folders import write_two_folders

SMALL_TRAINING = """
from configs import own_images
from tests.small_networks import ONE_LEVEL

def get_config(variant):
    config = own_images.get_config(f"{variant},smoke")
    config.data.options.folder = "own"
    config.data.data_dir = "drawn"
    config.network.update(ONE_LEVEL | {"patch": 2})
    config.training.steps = 1
    config.sampling.steps = 1
    config.preview.prompts = ("square",)
    return config
"""

SMALL_CLASSIFIER = """
from configs import openmoji_classifier

def get_config(variant=""):
    config = openmoji_classifier.get_config(",smoke")
    config.data.data_dir = "drawn"
    config.training.steps = 1
    return config
"""


def write_all(folder: Path) -> None:
    """Writes all inputs into a folder, in which the command lines are run."""
    stages = write_cascade(folder)
    trained = load_stage(stages[0])
    checkpoint_export.write(trained.config, trained.params, 1, folder / "exported")
    config = openmoji_classifier.get_config(",smoke")
    (folder / "classifier").mkdir()
    (folder / "classifier" / "config.json").write_text(json.dumps(config.to_dict()))
    classifier = build_classifier(read_classifier_experiment(config).classifier)
    shapes = jax.eval_shape(lambda: initial_params(classifier, jax.random.key(0)))
    with CheckpointStore(folder / "classifier" / "checkpoints") as checkpoints:
        checkpoints.save_weights(0, draw_params(shapes))
    write_images(folder)
    (folder / "prompts.txt").write_text("red circle\nblue square\n")
    (folder / "prompts.csv").write_text("Prompts,Category\nred circle,Colors\nblue square,Colors\n")
    (folder / "own").mkdir()
    draw_own_images(folder / "own")
    parts = synthetic_parts(count=24, resolution=16)
    preparation = Preparation("synthetic", {}, "Ours", parts, Conversion(), duplicates="keys")
    prepare(preparation, folder / "prepared", 0)
    write_two_folders(folder / "rated")
    write_clip_folder(folder / "clip")
    shapes = sorted({caption for captions in captions_of(folder / "prepared", "train") for caption in captions})[:2]
    (folder / "shapes.txt").write_text("".join(f"{shape}: {shape}, a {shape}\n" for shape in shapes))
    (folder / "shapes.json").write_text(json.dumps({shape: [shape] for shape in shapes}))
    (folder / "train.py").write_text(SMALL_TRAINING)
    (folder / "classify.py").write_text(SMALL_CLASSIFIER)


def write_images(folder: Path) -> None:
    """Writes images to edit, and masks of several kinds."""
    generator = np.random.default_rng(0)
    Image.fromarray(generator.integers(0, 256, (20, 20, 3), dtype=np.uint8)).save(folder / "photo.png")
    Image.fromarray(generator.integers(0, 256, (20, 40, 3), dtype=np.uint8)).save(folder / "wide.png")
    masks = {"mask": (20, slice(0, 9)), "all": (20, slice(0, 20)), "none": (20, slice(0, 0)), "edge": (40, slice(0, 9))}
    for name, (width, white) in masks.items():
        mask = np.zeros((20, width), np.uint8)
        mask[:, white] = 255
        Image.fromarray(mask).save(folder / f"{name}.png")
