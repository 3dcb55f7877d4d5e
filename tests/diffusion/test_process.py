"""The forward process and every conversion, against numbers computed another way."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imagen_jax.diffusion.process import (
    PREDICTIONS,
    add_noise,
    clean_from_velocity,
    noise_from_clean,
    signal_and_noise_scale,
    velocity,
)

LOG_SNR = jnp.asarray([-6.0, -1.0, 0.0, 2.0, 7.0])


@pytest.fixture
def image_and_noise():
    image = jax.random.uniform(jax.random.key(0), (5, 4, 4, 3), minval=-1, maxval=1)
    return image, jax.random.normal(jax.random.key(1), image.shape)


def test_scales_preserve_variance_and_have_the_ratio_that_log_snr_says():
    alpha, sigma = (
        np.asarray(scale, np.float64).ravel() for scale in signal_and_noise_scale(LOG_SNR, jnp.zeros((5, 1)))
    )
    np.testing.assert_allclose(alpha**2 + sigma**2, 1.0, rtol=1e-6)
    np.testing.assert_allclose(np.log(alpha**2 / sigma**2), LOG_SNR, rtol=1e-5, atol=1e-6)


def test_add_noise_mixes_each_example_at_its_own_level(image_and_noise):
    image, noise = image_and_noise
    noisy = np.asarray(add_noise(image, noise, LOG_SNR))
    for index, log_snr in enumerate(np.asarray(LOG_SNR, np.float64)):
        signal = 1 / (1 + np.exp(-log_snr))
        expected = np.sqrt(signal) * np.asarray(image[index]) + np.sqrt(1 - signal) * np.asarray(noise[index])
        np.testing.assert_allclose(noisy[index], expected, atol=1e-5)


@pytest.mark.parametrize("name", PREDICTIONS)
def test_a_perfect_output_gives_back_the_sample(name, image_and_noise):
    image, noise = image_and_noise
    prediction = PREDICTIONS[name]
    noisy = add_noise(image, noise, LOG_SNR)
    output = prediction.target(image, noise, LOG_SNR)
    np.testing.assert_allclose(prediction.to_clean(output, noisy, LOG_SNR), image, atol=2e-4)


def test_noise_and_velocity_agree_with_each_other(image_and_noise):
    image, noise = image_and_noise
    noisy = add_noise(image, noise, LOG_SNR)
    np.testing.assert_allclose(noise_from_clean(image, noisy, LOG_SNR), noise, atol=2e-3)
    np.testing.assert_allclose(clean_from_velocity(velocity(image, noise, LOG_SNR), noisy, LOG_SNR), image, atol=1e-5)


def test_velocity_is_the_derivative_along_the_angle(image_and_noise):
    """With α = cos φ and σ = sin φ, v = dz/dφ (Salimans & Ho 2022, appendix D): a finite difference must show it."""
    image, noise = (np.asarray(array, np.float64) for array in image_and_noise)
    angle, small = 0.6, 1e-5
    path = [np.cos(a) * image + np.sin(a) * noise for a in (angle - small, angle + small)]
    log_snr = jnp.full((5,), 2 * np.log(np.cos(angle) / np.sin(angle)))
    np.testing.assert_allclose(velocity(*image_and_noise, log_snr), (path[1] - path[0]) / (2 * small), atol=1e-4)


@pytest.mark.parametrize("name", PREDICTIONS)
def test_image_error_weight_is_the_ratio_of_squared_errors(name, image_and_noise):
    image, noise = image_and_noise
    prediction = PREDICTIONS[name]
    log_snr = jnp.asarray([-3.0, -1.0, 0.0, 1.0, 3.0])
    noisy = add_noise(image, noise, log_snr)
    output = prediction.target(image, noise, log_snr) + 0.1
    image_error = np.mean((np.asarray(prediction.to_clean(output, noisy, log_snr)) - np.asarray(image)) ** 2, (1, 2, 3))
    np.testing.assert_allclose(prediction.clean_error_weight(log_snr), 0.01 / image_error, rtol=1e-3)
