"""Samplers on problems whose solution is known."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imagen_jax.array_types import EstimateWithVariance
from imagen_jax.diffusion.process import add_noise, signal_and_noise_scale
from imagen_jax.diffusion.schedules import LOG_SNR_LIMIT, SCHEDULES, cosine, discrete_cosine, number_of_step
from imagen_jax.errors import UserError
from imagen_jax.sampling.sampler import STEP_RULES, fold_into_each, normal_for_each, sample
from imagen_jax.sampling.spacings import space_over_steps, space_uniformly
from imagen_jax.sampling.step_rules import ERROR_LOG_SNRS, analytic, ancestral, ddim
from tests.reference.imagen_statements import cosine_alpha_sigma, posterior
from tests.tiers import thorough_except

SHAPE = (4, 4, 3)
IMAGE = jax.random.uniform(jax.random.key(9), SHAPE, minval=-1, maxval=1)


def keys(batch):
    return jax.random.split(jax.random.key(0), batch)


def denoise_to_image(noisy, log_snr):
    return jnp.broadcast_to(IMAGE, noisy.shape)


def gaussian_denoiser(mean, deviation):
    """The exact E[x | z] where x ~ N(mean, deviation²)."""

    def denoise(noisy, log_snr):
        alpha, sigma = signal_and_noise_scale(log_snr, noisy)
        gain = alpha * deviation**2 / (jnp.square(alpha) * deviation**2 + jnp.square(sigma))
        return mean + gain * (noisy - alpha * mean)

    return denoise


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("stop", thorough_except([3], [1, 3, 7]))
def test_ddim_with_an_oracle_lands_on_the_exact_marginal(schedule, stop):
    """With x known, DDIM must stay on z_t = α_t x + σ_t ε for the ε it started with, however coarse its steps."""
    log_snrs = space_uniformly(SCHEDULES[schedule], 7)[: stop + 1]
    noise = normal_for_each(fold_into_each(keys(5), 0), SHAPE)
    alpha, sigma = signal_and_noise_scale(jnp.full((5,), log_snrs[0]), noise)
    started = (noise - alpha * denoise_to_image(noise, None)) / sigma
    expected = add_noise(denoise_to_image(noise, None), started, jnp.full((5,), log_snrs[-1]))
    np.testing.assert_allclose(sample(denoise_to_image, ddim(), log_snrs, keys(5), SHAPE), expected, atol=2e-4)


def test_the_analytic_variance_is_that_of_the_marginal():
    """Of Gaussian data, z_s has the variance (α_s d)² + σ_s² after a step of any length; the min variance has less."""
    deviation, count = 0.5, 200_000
    levels = jnp.asarray(ERROR_LOG_SNRS, jnp.float32)
    alpha, sigma = signal_and_noise_scale(levels, jnp.zeros((len(levels), 1)))
    # The variance of x that z leaves open.
    open_variance = (sigma * deviation) ** 2 / (alpha**2 * deviation**2 + sigma**2)
    rules = analytic(np.asarray(open_variance)[:, 0].tolist()), ancestral(0.0)
    samples = [jax.random.normal(jax.random.key(2), (count, 1))] * 2
    # From noise on: the first step is the one of a uniform spacing.
    for number, (start, end) in enumerate(itertools.pairwise((-20.0, -4.0, -1.0, 2.0))):
        fresh = jax.random.normal(jax.random.key(3 + number), (count, 1))
        ends = jnp.full((count,), start), jnp.full((count,), end)
        denoise = gaussian_denoiser(0.0, deviation)
        samples = [rule.step(denoise, noisy, *ends, fresh, ())[0] for rule, noisy in zip(rules, samples, strict=True)]
        scales = signal_and_noise_scale(ends[1], samples[0])
        expected = float((scales[0][0, 0] * deviation) ** 2 + scales[1][0, 0] ** 2)
        assert float(jnp.var(samples[0])) == pytest.approx(expected, rel=0.015)
    assert float(jnp.var(samples[1])) < 0.9 * expected


@pytest.mark.parametrize("gamma", [0.0, 0.3, 1.0])
def test_an_ancestral_step_is_the_posterior(gamma):
    alpha_t, sigma_t = cosine_alpha_sigma(0.7)
    alpha_s, sigma_s = cosine_alpha_sigma(0.5)
    noisy = jnp.full((1, *SHAPE), 0.4)
    noise = jnp.full((1, *SHAPE), 1.7)
    log_snr, next_log_snr = cosine(jnp.asarray([0.7])), cosine(jnp.asarray([0.5]))
    stepped, _ = ancestral(gamma).step(denoise_to_image, noisy, log_snr, next_log_snr, noise, ())
    mean, smallest = posterior(0.4, np.asarray(IMAGE), alpha_t, sigma_t, alpha_s, sigma_s)
    largest = sigma_t**2 - (alpha_t / alpha_s) ** 2 * sigma_s**2
    expected = mean + np.sqrt(smallest ** (1 - gamma) * largest**gamma) * 1.7
    np.testing.assert_allclose(stepped[0], expected, atol=1e-5)


def test_a_learned_variance_lies_between_the_bounds_value_by_value():
    gamma = jax.random.uniform(jax.random.key(3), (1, *SHAPE))
    noisy, noise = jnp.full((1, *SHAPE), 0.4), jnp.full((1, *SHAPE), 1.7)
    log_snr, next_log_snr = cosine(jnp.asarray([0.7])), cosine(jnp.asarray([0.5]))

    def step_with(denoise, rule):
        return np.asarray(rule.step(denoise, noisy, log_snr, next_log_snr, noise, ())[0])

    def learned(noisy, log_snr):
        return EstimateWithVariance(denoise_to_image(noisy, log_snr), gamma)

    smallest, largest = (step_with(denoise_to_image, ancestral(end)) for end in (0.0, 1.0))
    mean = np.asarray(ancestral().step(denoise_to_image, noisy, log_snr, next_log_snr, 0 * noise, ())[0])
    expected = mean + (smallest - mean) ** (1 - np.asarray(gamma)) * (largest - mean) ** np.asarray(gamma)
    np.testing.assert_allclose(step_with(learned, ancestral()), expected, atol=1e-5)
    np.testing.assert_array_equal(step_with(learned, ddim()), step_with(denoise_to_image, ddim()))


@pytest.mark.parametrize("steps", thorough_except([27], [1, 27, 100, 1000]))
def test_discrete_spacing_takes_every_n_th_step_and_ends_clean(steps):
    numbers = [number * (1000 // steps) for number in range(steps)][::-1]
    log_snrs = np.asarray(space_over_steps(discrete_cosine, steps))
    np.testing.assert_allclose(number_of_step(discrete_cosine)(jnp.asarray(log_snrs[:-1])), numbers, atol=1e-3)
    assert log_snrs[-1] == pytest.approx(LOG_SNR_LIMIT, abs=1e-3) and len(log_snrs) == steps + 1


@pytest.mark.parametrize("steps", [1001, 300, 501])
def test_discrete_spacing_that_skips_the_noise_is_refused(steps):
    with pytest.raises(UserError, match=r"--steps .*\b1000\b"):
        space_over_steps(discrete_cosine, steps)


def test_ddim_with_full_noise_is_ancestral():
    """η = 1 must equal γ = 0 (Song et al. 2021, section 4.1), step by step."""
    arguments = (gaussian_denoiser(0.2, 0.5), IMAGE[None], cosine(jnp.asarray([0.8])), cosine(jnp.asarray([0.6])))
    noise = jax.random.normal(jax.random.key(4), (1, *SHAPE))
    np.testing.assert_allclose(
        ddim(1.0).step(*arguments, noise, ())[0], ancestral(0.0).step(*arguments, noise, ())[0], atol=1e-5
    )


@pytest.mark.parametrize(
    "rule",
    [
        pytest.param(ddim(), marks=pytest.mark.thorough),
        ddim(0.5),
        pytest.param(ancestral(0.0), marks=pytest.mark.thorough),
        ancestral(0.5),
    ],
)
def test_many_steps_sample_from_a_gaussian(rule):
    images = sample(gaussian_denoiser(0.3, 0.4), rule, space_uniformly(cosine, 200), keys(400), SHAPE)
    assert float(images.mean()) == pytest.approx(0.3, abs=0.02)
    assert float(images.std()) == pytest.approx(0.4, abs=0.02)


@pytest.mark.parametrize("name", thorough_except(("ancestral", "dpm_solver_2m_sde"), STEP_RULES))
def test_an_image_depends_on_its_own_key_alone(name):
    def sample_with(picked):
        return sample(
            gaussian_denoiser(0.0, 1.0), STEP_RULES[name](0.0, 0.0), space_uniformly(cosine, 5), picked, SHAPE
        )

    alone, together = sample_with(keys(6)[2:3]), sample_with(keys(6))
    np.testing.assert_allclose(alone[0], together[2], atol=1e-6)
    assert np.abs(np.asarray(together[0] - together[1])).max() > 0.1


def test_fresh_noise_at_every_step():
    """A rule that returns its noise shows that no two steps, and no step and the start, share it."""
    seen = []

    for steps in (1, 2):
        rule = ddim()._replace(
            init=lambda noisy: jnp.zeros(()),
            step=lambda d, z, a, b, noise, memory: (noise, memory),
        )
        seen.append(sample(denoise_to_image, rule, space_uniformly(cosine, 3)[: steps + 1], keys(1), SHAPE))
    start = normal_for_each(fold_into_each(keys(1), 0), SHAPE)
    arrays = [np.asarray(array).ravel() for array in (*seen, start)]
    assert np.abs(np.corrcoef(arrays) - np.eye(3)).max() < 0.5
