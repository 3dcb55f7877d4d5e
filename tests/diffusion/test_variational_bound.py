"""The variational bound against the same sum in NumPy with DDPM's own coefficients, and against known likelihoods."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from imagen_jax.array_types import EstimateWithVariance
from imagen_jax.diffusion.schedules import linear
from imagen_jax.diffusion.variational_bound import bound_terms, discrete_log_density

T = 1000
BETAS = np.linspace(1e-4, 0.02, T)
ALPHAS_BAR = np.cumprod(1 - BETAS)


def stated_terms(estimate, clean, steps, large):
    """KL of each step in nats per value, by Ho et al. 2020, equations 6 to 8, for an estimate that is a constant."""
    terms = []
    for t in steps:
        before, now, beta = ALPHAS_BAR[t - 2], ALPHAS_BAR[t - 1], BETAS[t - 1]
        weight = np.sqrt(before) * beta / (1 - now)
        variance = (1 - before) / (1 - now) * beta
        other = beta if large else variance
        ratio = variance / other
        terms.append(0.5 * (ratio - 1 - np.log(ratio) + (weight * (clean - estimate)) ** 2 / other))
    return np.array(terms)


@pytest.mark.parametrize("large", [False, True])
def test_each_step_is_the_papers_divergence(large):
    clean = jnp.full((2, 3), 0.6)
    terms = bound_terms(
        lambda noisy, log_snr: jnp.full_like(noisy, 0.1), clean, jax.random.key(0), linear, large_variance=large
    )
    chosen = [2, 3, 10, 200, 999, 1000]
    stated = stated_terms(0.1, 0.6, chosen, large) / np.log(2)
    np.testing.assert_allclose(np.asarray(terms.steps)[0, np.array(chosen) - 2], stated, rtol=5e-3)
    prior = 0.5 * (1 - ALPHAS_BAR[-1] + ALPHAS_BAR[-1] * 0.36 - 1 - np.log(1 - ALPHAS_BAR[-1])) / np.log(2)
    np.testing.assert_allclose(terms.prior, prior, rtol=1e-2)
    assert terms.steps.shape == (2, T - 1)


@pytest.mark.thorough
def test_a_learned_variance_lies_between_both():
    clean = jnp.full((1, 4), -0.4)

    def learned(gamma):
        def denoise(noisy, log_snr):
            return EstimateWithVariance(jnp.zeros_like(noisy), jnp.full_like(noisy, gamma))

        return np.asarray(bound_terms(denoise, clean, jax.random.key(0), linear, steps=50).steps)

    fixed = [
        np.asarray(
            bound_terms(
                lambda noisy, log_snr: jnp.zeros_like(noisy),
                clean,
                jax.random.key(0),
                linear,
                steps=50,
                large_variance=large,
            ).steps
        )
        for large in (False, True)
    ]
    np.testing.assert_allclose(learned(0.0), fixed[0], rtol=1e-4)
    np.testing.assert_allclose(learned(1.0), fixed[1], rtol=1e-4)
    assert (learned(0.5) != fixed[0]).any()


@pytest.mark.parametrize("value", [0, 1, 127, 254, 255])
def test_the_probability_of_a_number_is_that_of_its_width(value):
    clean = value / 127.5 - 1
    below = -np.inf if value == 0 else clean - 1 / 255
    above = np.inf if value == 255 else clean + 1 / 255
    distribution = stats.norm(0.2, 0.7)
    expected = np.log(distribution.cdf(above) - distribution.cdf(below))
    found = discrete_log_density(*(jnp.full((1, 1), number, jnp.float32) for number in (clean, 0.2, 0.7)))
    assert float(found[0, 0]) == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("offset", [0.0, 0.02, -0.02, 0.06, -0.06, 0.1, -0.1])
def test_far_values_of_a_narrow_distribution_have_a_finite_probability(offset):
    clean, deviation = 20 / 127.5 - 1, 0.01
    ends = [stats.norm.logcdf(-abs(offset) + sign / 255, 0.0, deviation) for sign in (1, -1)]
    expected = ends[0] + np.log1p(-np.exp(ends[1] - ends[0]))
    numbers = (jnp.full((1, 1), number, jnp.float32) for number in (clean, clean + offset, deviation))
    assert float(discrete_log_density(*numbers)[0, 0]) == pytest.approx(expected, rel=2e-2)


def test_probabilities_of_all_numbers_sum_to_one():
    values = jnp.asarray(np.arange(256) / 127.5 - 1, jnp.float32)[None]
    total = jnp.exp(discrete_log_density(values, jnp.full_like(values, -0.3), jnp.full_like(values, 0.4))).sum()
    assert float(total) == pytest.approx(1.0, abs=1e-4)


@pytest.mark.thorough
def test_the_exact_denoiser_of_uniform_numbers_needs_about_eight_bits():
    """A value that is one of 256 numbers, each as likely, has a likelihood of 8 bits; no bound is below."""
    numbers = jnp.asarray(np.arange(256) / 127.5 - 1, jnp.float32)
    clean = numbers[jax.random.randint(jax.random.key(1), (64, 16), 0, 256)]

    def denoise(noisy, log_snr):
        alpha, sigma = (jnp.sqrt(jax.nn.sigmoid(sign * log_snr))[:, None, None] for sign in (1, -1))
        share = jax.nn.softmax(-jnp.square((noisy[..., None] - alpha * numbers[None, None]) / sigma) / 2, axis=-1)
        return (share * numbers[None, None]).sum(-1)

    total = float(jax.jit(lambda: bound_terms(denoise, clean, jax.random.key(0), linear))().total.mean())
    # A Gaussian of the width of two numbers costs most of the rest.
    assert 7.95 < total < 9.0
