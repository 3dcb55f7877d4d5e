"""Distributions of noise levels, the weightings that read their density, and flow matching."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from imagen_jax.diffusion.loss import denoising_loss, edm_weighting, sample_quantiles, sigmoid_weighting
from imagen_jax.diffusion.noise_levels import density_of, log_normal, logit_normal, times
from imagen_jax.diffusion.process import PREDICTIONS, add_noise
from imagen_jax.diffusion.schedules import LOG_SNR_LIMIT, cosine, flow, shifted
from imagen_jax.sampling.sampler import sample
from imagen_jax.sampling.step_rules import ddim

MANY = 20_000


def drawn(levels):
    return np.asarray(levels(sample_quantiles(jax.random.key(0), MANY)), np.float64)


def test_log_normal_levels_are_normal_with_the_papers_numbers():
    """Karras et al. 2022, table 1: log σ̃ ~ N(-1.2, 1.2²), whatever the schedule."""
    assert stats.kstest(-drawn(log_normal()) / 2, stats.norm(-1.2, 1.2).cdf).pvalue > 0.01


@pytest.mark.parametrize("schedule", [cosine, flow])
def test_logit_normal_times_have_a_normal_logit(schedule):
    log_snr = drawn(logit_normal(schedule, 0.5, 0.8))
    time = 2 / np.pi * np.arctan(np.exp(-log_snr / 2)) if schedule is cosine else 1 / (1 + np.exp(log_snr / 2))
    assert stats.kstest(np.log(time / (1 - time)), stats.norm(0.5, 0.8).cdf).pvalue > 0.01


@pytest.mark.parametrize("levels", [times(cosine), times(cosine, 3.0), logit_normal(flow, 0.0, 1.0), log_normal()])
def test_the_density_is_that_of_the_levels(levels):
    """The mean of f(λ)/p(λ) is the integral of f, here of a normal density: 1."""
    quantiles = sample_quantiles(jax.random.key(0), MANY, stratified=True)
    density = np.asarray(density_of(levels, quantiles), np.float64)
    integral = np.mean(stats.norm(0.0, 1.5).pdf(np.asarray(levels(quantiles))) / density)
    assert integral == pytest.approx(1.0, abs=0.01)


def test_extreme_quantiles_give_finite_levels():
    ends = jnp.asarray([0.0, 1.0 - 2.0**-24])
    for levels in (times(cosine), times(flow), logit_normal(cosine, 0.0, 3.0), log_normal(0.0, 9.0)):
        log_snr = np.asarray(levels(ends))
        assert np.isfinite(log_snr).all() and np.abs(log_snr).max() <= LOG_SNR_LIMIT + 0.01


@pytest.mark.parametrize("prediction", ["eps", "x0", "v", "flow"])
def test_the_sigmoid_objective_is_the_same_for_every_density_and_prediction(prediction):
    """Kingma & Gao 2023, section 4: it is an integral over λ, of which a density only draws the places."""
    clean = jax.random.normal(jax.random.key(1), (MANY, 2))

    def predict(noisy, log_snr):
        estimate = noisy * jnp.sqrt(jax.nn.sigmoid(log_snr))[:, None]  # exact for N(0, 1)
        return PREDICTIONS[prediction].target(estimate, noise_of(estimate, noisy, log_snr), log_snr)

    def noise_of(estimate, noisy, log_snr):
        alpha, sigma = (jnp.sqrt(jax.nn.sigmoid(sign * log_snr))[:, None] for sign in (1, -1))
        return (noisy - alpha * estimate) / sigma

    found = [
        denoising_loss(
            predict,
            clean,
            jax.random.key(2),
            levels=levels,
            prediction=PREDICTIONS[prediction],
            weighting=sigmoid_weighting(2.0),
            stratified=True,
        )
        for levels in (times(cosine), logit_normal(cosine, 0.0, 1.0), log_normal(-1.0, 2.0))
    ]
    # ∫ sigmoid(2 - λ) α² dλ: the noise's error of the exact denoiser is α².
    grid = np.linspace(-20, 20, 100_001)
    exact = np.trapezoid(1 / (1 + np.exp(grid - 2)) / (1 + np.exp(-grid)), grid)
    np.testing.assert_allclose(found, exact, rtol=0.05)


@pytest.mark.parametrize(("deviation", "expected"), [(0.1, 104.0), (1.0, 5.0), (10.0, 4.01)])
def test_edm_weights_of_the_clean_samples_error(deviation, expected):
    """(σ̃² + σ_d²) / (σ̃ σ_d)² for σ_d = 0.5 (Karras et al. 2022, table 1)."""
    log_snr = jnp.asarray([-2 * np.log(deviation)], jnp.float32)
    assert float(edm_weighting(log_snr, PREDICTIONS["x0"], lambda: jnp.ones(1))[0]) == pytest.approx(expected, rel=1e-4)


def test_flow_matching_goes_along_straight_lines():
    """With y = z·sqrt((1-t)² + t²), y = (1 - t) x + t ε, and its velocity is ε - x."""
    clean, noise = (jax.random.normal(jax.random.key(seed), (5, 3)) for seed in (0, 1))
    time = np.linspace(0.1, 0.9, 5)
    noisy = np.asarray(add_noise(clean, noise, flow(jnp.asarray(time, jnp.float32))), np.float64)
    straight = (1 - time)[:, None] * np.asarray(clean) + time[:, None] * np.asarray(noise)
    np.testing.assert_allclose(noisy * np.hypot(1 - time, time)[:, None], straight, atol=1e-5)


def test_euler_on_the_flow_is_ddim_on_its_schedule():
    """One step of Euler: y_s = y_t + (s - t) u(y_t, t), with any network u."""

    def velocity_of(flat, time):
        return np.tanh(flat + time) + 0.3 * flat

    def denoise(noisy, log_snr):
        time = 1 / (1 + jnp.exp(log_snr / 2))
        flat = noisy * jnp.hypot(1 - time, time)[:, None]
        u = jnp.tanh(flat + time[:, None]) + 0.3 * flat
        return PREDICTIONS["flow"].to_clean(u, noisy, log_snr)

    steps = np.linspace(0.98, 0.02, 25)
    start = jax.random.normal(jax.random.key(0), (4, 3))
    flat = np.asarray(start, np.float64) * np.hypot(1 - steps[0], steps[0])
    for time, following in zip(steps, steps[1:], strict=False):
        flat = flat + (following - time) * velocity_of(flat, time)
    log_snrs = flow(jnp.asarray(steps, jnp.float32))
    keys = jax.random.split(jax.random.key(1), 4)
    reached = np.asarray(sample(denoise, ddim(), log_snrs, keys, (3,), start))
    np.testing.assert_allclose(reached * np.hypot(1 - steps[-1], steps[-1]), flat, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("resolution", [32, 64, 256])
def test_a_shifted_schedule_falls_and_ends_where_the_sampler_needs_it(resolution):
    log_snr = np.asarray(shifted(cosine, resolution)(jnp.linspace(0.0, 1.0, 1001)))
    assert log_snr[0] == LOG_SNR_LIMIT and (np.diff(log_snr) <= 0).all()
    middle = float(shifted(cosine, resolution)(jnp.asarray(0.5)))
    assert middle == pytest.approx(2 * np.log(64 / resolution), abs=1e-5)
