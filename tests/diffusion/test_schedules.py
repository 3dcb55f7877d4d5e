"""Schedules against the closed forms and the discrete product they continue."""

import math

import jax.numpy as jnp
import numpy as np
import pytest

from imagen_jax.diffusion.schedules import LOG_SNR_LIMIT, SCHEDULES, cosine, discrete_cosine, linear, number_of_step
from tests.reference.imagen_statements import cosine_alpha_sigma, ddpm_signal_variance, improved_ddpm_signal_variance


@pytest.mark.parametrize("time", [0.01, 0.2, 0.5, 0.77, 0.99])
def test_cosine_is_log_of_squared_ratio_of_cosine_and_sine(time):
    alpha, sigma = cosine_alpha_sigma(time)
    assert float(cosine(jnp.asarray(time))) == pytest.approx(math.log(alpha**2 / sigma**2), rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("step", [1, 2, 10, 250, 500, 999, 1000])
def test_linear_equals_the_thousand_step_product_at_each_knot(step):
    signal = ddpm_signal_variance(step)
    assert float(linear(jnp.asarray(step / 1000))) == pytest.approx(math.log(signal / (1 - signal)), rel=2e-4)


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_fall_and_stay_within_the_limit(name):
    log_snr = np.asarray(SCHEDULES[name](jnp.linspace(0.0, 1.0, 2001)))
    assert np.all(np.diff(log_snr) <= 0) and log_snr[0] - log_snr[-1] > 15
    assert np.all(np.isfinite(log_snr)) and np.abs(log_snr).max() <= LOG_SNR_LIMIT + 0.1
    assert log_snr[0] == pytest.approx(LOG_SNR_LIMIT, abs=0.1), "time 0 is clean"


@pytest.mark.parametrize("step", [1, 2, 10, 250, 500, 999, 1000])
def test_discrete_cosine_equals_the_thousand_step_product_at_each_knot(step):
    signal = improved_ddpm_signal_variance(step)
    log_snr = float(discrete_cosine(jnp.asarray(step / 1000)))
    assert log_snr == pytest.approx(math.log(signal / (1 - signal)), rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("schedule", [linear, discrete_cosine])
def test_the_number_of_a_step_undoes_the_schedule(schedule):
    number = number_of_step(schedule)
    log_snrs = schedule(jnp.arange(1, 1001) / 1000)
    np.testing.assert_array_equal(number(log_snrs), np.arange(1000))
    between = float(number((log_snrs[500:501] + log_snrs[501:502]) / 2)[0])
    assert between == pytest.approx(500.5, abs=0.01)
    np.testing.assert_array_equal(number(jnp.asarray([LOG_SNR_LIMIT, -LOG_SNR_LIMIT])), [0, 999])
