"""What previews show.

A base without prompts previews a few captions of its own data, and a resumed run keeps them. A super-resolution stage
enlarges validation images, or training images where no other exist.
"""

import dataclasses
import json

import pytest
from PIL import Image

from configs import own_images, quickstart
from imagen_jax.cascade.experiment import read_experiment
from imagen_jax.cascade.previews import (
    CAPTIONS_READ,
    ENLARGED_EXAMPLES,
    PROMPTS,
    choose_prompts,
    first_examples,
    recall_prompts,
)
from imagen_jax.cascade.sampling_settings import SamplingSettings
from imagen_jax.data.preparation.builder import prepare_data
from imagen_jax.data.stored_images import MANIFEST
from imagen_jax.errors import UserError
from imagen_jax.sampling.step_rules import ddim
from imagen_jax.sampling.thresholding import no_threshold
from imagen_jax.training.workdir import keep_config
from tests.stages_of_functions import stage_of

SETTINGS = SamplingSettings(2, ddim(), 1.0, no_threshold)


def write_captions(folder, captions):
    """A data set's captions without its images."""
    (folder / MANIFEST).write_text(json.dumps({"source": "folder", "counts": {"train": len(captions)}}))
    (folder / "captions.json").write_text(json.dumps({"train": captions, "validation": ["of no training image"]}))
    return folder


def experiment(variant="base,smoke", **changed):
    config = own_images.get_config(variant)
    config.data.options.folder = "pictures"
    config.update_from_flattened_dict(changed)
    return read_experiment(config)


def test_they_are_distinct_captions_from_all_over_the_data(tmp_path):
    captions = [f"cat {number // 2}" for number in range(1000)]
    prompts = choose_prompts(experiment(), write_captions(tmp_path, captions))
    assert len(set(prompts)) == PROMPTS and set(prompts) <= set(captions)
    eighths = [int(prompt.split()[1]) * PROMPTS // 500 for prompt in prompts]
    assert all(abs(eighth - number) <= 1 for number, eighth in enumerate(eighths))
    assert choose_prompts(experiment(), tmp_path) == prompts
    assert choose_prompts(experiment(seed=1), tmp_path) != prompts


@pytest.mark.parametrize("captions", [["a cat"], ["a cat", "a cat", " ", "a dog"]])
def test_few_captions_are_all_taken(tmp_path, captions):
    prompts = choose_prompts(experiment(), write_captions(tmp_path, captions))
    assert set(prompts) == {caption for caption in captions if caption.strip()} and len(prompts) == len(set(prompts))


def test_of_a_large_data_set_the_first_count(tmp_path):
    captions = [f"cat {number}" for number in range(CAPTIONS_READ + 100)]
    prompts = choose_prompts(experiment(), write_captions(tmp_path, captions))
    assert max(int(prompt.split()[1]) for prompt in prompts) < CAPTIONS_READ


def test_without_any_caption_the_error_says_what_to_set(tmp_path):
    with pytest.raises(UserError, match=r"preview\.prompts"):
        choose_prompts(experiment(), write_captions(tmp_path, [" "]))


@pytest.mark.parametrize(
    "config",
    [
        experiment(**{"preview.prompts": ("a bird",)}),
        experiment(**{"training.preview_every": 0}),
        experiment("super_resolution,smoke"),
        read_experiment(quickstart.get_config()),
    ],
)
def test_given_prompts_stay_and_unneeded_ones_are_not_chosen(tmp_path, config):
    assert choose_prompts(config, write_captions(tmp_path, ["a cat"])) == config.preview.prompts


def test_a_run_that_has_begun_keeps_its_prompts(tmp_path):
    kept = experiment(**{"preview.prompts": ("red apple", "panda")})
    keep_config(tmp_path, kept.to_dict())
    now = experiment()
    assert recall_prompts(now, tmp_path) == now, "there is no checkpoint yet"
    (tmp_path / "checkpoints" / "1").mkdir(parents=True)
    (tmp_path / "checkpoints" / "1" / "metadata.json").touch()
    recalled = recall_prompts(now, tmp_path)
    assert recalled.preview.prompts == ("red apple", "panda")
    assert dataclasses.replace(recalled, preview=now.preview) == now
    given = experiment(**{"preview.prompts": ("a bird",)})
    assert recall_prompts(given, tmp_path) == given


@pytest.mark.parametrize(("validation_fraction", "concept"), [(0.0, "train"), (0.5, "validation")])
def test_without_validation_images_a_super_resolution_stage_enlarges_training_images(
    tmp_path, validation_fraction, concept
):
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for number in range(8):
        Image.new("RGB", (32, 32), (30 * number, 0, 0)).save(pictures / f"{number}.png")
        (pictures / f"{number}.txt").write_text(f"cat {number}")
    folder = prepare_data("folder", 32, tmp_path / "data", validation_fraction, folder=str(pictures))
    captions, small, original = first_examples(folder, stage_of(None, (32, 32, 3), SETTINGS, 16))
    assert captions == json.loads((folder / "captions.json").read_text())[concept][:ENLARGED_EXAMPLES]
    assert small.shape == (len(captions), 16, 16, 3) and original.shape == (len(captions), 32, 32, 3)
