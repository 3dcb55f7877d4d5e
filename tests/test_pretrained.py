"""The bundled cascade is complete, small enough, has its metadata, and samples what its prompts say."""

import re

import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from PIL import Image

from configs import emoji_unclip
from imagen_jax import pretrained
from imagen_jax.cascade.cascade import load_cascade
from imagen_jax.cascade.experiment import read_experiment
from imagen_jax.cascade.image_files import to_pixels
from imagen_jax.cascade.loading import load_stage, plan_stage
from imagen_jax.cascade.stage import abstract_params, build_stage
from imagen_jax.data.sources.openmoji import openmoji_images
from imagen_jax.encoders.pretrained_clip import load_clip, name_vectors
from imagen_jax.errors import UserError
from imagen_jax.pretrained import CASCADES, USUAL, find_part, find_stages
from imagen_jax.storage.paths import size_of, to_path
from imagen_jax.training.starting import match

FOLDER = to_path(pretrained.__file__).parent
MAX_BYTES = 25_000_000
"""Max size of a cascade's weights in bytes."""

MAX_BYTES_OF_ALL = 50_000_000

PROMPTS = ["panda", "red heart", "pizza", "rainbow"]


@pytest.mark.parametrize("name", CASCADES)
def test_a_cascade_is_small_and_has_a_model_card_with_its_licence(name):
    weights = list((FOLDER / name).glob("*/model.safetensors"))
    assert len(weights) == len(CASCADES[name]) and sum(size_of(file) for file in weights) <= MAX_BYTES
    card = (FOLDER / name / "README.md").read_text()
    assert "CC BY-SA 4.0" in card and "https://openmoji.org" in card
    pictures = [file.name for file in (FOLDER / name).glob("*.png")]
    assert pictures and set(re.findall(r"\((\w+\.png)\)", card)) == set(pictures)


def test_the_bundled_prior_is_of_the_bundled_clip():
    prior, clip = plan_stage(find_part("emoji_unclip/prior")), load_clip("emoji_unclip/clip", model="")
    assert prior.config.fingerprints["image_encoder"] == name_vectors(clip, prior.stage.space)
    assert prior.stage.shape == (clip.description.embedding,) and prior.config.sampling.estimate_errors
    assert "CC BY-SA 4.0" in (FOLDER / "emoji_unclip" / "README.md").read_text()


def test_all_weights_together_are_small():
    assert sum(size_of(file) for file in FOLDER.glob("*/*/*.safetensors")) <= MAX_BYTES_OF_ALL


@pytest.mark.parametrize("name", CASCADES)
def test_its_stages_are_found_by_its_name_and_have_metadata(name):
    stages = [load_stage(folder) for folder in find_stages([name])]
    of_images = [one.stage for one in stages if not one.stage.makes_vectors]
    assert [one.low_resolution for one in of_images] == [None, *(one.resolution for one in of_images[:-1])]
    assert all(one.step >= 200 and one.config.network.dtype == "float32" for one in stages)
    assert load_cascade([name]).names == [one.name for one in stages]


def test_a_name_is_a_cascade_only_where_it_stands_alone(tmp_path):
    assert find_stages([f"./{USUAL}"]) == [to_path(f"./{USUAL}")]
    assert find_stages([USUAL, "runs/large"]) == [to_path(USUAL), to_path("runs/large")]


def test_a_part_of_a_bundled_cascade_has_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_stages(["runs/prior", "openmoji/base"]) == [to_path("runs/prior"), FOLDER / "openmoji/base"]
    assert find_part("openmoji/none") == to_path("openmoji/none")
    (tmp_path / "openmoji/base").mkdir(parents=True)
    assert find_part("openmoji/base") == to_path("openmoji/base")


def test_the_upsampler_of_emoji_starts_from_the_bundled_one():
    config = read_experiment(emoji_unclip.get_config("upsampler"))
    source = plan_stage(find_part(config.training.init_from)).stage
    ours, theirs = (flatten_dict(abstract_params(one), sep="/") for one in (build_stage(config), source))
    assert set(ours) == set(match(ours, theirs, "openmoji")) < set(theirs)


def test_folders_stay_folders(tmp_path):
    assert find_stages([tmp_path]) == [tmp_path]


def test_no_stages_is_a_mistake():
    with pytest.raises(UserError, match="--stages=openmoji"):
        load_cascade([])


@pytest.mark.slow
def test_it_samples_its_prompts():
    """Each image is nearer to its own drawing than to those of all others."""
    # One call of the network for both parts of guidance compiles faster than two.
    settings = {"steps": [4, 2], "batched_guidance": True}
    (_, large) = next(load_cascade([USUAL], settings, batch_size=len(PROMPTS)).draw(PROMPTS))
    images = {image.caption: image for image in openmoji_images()}
    others = list(images)[:: len(images) // 40]
    captions = [*PROMPTS, *(caption for caption in others if caption not in PROMPTS)]
    drawings = np.stack([shrink(images[caption].render(256)) for caption in captions])
    samples = np.stack([shrink(pixels) for pixels in to_pixels(large)])
    distances = np.abs(samples[:, None] - drawings[None]).mean(axis=(2, 3, 4))
    assert list(distances.argmin(axis=1)) == [0, 1, 2, 3]


@pytest.mark.thorough
def test_every_drawing_of_openmoji_is_rendered():
    """Other tests train on every tenth (``few_drawings``)."""
    drawings = np.stack([image.render(16) for image in openmoji_images()])
    assert drawings.shape == (1918, 16, 16, 3) and (drawings.min((1, 2, 3)) < 230).all()


def shrink(pixels):
    """An image at 32 px, where small shifts count less."""
    return np.asarray(Image.fromarray(pixels).resize((32, 32), Image.Resampling.BOX), np.float32)
