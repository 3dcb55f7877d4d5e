"""The loss of a learned variance against the paper's terms in NumPy, with DDPM's own coefficients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats

from imagen_jax.array_types import EstimateWithVariance
from imagen_jax.diffusion.loss import denoising_losses
from imagen_jax.diffusion.noise_levels import times
from imagen_jax.diffusion.process import PREDICTIONS
from imagen_jax.diffusion.schedules import SCHEDULES, discrete_cosine, linear
from imagen_jax.diffusion.variance_loss import cleaner_levels, hybrid_losses, split_variance, variance_losses

SHAPE = (4, 2, 2, 3)
RANDOM = np.random.default_rng(0)
CLEAN = np.round(RANDOM.uniform(0, 255, SHAPE)) / 127.5 - 1
ESTIMATE, GAMMA = CLEAN + RANDOM.normal(0, 0.1, SHAPE), RANDOM.uniform(-0.2, 1.2, SHAPE)


def stated_term(clean, estimate, gamma, log_snr, cleaner_log_snr):
    """KL of the posterior (Ho et al. 2020, equations 6 and 7) to the network's Gaussian, in bits per value, float64."""
    now, before = special.expit(np.float64(log_snr)), special.expit(np.float64(cleaner_log_snr))
    beta = 1 - now / before
    variance = beta * (1 - before) / (1 - now)
    other = beta**gamma * variance ** (1 - gamma)
    difference = np.sqrt(before) * beta / (1 - now) * (clean - estimate)
    nats = (np.log(other / variance) + (variance + difference**2) / other - 1) / 2
    return nats.mean() / np.log(2)


def stated_first_term(clean, estimate, gamma, first, second):
    """-log2 of the probability of 8-bit values under the network's Gaussian, float64."""
    now, before = special.expit(np.float64(second)), special.expit(np.float64(first))
    variance = (1 - now / before) * (1 - before) / (1 - now)
    deviation = np.sqrt((1 - before) ** gamma * variance ** (1 - gamma))
    above = np.where(clean > 0.999, np.inf, clean + 1 / 255)
    below = np.where(clean < -0.999, -np.inf, clean - 1 / 255)
    cdf = stats.norm(estimate, deviation).cdf
    return -np.log2(cdf(above) - cdf(below)).mean()


@pytest.mark.parametrize("schedule", [linear, discrete_cosine])
def test_the_terms_are_the_papers(schedule):
    steps = np.array([2, 30, 500, 1000])
    here, cleaner = (np.asarray(schedule(jnp.asarray(number / 1000))) for number in (steps, steps - 1))
    estimate = EstimateWithVariance(jnp.asarray(ESTIMATE, jnp.float32), jnp.asarray(GAMMA, jnp.float32))
    clean = jnp.asarray(CLEAN, jnp.float32)
    found = variance_losses(estimate, clean, jnp.asarray(here), schedule)
    stated = [stated_term(*each) for each in zip(CLEAN, ESTIMATE, GAMMA, here, cleaner, strict=True)]
    np.testing.assert_allclose(found, stated, rtol=1e-5, atol=1e-8)

    first, second = (float(schedule(jnp.asarray(number / 1000))) for number in (1, 2))
    near = CLEAN + RANDOM.normal(0, 0.003, SHAPE)
    estimate = estimate._replace(clean=jnp.asarray(near, jnp.float32))
    found = variance_losses(estimate, clean, jnp.full((4,), first), schedule)
    stated = [stated_first_term(*each, first, second) for each in zip(CLEAN, near, GAMMA, strict=True)]
    np.testing.assert_allclose(found, stated, rtol=1e-4)


@pytest.mark.parametrize("name", SCHEDULES)
def test_the_next_level_is_a_thousandth_nearer(name):
    schedule, cleaner = SCHEDULES[name], cleaner_levels(SCHEDULES[name])
    numbers = jnp.arange(1, 1001) / 1000
    np.testing.assert_allclose(cleaner(schedule(numbers)), schedule(jnp.arange(1000) / 1000), rtol=1e-5, atol=1e-5)
    between = schedule(jnp.linspace(0.0002, 0.9998, 777))
    assert (cleaner(between) > between).all() and (cleaner(between) <= schedule(jnp.asarray(0.0))).all()


@pytest.mark.thorough
def test_the_prediction_learns_as_without_a_variance_and_the_variance_from_the_bound_alone():
    clean, key = jnp.asarray(np.tile(CLEAN, (8, 1, 1, 1)), jnp.float32), jax.random.key(1)
    settings = {"levels": times(linear), "prediction": PREDICTIONS["eps"]}
    output = jax.random.normal(jax.random.key(2), (32, 2, 2, 6)) / 3
    seen = {}

    def hybrid(output, weight=0.001):
        def predict(noisy, log_snr):
            seen["noisy"] = noisy
            return output

        return hybrid_losses(predict, clean, key, schedule=linear, weight=weight, **settings)

    losses, log_snr = hybrid(output)
    simple, same_log_snr = denoising_losses(lambda *_: output[..., :3], clean, key, **settings)
    np.testing.assert_array_equal(log_snr, same_log_snr)
    predicted, gamma = split_variance(output)
    np.testing.assert_allclose(gamma, (output[..., 3:] + 1) / 2)
    estimate = EstimateWithVariance(PREDICTIONS["eps"].to_clean(predicted, seen["noisy"], log_snr), gamma)
    # 0.001 times a sum of 1000 steps, of which the example is one.
    np.testing.assert_allclose(losses - simple, variance_losses(estimate, clean, log_snr, linear), rtol=1e-3, atol=1e-5)

    gradient = jax.grad(lambda output: hybrid(output)[0].sum())(output)
    of_simple = jax.grad(lambda one: denoising_losses(lambda *_: one, clean, key, **settings)[0].sum())(predicted)
    np.testing.assert_allclose(gradient[..., :3], of_simple, atol=1e-6)
    assert np.isfinite(gradient).all() and (np.abs(gradient[..., 3:]).max((1, 2, 3)) > 0).all()
    np.testing.assert_array_equal(jax.grad(lambda output: hybrid(output, 0.0)[0].sum())(output)[..., 3:], 0.0)


@pytest.mark.thorough
def test_a_wild_output_at_any_time_has_a_finite_gradient():
    log_snr = linear(jnp.linspace(0.0, 1.0, 64))
    clean = jnp.zeros((64, 3))

    def loss(gamma):
        estimate = EstimateWithVariance(jnp.full((64, 3), 30.0), gamma)
        return variance_losses(estimate, clean, log_snr, linear).sum()

    for gamma in (-3.0, 0.5, 3.0):
        assert np.isfinite(jax.grad(loss)(jnp.full((64, 3), gamma))).all(), gamma
