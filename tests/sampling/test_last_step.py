"""The last step adds no noise with any rule: the result is the image that the denoiser estimates."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imagen_jax.array_types import EstimateWithVariance, Text
from imagen_jax.cascade.image_files import to_pixels
from imagen_jax.cascade.sampling_settings import SamplingSettings
from imagen_jax.cascade.stage_inputs import keys_of_prompts, make_inputs
from imagen_jax.cascade.stage_sampler import make_draw_stage, make_whole_program
from imagen_jax.diffusion.conditions import Conditions
from imagen_jax.diffusion.schedules import SCHEDULES, cosine
from imagen_jax.sampling.edits import Known, end_of_trajectory, full_trajectory, keep_known, resample
from imagen_jax.sampling.sampler import STEP_RULES, sample
from imagen_jax.sampling.spacings import SPACINGS
from imagen_jax.sampling.step_rules import ancestral
from imagen_jax.sampling.thresholding import no_threshold
from tests.stages_of_functions import stage_of
from tests.tiers import thorough_rows_except

SHAPE = (4, 4, 3)

PIXELS = np.random.default_rng(2).integers(0, 256, SHAPE, dtype=np.uint8)
IMAGE = PIXELS / 127.5 - 1.0
"""Values that are whole pixels, so that an error of half a level shows."""

RULES = [(name, level) for name in STEP_RULES for level in ((0.0, 0.4, 1.0) if name in ("ancestral", "ddim") else (0,))]
"""Each rule; those that take γ or η with the least noise, some and the most."""

FIRST_AND_THIRD_ORDER = (("ddim", 1.0), ("unipc", 0))

TRAJECTORIES = {
    "all": full_trajectory,
    "half": end_of_trajectory(0.5),
    "resampled": resample(3, stride=2),
    "one group": resample(2),
}

ROWS = [
    ("uniform", "cosine", 1, "all"),
    ("uniform", "linear", 8, "half"),
    ("uniform", "discrete_cosine", 64, "all"),
    ("discrete", "discrete_cosine", 10, "all"),
    ("log_snr", "linear", 7, "resampled"),
    ("karras", "cosine", 9, "one group"),
]


def keys(batch):
    return jax.random.split(jax.random.key(0), batch)


def denoise_to_image(noisy, log_snr):
    return jnp.broadcast_to(IMAGE, noisy.shape)


def denoise_with_variance(noisy, log_snr):
    return EstimateWithVariance(denoise_to_image(noisy, log_snr), jnp.full(noisy.shape, 0.8))


@pytest.mark.parametrize(("name", "level"), thorough_rows_except(FIRST_AND_THIRD_ORDER, RULES))
def test_a_constant_estimate_is_reproduced_to_the_pixel(name, level):
    rule = STEP_RULES[name](level, level)
    for spacing, schedule, steps, trajectory in ROWS if name == "ddim" else ROWS[-3:]:
        log_snrs = TRAJECTORIES[trajectory](SPACINGS[spacing](SCHEDULES[schedule], steps))
        sampled = sample(denoise_to_image, rule, log_snrs, keys(3), SHAPE)
        case = f"{spacing} {schedule} {steps} {trajectory}"
        # At a log-SNR of 20, where every schedule ends, the noise has a deviation of 4.5e-5.
        np.testing.assert_allclose(sampled, np.broadcast_to(IMAGE, sampled.shape), atol=3e-4, err_msg=case)
        np.testing.assert_array_equal(to_pixels(np.asarray(sampled)), np.broadcast_to(PIXELS, sampled.shape), case)


@pytest.mark.parametrize("name", [name for name in STEP_RULES if STEP_RULES[name](0.0, 0.0).reads_variance])
def test_a_constant_estimate_with_a_learned_variance_is_reproduced_to_the_pixel(name):
    sampled = sample(denoise_with_variance, STEP_RULES[name](0.0, 0.0), SPACINGS["uniform"](cosine, 8), keys(3),
                   SHAPE)  # fmt: skip
    np.testing.assert_array_equal(to_pixels(np.asarray(sampled)), np.broadcast_to(PIXELS, sampled.shape))


@pytest.mark.parametrize("denoise", [denoise_to_image, denoise_with_variance])
def test_known_and_sampled_pixels_have_no_noise(denoise):
    """As in an edit with a mask: the left half is known, the right half is resampled several times."""
    known = Known(jnp.full((3, *SHAPE), 0.2), jnp.zeros((3, *SHAPE)).at[:, :, :2].set(1.0))
    trajectory = resample(3, stride=4)
    sampled = np.asarray(
        sample(keep_known(denoise, known), ancestral(1.0), trajectory(SPACINGS["uniform"](cosine, 8)), keys(3), SHAPE)
    )
    np.testing.assert_allclose(sampled[:, :, :2], 0.2, atol=3e-4)
    np.testing.assert_allclose(sampled[:, :, 2:], np.broadcast_to(IMAGE, sampled.shape)[:, :, 2:], atol=3e-4)


def test_only_the_step_onto_the_clean_image_goes_without_noise():
    """Uses a rule whose images count the steps that had noise."""

    def count_noise(denoise, noisy, log_snr, next_log_snr, noise, count):
        return (count + (noise.std() > 0.5),) * 2

    counted = ancestral()._replace(init=jnp.zeros_like, step=count_noise)
    for steps in (1, 2, 9):
        log_snrs = SPACINGS["karras"](cosine, steps)
        whole = sample(denoise_to_image, counted, log_snrs, keys(2), SHAPE)
        np.testing.assert_array_equal(whole, np.full(whole.shape, steps - 1))
        shortened = sample(denoise_to_image, counted, log_snrs[:-1], keys(2), SHAPE) if steps > 1 else whole
        np.testing.assert_array_equal(shortened, np.full(whole.shape, steps - 1))


def test_every_way_to_run_a_stage_ends_without_noise():
    settings = SamplingSettings(8, ancestral(1.0), 1.0, no_threshold)
    stage = stage_of(lambda *_: denoise_to_image, SHAPE, settings)
    text = Text(jnp.ones((2, 2, 4)), jnp.ones((2, 2), bool))
    inputs = make_inputs(Conditions(text=text), keys_of_prompts(0, ["a", "b"], [0, 0]))
    for program in (
        make_draw_stage(stage),
        make_draw_stage(stage, lambda step: None),
        make_whole_program(stage),
    ):
        sampled = np.asarray(program(None, inputs))
        np.testing.assert_array_equal(to_pixels(sampled), np.broadcast_to(PIXELS, sampled.shape))
