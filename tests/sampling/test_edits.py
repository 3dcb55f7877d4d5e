"""Edits, on denoisers whose outputs are known."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imagen_jax.diffusion.process import add_noise, signal_and_noise_scale
from imagen_jax.diffusion.schedules import cosine
from imagen_jax.errors import UserError
from imagen_jax.sampling.edits import Known, end_of_trajectory, interpolate, invert, keep_known, resample
from imagen_jax.sampling.sampler import STEP_RULES, add_more_noise, normal_for_each, sample
from imagen_jax.sampling.spacings import space_as_karras, space_uniformly
from imagen_jax.sampling.step_rules import ancestral, ddim
from tests.sampling.test_solvers import mixture_estimate
from tests.tiers import thorough_except

SHAPE = (4, 4, 3)
IMAGE = jax.random.uniform(jax.random.key(5), (3, *SHAPE), minval=-0.9, maxval=0.9)


def keys(batch, seed=0):
    return jax.random.split(jax.random.key(seed), batch)


@pytest.mark.parametrize(("strength", "steps"), [(1.0, 20), (0.5, 10), (0.26, 5), (0.001, 1)])
def test_a_strength_is_the_share_of_steps_that_is_taken(strength, steps):
    log_snrs = space_uniformly(cosine, 20)
    np.testing.assert_array_equal(end_of_trajectory(strength)(log_snrs), log_snrs[-steps - 1 :])


@pytest.mark.parametrize("strength", [0.0, -0.5, 1.5, float("nan")])
def test_an_invalid_strength_is_refused(strength):
    with pytest.raises(UserError, match=re.escape(f"strength {strength:g}")):
        end_of_trajectory(strength)


@pytest.mark.thorough
def test_the_weaker_the_strength_the_nearer_the_result_to_the_image():
    def edit(strength):
        log_snrs = end_of_trajectory(strength)(space_uniformly(cosine, 20))
        noise = normal_for_each(keys(3), SHAPE)
        start = add_noise(IMAGE, noise, jnp.full((3,), log_snrs[0]))
        return np.abs(np.asarray(sample(mixture_estimate, ddim(), log_snrs, keys(3), SHAPE, start=start)) - IMAGE)

    distances = [edit(strength).mean() for strength in (0.05, 0.2, 0.5, 1.0)]
    assert distances == sorted(distances) and distances[0] < 0.1 < distances[-1]


@pytest.mark.parametrize("name", thorough_except(("ancestral", "unipc"), STEP_RULES))
def test_known_pixels_are_kept_and_the_rest_is_sampled(name):
    mask = jnp.zeros((3, *SHAPE)).at[:, :2].set(1.0)
    denoise = keep_known(mixture_estimate, Known(IMAGE, mask))
    rule = STEP_RULES[name](0.0, 0.0)
    sampled, free = (
        sample(one, rule, space_as_karras(cosine, 20), keys(3), SHAPE) for one in (denoise, mixture_estimate)
    )
    np.testing.assert_allclose(sampled[:, :2], IMAGE[:, :2], atol=2e-3)
    # The values of this denoiser do not see each other.
    np.testing.assert_allclose(sampled[:, 2:], free[:, 2:], atol=1e-4)


def test_groups_of_steps_are_repeated():
    log_snrs = np.arange(8.0)
    trajectory = resample(2, stride=3)(jnp.asarray(log_snrs))
    np.testing.assert_array_equal(trajectory, [0, 1, 2, 3, 0, 1, 2, 3, 4, 5, 6, 3, 4, 5, 6, 7])
    np.testing.assert_array_equal(resample(1)(jnp.asarray(log_snrs)), log_snrs)
    # A group that ends on the clean image goes back from the step before.
    trajectory = resample(2, stride=4)(jnp.asarray(log_snrs))
    np.testing.assert_array_equal(trajectory, [0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 5, 6, 4, 5, 6, 7])
    for times, stride in ((0, 3), (2, 0)):
        with pytest.raises(UserError, match=rf"\b{stride}\b.*\b{times}\b"):
            resample(times, stride)


def test_more_noise_is_as_if_it_had_been_so_noisy_from_the_start():
    count = 4000
    image = jnp.broadcast_to(IMAGE[:1], (count, *SHAPE))
    here, there = jnp.full((count,), 2.0), jnp.full((count,), -1.0)
    noisy = add_noise(image, normal_for_each(keys(count), SHAPE), here)
    noisier = add_more_noise(noisy, here, there, normal_for_each(keys(count, seed=1), SHAPE))
    alpha, sigma = signal_and_noise_scale(there[:1], image[:1])
    np.testing.assert_allclose(noisier.mean(0), alpha[0] * IMAGE[0], atol=0.06)
    np.testing.assert_allclose(noisier.std(0), np.full(SHAPE, sigma.item()), rtol=0.06)


def neighbours_agree(noisy, log_snr):
    """E[x | z] where all values of an image are one sample of N(0, 0.5²): the known pixels determine it."""
    alpha, sigma = signal_and_noise_scale(log_snr, noisy)
    count = np.prod(SHAPE)
    gain = alpha * 0.25 / (jnp.square(alpha) * 0.25 + jnp.square(sigma) / count)
    return jnp.broadcast_to(gain * noisy.mean((1, 2, 3), keepdims=True), noisy.shape)


@pytest.mark.thorough
def test_resampling_makes_the_rest_match_the_known_pixels():
    """A sixteenth is known. Only with resampling can it outweigh the noise from which the rest started."""
    count = 200
    mask = jnp.zeros((count, *SHAPE)).at[:, 0, 0].set(1.0)
    denoise = keep_known(neighbours_agree, Known(jnp.full((count, *SHAPE), 0.8), mask))

    def distance(times):
        make_trajectory = resample(times, stride=5)
        sampled = sample(denoise, ancestral(), make_trajectory(space_uniformly(cosine, 30)), keys(count), SHAPE)
        return float(jnp.abs(sampled[:, 1:] - 0.8).mean())

    once, often = distance(1), distance(10)
    assert often < 0.6 * once, (once, often)


def test_inversion_and_ddim_reproduce_the_image():
    log_snrs = space_as_karras(cosine, 30)

    def distance(iterations):
        noise = invert(mixture_estimate, log_snrs, IMAGE, iterations)
        reproduced = sample(mixture_estimate, ddim(), log_snrs, keys(3), SHAPE, start=noise)
        return float(jnp.abs(reproduced - IMAGE).max())

    assert distance(30) < 1e-4 and distance(1) > 0.01


@pytest.mark.thorough
def test_inverted_noise_looks_like_noise():
    """A sample of the mixture inverts to values as in the forward process: standard normal."""
    log_snrs = space_as_karras(cosine, 60)
    sampled = sample(mixture_estimate, ddim(), log_snrs, keys(300), SHAPE)
    noise = np.asarray(invert(mixture_estimate, log_snrs, sampled))
    assert noise.mean() == pytest.approx(0, abs=0.03) and noise.std() == pytest.approx(1, abs=0.03)


def test_noise_between_two_is_noise():
    first, second = (normal_for_each(keys(500, seed), SHAPE) for seed in (0, 1))
    for share in (0.0, 0.3, 0.5, 1.0):
        mixed = interpolate(first, second, jnp.full((500,), share))
        assert float(mixed.std()) == pytest.approx(1.0, abs=0.02)
    np.testing.assert_allclose(interpolate(first, second, jnp.zeros((500,))), first, atol=1e-5)
    np.testing.assert_allclose(interpolate(first, second, jnp.ones((500,))), second, atol=1e-5)
    np.testing.assert_allclose(interpolate(first, first, jnp.full((500,), 0.4)), first, atol=1e-5)
