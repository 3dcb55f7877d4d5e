"""Guidance and thresholding against the paper's statements in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imagen_jax.array_types import EstimateWithVariance
from imagen_jax.cascade.sampling_settings import SamplingSettings
from imagen_jax.cascade.stage_inputs import keys_of_prompts, make_inputs
from imagen_jax.cascade.stage_sampler import make_draw_stage
from imagen_jax.diffusion.conditions import Conditions
from imagen_jax.diffusion.process import noise_from_clean, signal_and_noise_scale
from imagen_jax.diffusion.schedules import cosine
from imagen_jax.errors import UserError
from imagen_jax.sampling.guidance import (
    ClassifierGuidance,
    Interval,
    guide,
    guide_batched,
    guide_by_classifier,
    limit_to_interval,
)
from imagen_jax.sampling.sampler import sample
from imagen_jax.sampling.spacings import space_as_karras
from imagen_jax.sampling.step_rules import ddim
from imagen_jax.sampling.thresholding import THRESHOLDS, Clip, apply_threshold, dynamic_threshold, static_threshold
from tests.reference.imagen_statements import dynamic_threshold as stated_threshold
from tests.reference.imagen_statements import guided_noise
from tests.stages_of_functions import stage_of

LOG_SNR = jnp.asarray([-2.0, 0.5, 3.0])
NOISY, CONDITIONAL, UNCONDITIONAL = (jax.random.normal(jax.random.key(n), (3, 4, 4, 3)) for n in range(3))


@pytest.mark.parametrize("weight", [0.0, 1.0, 1.35, 8.0])
def test_guiding_images_is_guiding_noise(weight):
    guided = guide(lambda z, log_snr: CONDITIONAL, lambda z, log_snr: UNCONDITIONAL, weight)(NOISY, LOG_SNR)
    noises = [np.asarray(noise_from_clean(image, NOISY, LOG_SNR)) for image in (CONDITIONAL, UNCONDITIONAL)]
    np.testing.assert_allclose(
        noise_from_clean(guided, NOISY, LOG_SNR), guided_noise(*noises, weight), rtol=1e-3, atol=1e-3
    )


def test_weight_one_never_runs_the_unconditional_network():
    def forbidden(noisy, log_snr):
        raise AssertionError("ran")

    guided = guide(lambda z, log_snr: CONDITIONAL, forbidden, 1.0)(NOISY, LOG_SNR)
    np.testing.assert_array_equal(guided, CONDITIONAL)


@pytest.mark.parametrize("percentile", [50.0, 95.0, 99.5, 100.0])
def test_dynamic_threshold_is_the_papers_for_each_image_on_its_own(percentile):
    images = jnp.asarray([0.3, 1.0, 4.0])[:, None, None, None] * CONDITIONAL
    computed = dynamic_threshold(percentile)(images)
    for index in range(3):
        stated = stated_threshold(np.asarray(images[index], np.float64), percentile)
        np.testing.assert_allclose(computed[index], stated, atol=1e-5)


def test_images_in_range_are_left_alone_by_every_threshold():
    image = jnp.clip(CONDITIONAL, -1, 1)
    for make in THRESHOLDS.values():
        np.testing.assert_array_equal(make(99.5)(image), image)


def test_static_clips_and_none_does_not():
    image = jnp.full((1, 2, 2, 3), -3.0)
    assert np.all(np.asarray(THRESHOLDS["static"](99.5)(image)) == -1)
    assert np.all(np.asarray(THRESHOLDS["none"](99.5)(image)) == -3)


def test_vectors_are_clipped_to_any_limit_and_by_no_other_threshold():
    def estimate_nine(params, conditions):
        return lambda noisy, log_snr: jnp.full(noisy.shape, 9.0)

    made = []
    for threshold in (Clip(5.0), static_threshold):
        stage = stage_of(estimate_nine, (4,), SamplingSettings(1, ddim(), 1.0, threshold), value_range=None)
        inputs = make_inputs(Conditions(), keys_of_prompts(0, ["a"], [0]))
        made.append(float(make_draw_stage(stage)(jnp.asarray(0.0), inputs).max()))
    np.testing.assert_allclose(made, [5.0, 9.0], atol=1e-3)


@pytest.mark.parametrize("percentile", [0.95, 0.995, 0.0, 101.0])
def test_a_fraction_is_not_a_percentile(percentile):
    with pytest.raises(UserError, match=r"99\.5"):
        dynamic_threshold(percentile)


def test_the_guided_estimate_is_bounded_not_each_branch():
    guided = guide(lambda z, log_snr: jnp.full_like(z, 0.9), lambda z, log_snr: jnp.full_like(z, -0.9), 3.0)
    unbounded, bounded = guided(NOISY, LOG_SNR), apply_threshold(guided, THRESHOLDS["static"](0.0))(NOISY, LOG_SNR)
    assert float(unbounded.max()) == pytest.approx(4.5) and float(bounded.max()) == 1


@pytest.mark.parametrize("max_threshold", [1.0, 1.5, 99.0])
def test_dynamic_threshold_keeps_its_limit_below_the_max(max_threshold):
    image = 3 * CONDITIONAL
    computed = np.asarray(dynamic_threshold(95.0, max_threshold)(image))
    for index in range(3):
        limit = min(max(np.quantile(np.abs(np.asarray(image[index])), 0.95), 1.0), max_threshold)
        stated = np.clip(np.asarray(image[index]), -limit, limit) / limit
        np.testing.assert_allclose(computed[index], stated, atol=1e-5)
    with pytest.raises(UserError, match=r"max_threshold 0\.5"):
        dynamic_threshold(95.0, 0.5)


def test_guidance_and_threshold_keep_the_variance_of_the_conditional_estimate():
    def learned(shade, gamma):
        return lambda z, log_snr: EstimateWithVariance(jnp.full_like(z, shade), jnp.full_like(z, gamma))

    guided = apply_threshold(guide(learned(0.5, 0.25), learned(0.1, 0.75), 2.0), THRESHOLDS["static"](0.0))
    image, gamma = guided(NOISY, LOG_SNR)
    np.testing.assert_allclose(image, np.full(NOISY.shape, 0.9), rtol=1e-6)
    np.testing.assert_allclose(gamma, np.full(NOISY.shape, 0.25))


@pytest.mark.parametrize("learned", [False, True])
def test_one_call_of_both_guides_as_two_do(learned):
    gammas = jax.random.uniform(jax.random.key(8), (6, 4, 4, 3))

    def estimate(image, gamma):
        return EstimateWithVariance(image, gamma) if learned else image

    def both(noisy, log_snr):
        np.testing.assert_array_equal(noisy, jnp.concatenate([NOISY, NOISY]))
        np.testing.assert_array_equal(log_snr, jnp.concatenate([LOG_SNR, LOG_SNR]))
        return estimate(jnp.concatenate([CONDITIONAL, UNCONDITIONAL]), gammas)

    once = guide_batched(both, 3.0)(NOISY, LOG_SNR)
    twice = guide(lambda *_: estimate(CONDITIONAL, gammas[:3]), lambda *_: estimate(UNCONDITIONAL, gammas[3:]), 3.0)(
        NOISY, LOG_SNR
    )
    jax.tree.map(np.testing.assert_array_equal, once, twice)


@pytest.mark.parametrize(
    ("log_snr", "is_guided"), [(-4.1, False), (-4.0, True), (1.0, True), (3.0, True), (3.1, False)]
)
def test_guidance_keeps_to_its_interval(log_snr, is_guided):
    denoise = limit_to_interval(Interval(-4.0, 3.0), lambda *_: CONDITIONAL, lambda *_: UNCONDITIONAL)
    expected = CONDITIONAL if is_guided else UNCONDITIONAL
    np.testing.assert_array_equal(denoise(NOISY, jnp.full((3,), log_snr)), expected)


def test_no_interval_is_everywhere():
    assert limit_to_interval(None, ddim, sample) is ddim


def gaussian_estimate(mean, deviation):
    def denoise(noisy, log_snr):
        alpha, sigma = signal_and_noise_scale(log_snr, noisy)
        gain = alpha * deviation**2 / (jnp.square(alpha) * deviation**2 + jnp.square(sigma))
        return mean + gain * (noisy - alpha * mean)

    return denoise


def test_a_classifier_guides_the_samples_to_its_class():
    """Two classes, x ~ N(±0.5, 0.2²), each as frequent: with the exact p(y | z) at scale 1 it is sampling one class."""
    means, deviation, shape = (-0.5, 0.5), 0.2, (1, 1, 1)

    def log_likelihood(noisy, log_snr, mean):
        alpha, sigma = signal_and_noise_scale(log_snr, noisy)
        spread = jnp.square(alpha) * deviation**2 + jnp.square(sigma)
        return (-jnp.square(noisy - alpha * mean) / spread / 2).sum((1, 2, 3))

    def log_probability(noisy, log_snr):
        of_each = jnp.stack([log_likelihood(noisy, log_snr, mean) for mean in means])
        return jax.nn.log_softmax(of_each, axis=0)[1]

    def any_class(noisy, log_snr):
        shares = jax.nn.softmax(jnp.stack([log_likelihood(noisy, log_snr, mean) for mean in means]), axis=0)
        estimates = jnp.stack([gaussian_estimate(mean, deviation)(noisy, log_snr) for mean in means])
        return (shares[:, :, None, None, None] * estimates).sum(0)

    def sample_all(denoise):
        keys = jax.random.split(jax.random.key(1), 2000)
        return np.asarray(sample(denoise, ddim(), space_as_karras(cosine, 100), keys, shape)).ravel()

    free = sample_all(any_class)
    assert np.mean(free > 0) == pytest.approx(0.5, abs=0.05)
    towards_one = ClassifierGuidance(log_probability, 1.0, 1, "the second class")
    guided = sample_all(guide_by_classifier(any_class, towards_one))
    # Of that class 0.62% lie on the other side.
    assert np.mean(guided > 0) == pytest.approx(0.9938, abs=0.004)
    assert guided.mean() == pytest.approx(0.5, abs=0.02) and guided.std() == pytest.approx(deviation, abs=0.02)
    strongly = sample_all(guide_by_classifier(any_class, towards_one._replace(scale=5.0)))
    assert strongly.mean() > guided.mean() and strongly.std() < guided.std()


def test_a_classifier_at_scale_zero_is_never_called():
    assert guide_by_classifier(ddim, ClassifierGuidance(sample, 0.0, 1, "")) is ddim
    assert guide_by_classifier(ddim, None) is ddim
