"""Samples of other shapes than images: vectors against the closed forms of a Gaussian, and errors for wrong shapes."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imagen_jax.diffusion.loss import denoising_loss, denoising_losses
from imagen_jax.diffusion.noise_levels import times
from imagen_jax.diffusion.process import (
    PREDICTIONS,
    add_noise,
    clean_from_noise,
    clean_from_velocity,
    noise_from_clean,
    velocity,
)
from imagen_jax.diffusion.schedules import cosine
from imagen_jax.diffusion.self_conditioning import self_condition
from imagen_jax.sampling.edits import Known, interpolate, invert, keep_known
from imagen_jax.sampling.guidance import ClassifierGuidance, guide, guide_batched, guide_by_classifier
from imagen_jax.sampling.sampler import STEP_RULES, normal_for_each, sample
from imagen_jax.sampling.spacings import space_as_karras, space_uniformly
from imagen_jax.sampling.step_rules import ddim
from imagen_jax.sampling.thresholding import dynamic_threshold
from tests.forked_programs import run_forked
from tests.tiers import thorough_except

MEAN = np.array([[0.5, -1.0, 2.0]])
FACTOR = np.array([[1.0, 0.0, 0.0], [0.6, 0.5, 0.0], [-0.4, 0.3, 0.8]])
COVARIANCE = FACTOR @ FACTOR.T
COUNT = 4096


def gain_of(log_snr):
    """The matrix αΣ (α²Σ + σ²I)⁻¹ of the posterior mean, at one log-SNR, and α."""
    alpha, sigma = jnp.sqrt(jax.nn.sigmoid(log_snr)), jnp.sqrt(jax.nn.sigmoid(-log_snr))
    return alpha * COVARIANCE @ jnp.linalg.inv(alpha**2 * COVARIANCE + sigma**2 * jnp.eye(3)), alpha


def denoise_gaussian(noisy, log_snr):
    """The exact E[x | z] where x ~ N(m, Σ): m + αΣ (α²Σ + σ²I)⁻¹ (z - αm)."""
    gain, alpha = gain_of(log_snr[0])
    return jnp.asarray(MEAN + (noisy - alpha * MEAN) @ gain.T, jnp.float32)


def keys(count, seed=0):
    return jax.random.split(jax.random.key(seed), count)


@pytest.mark.parametrize("name", thorough_except(("unipc",), STEP_RULES))
def test_every_sampler_reaches_mean_and_covariance_of_a_gaussian(name):
    rule = STEP_RULES[name](0.0, 1.0)
    # Steps that add noise lose variance in proportion to their length.
    is_random = name in ("ancestral", "ddim")
    log_snrs = space_uniformly(cosine, 400) if is_random else space_as_karras(cosine, 40)
    vectors = jax.jit(lambda: sample(denoise_gaussian, rule, log_snrs, keys(COUNT), (3,)))()
    assert vectors.shape == (COUNT, 3)
    # Four standard errors of 4,096 samples, and the error of the steps.
    np.testing.assert_allclose(vectors.mean(0), MEAN[0], atol=0.07)
    np.testing.assert_allclose(np.cov(vectors, rowvar=False), COVARIANCE, atol=0.1)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_loss_of_the_exact_denoiser_is_the_posterior_variance(prediction):
    """E |x - E[x | z]|² = tr(Σ - αGΣ), G the gain; the outputs ε and v have that error times a factor of λ."""
    log_snr = 0.7
    clean = jnp.asarray(MEAN + np.random.default_rng(0).normal(size=(8 * COUNT, 3)) @ FACTOR.T, jnp.float32)

    def predict(noisy, log_snrs):
        estimate = denoise_gaussian(noisy, log_snrs)
        return PREDICTIONS[prediction].target(estimate, noise_from_clean(estimate, noisy, log_snrs), log_snrs)

    gain, alpha = gain_of(log_snr)
    posterior = np.trace(COVARIANCE - np.asarray(alpha * gain) @ COVARIANCE) / 3
    snr = np.exp(log_snr)
    factor = {"x0": 1.0, "eps": snr, "v": 1.0 + snr, "flow": (1.0 + np.sqrt(snr)) ** 2}[prediction]
    loss = denoising_loss(
        predict,
        clean,
        jax.random.key(1),
        levels=lambda quantile: jnp.full_like(quantile, log_snr),
        prediction=PREDICTIONS[prediction],
    )
    np.testing.assert_allclose(loss, factor * posterior, rtol=0.02)


def test_classifier_guidance_is_exact_for_a_linear_measurement():
    """With y = b·x + N(0, s²), log p(y | z) is known, and E[x | z, y] by the rule for Gaussians."""
    log_snr, b, s, y = 0.3, np.array([1.0, -0.5, 0.2]), 0.4, 1.7
    gain, alpha = gain_of(log_snr)
    posterior = COVARIANCE - np.asarray(alpha * gain) @ COVARIANCE

    def log_probability(noisy, log_snrs):
        mean = denoise_gaussian(noisy, log_snrs) @ b
        return -((y - mean) ** 2) / (2 * (b @ posterior @ b + s**2))

    noisy, log_snrs = normal_for_each(keys(5), (3,)), jnp.full((5,), log_snr)
    guided = guide_by_classifier(denoise_gaussian, ClassifierGuidance(log_probability, 1.0, 0, "y"))(noisy, log_snrs)
    estimate = np.asarray(denoise_gaussian(noisy, log_snrs))
    kalman = posterior @ b / (b @ posterior @ b + s**2)
    np.testing.assert_allclose(guided, estimate + (y - estimate @ b)[:, None] * kalman[None], atol=1e-4)


def test_guidance_of_vectors_extrapolates_between_two_estimates():
    noisy, log_snr = jnp.zeros((2, 3)), jnp.zeros((2,))

    def by_halves(noisy, log_snr):
        return jnp.concatenate([jnp.full((2, 3), 3.0), jnp.full((2, 3), 1.0)])

    plain = guide(lambda *_: jnp.full((2, 3), 3.0), lambda *_: jnp.full((2, 3), 1.0), 2.0)
    for denoise in (plain, guide_batched(by_halves, 2.0)):
        np.testing.assert_allclose(denoise(noisy, log_snr), 5.0)


def test_inversion_returns_the_noise_of_vectors():
    log_snrs = space_as_karras(cosine, 30)
    vectors = jnp.asarray(MEAN + normal_for_each(keys(6), (3,)) @ FACTOR.T, jnp.float32)
    noise = invert(denoise_gaussian, log_snrs, vectors)
    assert noise.shape == (6, 3)
    again = sample(denoise_gaussian, ddim(), log_snrs, keys(6), (3,), start=noise)
    np.testing.assert_allclose(again, vectors, atol=1e-2)


def test_interpolation_of_vectors_follows_the_circle():
    first, second = jnp.asarray([[2.0, 0.0]] * 3), jnp.asarray([[0.0, 2.0]] * 3)
    angle = np.array([0.0, np.pi / 6, np.pi / 2])
    between = interpolate(first, second, jnp.asarray(angle / (np.pi / 2), jnp.float32))
    np.testing.assert_allclose(between, 2 * np.stack([np.cos(angle), np.sin(angle)], 1), atol=1e-6)


def test_known_values_thresholds_and_estimates_of_vectors():
    known = Known(jnp.full((2, 3), 9.0), jnp.asarray([[1.0, 0.0, 0.0]] * 2))
    kept = keep_known(lambda noisy, log_snr: noisy, known)(jnp.zeros((2, 3)), jnp.zeros(2))
    np.testing.assert_allclose(kept, [[9.0, 0.0, 0.0]] * 2)
    np.testing.assert_allclose(dynamic_threshold(100.0)(jnp.asarray([[4.0, -2.0]])), [[1.0, -0.5]])
    first_pass = []

    def predict(noisy, log_snr, estimate):
        first_pass.append(estimate)
        return jnp.full_like(noisy, 3.0)

    self_condition(predict, PREDICTIONS["x0"], None)(jnp.zeros((2, 3)), jnp.zeros(2))
    np.testing.assert_allclose(first_pass[1], 3.0)


@pytest.mark.parametrize("shape", thorough_except([(2, 3, 4, 5)], [(3,), (4, 5), (2, 3, 4, 5)]))
def test_shapes_of_any_rank_are_sampled_and_have_a_loss(shape):
    reached = sample(
        lambda noisy, log_snr: jnp.full_like(noisy, 0.5), ddim(), space_uniformly(cosine, 3), keys(2), shape
    )
    np.testing.assert_allclose(reached, np.full((2, *shape), 0.5), atol=1e-3)
    losses, log_snr = denoising_losses(
        lambda noisy, log_snr: jnp.ones_like(noisy),
        jnp.zeros((2, *shape)),
        jax.random.key(0),
        levels=times(cosine),
        prediction=PREDICTIONS["x0"],
    )
    np.testing.assert_allclose(losses, [1.0, 1.0])
    assert log_snr.shape == (2,)


LEVEL = jnp.zeros(2)
SQUARE = jnp.zeros((2, 2, 2))
VECTOR = jnp.zeros((2, 2))
MISMATCHES = {
    "add_noise": lambda: add_noise(SQUARE, VECTOR, LEVEL),
    "noise_from_clean": lambda: noise_from_clean(SQUARE, VECTOR, LEVEL),
    "clean_from_noise": lambda: clean_from_noise(SQUARE, VECTOR, LEVEL),
    "velocity": lambda: velocity(SQUARE, VECTOR, LEVEL),
    "clean_from_velocity": lambda: clean_from_velocity(SQUARE, VECTOR, LEVEL),
    "x0": lambda: PREDICTIONS["x0"].to_clean(SQUARE, VECTOR, LEVEL),
    "interpolate": lambda: interpolate(SQUARE, VECTOR, LEVEL),
    "loss": lambda: denoising_loss(
        lambda *_: SQUARE, VECTOR, jax.random.key(0), levels=times(cosine), prediction=PREDICTIONS["x0"]
    ),
    "sample": lambda: sample(lambda *_: SQUARE, ddim(), space_uniformly(cosine, 2), keys(2), (2,)),
}


@pytest.mark.parametrize("call", MISMATCHES)
def test_two_shapes_that_differ_are_an_error_that_names_both(call):
    with pytest.raises(ValueError, match=r"\(2, 2(, 2)?\).*\(2, 2(, 2)?\)") as error:
        MISMATCHES[call]()
    assert {"(2, 2)", "(2, 2, 2)"} == set(re.findall(r"\([\d, ]+\)", str(error.value))[:2])


PROGRAM = """
import jax.numpy as jnp
from imagen_jax.diffusion.process import add_noise

cube, square, vector = jnp.zeros((2, 2, 2)), jnp.zeros((2, 2)), jnp.zeros(2)
for arguments in ((cube, square, vector), (square, square, jnp.zeros(3)), (vector, vector, vector)):
    try:
        add_noise(*arguments)
    except ValueError as error:
        print(error)
"""


def test_the_errors_are_there_without_the_checks_of_the_tests(tmp_path):
    """The tests check array types at every call; a user's program does not, and must not train on a wrong loss."""
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    ended = run_forked(program)
    assert ended.returncode == 0, ended.stderr
    shapes, numbers, rank = ended.stdout.splitlines()
    assert shapes.startswith("clean has the shape (2, 2, 2), but noise has (2, 2)")
    assert "2 numbers" in numbers and "(3,)" in numbers
    assert "(2,)" in rank and "batch axis" in rank
