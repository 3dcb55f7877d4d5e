"""The last step adds no noise, whatever the rule: what a denoiser is sure of is what the image shows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imagen_jax.array_types import ImageWithVariance, Text
from imagen_jax.cascade.image_files import to_pixels
from imagen_jax.cascade.stage_sampler import (
    Calls,
    Inputs,
    SamplingSettings,
    SamplingStage,
    keys_of_prompts,
    make_draw_stage,
    make_whole_program,
)
from imagen_jax.diffusion.null_text import null_text
from imagen_jax.diffusion.schedules import SCHEDULES, cosine
from imagen_jax.sampling.edits import Known, end_of_trajectory, full_trajectory, keep_known, resample
from imagen_jax.sampling.sampler import STEP_RULES, sample
from imagen_jax.sampling.spacings import SPACINGS
from imagen_jax.sampling.step_rules import ancestral
from imagen_jax.sampling.thresholding import no_threshold

SHAPE = (4, 4, 3)

PIXELS = np.random.default_rng(2).integers(0, 256, SHAPE, dtype=np.uint8)
IMAGE = PIXELS / 127.5 - 1.0
"""Values that are whole pixels, so that an error of half a level shows."""

RULES = [(name, level) for name in STEP_RULES for level in ((0.0, 0.4, 1.0) if name in ("ancestral", "ddim") else (0,))]
"""Each rule; those that take γ or η with the least noise, some and the most."""

WALKS = {
    "all": full_trajectory,
    "half": end_of_trajectory(0.5),
    "resampled": resample(3, stride=2),
    "one stretch": resample(2),
}

ROWS = [
    ("uniform", "cosine", 1, "all"),
    ("uniform", "linear", 8, "half"),
    ("uniform", "discrete_cosine", 64, "all"),
    ("discrete", "discrete_cosine", 10, "all"),
    ("log_snr", "linear", 7, "resampled"),
    ("karras", "cosine", 9, "one stretch"),
]


def keys(batch):
    return jax.random.split(jax.random.key(0), batch)


def know_the_image(noisy, log_snr):
    return jnp.broadcast_to(IMAGE, noisy.shape)


def know_the_image_and_a_variance(noisy, log_snr):
    return ImageWithVariance(know_the_image(noisy, log_snr), jnp.full(noisy.shape, 0.8))


@pytest.mark.parametrize(("name", "level"), RULES)
def test_what_a_denoiser_is_sure_of_is_drawn_to_the_pixel(name, level):
    rule = STEP_RULES[name](level, level)
    for spacing, schedule, steps, walk in ROWS if name == "ddim" else ROWS[-3:]:
        log_snrs = WALKS[walk](SPACINGS[spacing](SCHEDULES[schedule], steps))
        drawn = sample(know_the_image, rule, log_snrs, keys(3), SHAPE)
        told = f"{spacing} {schedule} {steps} {walk}"
        # At a log-SNR of 20, where every schedule ends, the noise has a deviation of 4.5e-5.
        np.testing.assert_allclose(drawn, np.broadcast_to(IMAGE, drawn.shape), atol=3e-4, err_msg=told)
        np.testing.assert_array_equal(to_pixels(np.asarray(drawn)), np.broadcast_to(PIXELS, drawn.shape), told)


@pytest.mark.parametrize("name", [name for name in STEP_RULES if STEP_RULES[name](0.0, 0.0).reads_variance])
def test_so_it_is_where_the_network_learns_its_variance(name):
    drawn = sample(know_the_image_and_a_variance, STEP_RULES[name](0.0, 0.0), SPACINGS["uniform"](cosine, 8), keys(3),
                   SHAPE)  # fmt: skip
    np.testing.assert_array_equal(to_pixels(np.asarray(drawn)), np.broadcast_to(PIXELS, drawn.shape))


@pytest.mark.parametrize("denoise", [know_the_image, know_the_image_and_a_variance])
def test_what_is_kept_and_what_is_drawn_anew_meet_without_noise(denoise):
    """As an edit with a mask has it: the left half is known, the right half is drawn again and again."""
    known = Known(jnp.full((3, *SHAPE), 0.2), jnp.zeros((3, *SHAPE)).at[:, :, :2].set(1.0))
    walk = resample(3, stride=4)
    drawn = np.asarray(
        sample(keep_known(denoise, known), ancestral(1.0), walk(SPACINGS["uniform"](cosine, 8)), keys(3), SHAPE)
    )
    np.testing.assert_allclose(drawn[:, :, :2], 0.2, atol=3e-4)
    np.testing.assert_allclose(drawn[:, :, 2:], np.broadcast_to(IMAGE, drawn.shape)[:, :, 2:], atol=3e-4)


def test_only_the_step_onto_the_clean_image_goes_without_noise():
    """A rule whose images count the steps that had noise."""

    def count_noise(denoise, noisy, log_snr, next_log_snr, noise, count):
        return (count + (noise.std() > 0.5),) * 2

    counted = ancestral()._replace(init=jnp.zeros_like, step=count_noise)
    for steps in (1, 2, 9):
        log_snrs = SPACINGS["karras"](cosine, steps)
        whole = sample(know_the_image, counted, log_snrs, keys(2), SHAPE)
        np.testing.assert_array_equal(whole, np.full(whole.shape, steps - 1))
        cut = sample(know_the_image, counted, log_snrs[:-1], keys(2), SHAPE) if steps > 1 else whole
        np.testing.assert_array_equal(cut, np.full(whole.shape, steps - 1))


def test_every_way_to_run_a_stage_ends_without_noise():
    settings = SamplingSettings(8, ancestral(1.0), 1.0, no_threshold)
    stage = SamplingStage(lambda *_: know_the_image, SHAPE[0], None, cosine, cosine, settings)
    text = Text(jnp.ones((2, 2, 4)), jnp.ones((2, 2), bool))
    inputs = Inputs(text, null_text(text), keys_of_prompts(0, ["a", "b"], [0, 0]))
    for draw in (make_draw_stage(stage), make_draw_stage(stage, Calls(lambda step: None)), make_whole_program(stage)):
        drawn = np.asarray(draw(None, inputs))
        np.testing.assert_array_equal(to_pixels(drawn), np.broadcast_to(PIXELS, drawn.shape))
