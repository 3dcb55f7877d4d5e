"""What networks are told beside the noisy sample: conditions, their nulls, augmentation, self-conditioning."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from imagen_jax.array_types import LowResolution, Text
from imagen_jax.diffusion.augmentation import (
    augment,
    augment_for_training,
    blur,
    blur_for_training,
    enlarge_to_corners,
)
from imagen_jax.diffusion.conditions import (
    DROPPED,
    Conditions,
    Labels,
    TokenSequence,
    Vectors,
    drop,
    mix_texts,
    null,
)
from imagen_jax.diffusion.process import PREDICTIONS, add_noise
from imagen_jax.diffusion.schedules import cosine
from imagen_jax.diffusion.self_conditioning import self_condition, self_condition_for_training
from tests.reference.imagen_statements import augment_conditioning
from tests.reference.imagen_statements import enlarge_to_corners as stated_enlargement


def test_augmentation_is_the_variance_preserving_process_at_each_level():
    image = jax.random.uniform(jax.random.key(0), (3, 4, 4, 3), minval=-1, maxval=1)
    noise = jax.random.normal(jax.random.key(1), image.shape)
    levels = [0.1, 0.4, 0.9]
    augmented = augment(image, noise, jnp.asarray(levels), cosine)
    for index, level in enumerate(levels):
        noised, expected = augment_conditioning(np.asarray(image[index]), np.asarray(noise[index]), level)
        np.testing.assert_allclose(augmented.image[index], noised, atol=1e-5)
        assert float(augmented.log_snr[index]) == pytest.approx(expected, abs=1e-3)


def test_level_zero_is_clean():
    image = jnp.full((1, 4, 4, 3), 0.5)
    augmented = augment(image, jnp.ones_like(image), jnp.zeros((1,)), cosine)
    np.testing.assert_allclose(augmented.image, image, atol=1e-4)


def test_enlarging_to_the_corners_equals_its_statement():
    image = np.random.default_rng(0).normal(size=(2, 5, 5, 3))
    large = enlarge_to_corners(jnp.asarray(image, jnp.float32), 16)
    for index in range(2):
        np.testing.assert_allclose(large[index], stated_enlargement(image[index], 16), atol=1e-5)
    corners = (slice(None), [0, 0, -1, -1], [0, -1, 0, -1])
    np.testing.assert_allclose(large[corners], image[corners], atol=1e-6)


def test_training_samples_one_level_for_each_example_uniformly():
    augmented = augment_for_training(jnp.zeros((512, 2, 2, 3)), jax.random.key(0), cosine)
    levels = np.arctan(np.exp(-np.asarray(augmented.log_snr) / 2)) * 2 / np.pi
    assert len(np.unique(levels)) == 512
    assert np.abs(np.sort(levels) - np.arange(512) / 512).max() < 0.08, "close to U(0, 1)"
    spread = np.asarray(augmented.image).std(axis=(1, 2, 3))
    assert np.corrcoef(spread, np.sin(np.pi * levels / 2))[0, 1] > 0.8, "each image is as noisy as it is said to be"


def make_text(batch: int = 256) -> Text:
    return Text(jnp.ones((batch, 5, 4)), jnp.ones((batch, 5), bool))


def test_null_text_does_not_depend_on_the_padding():
    text = null(Conditions(text=make_text(2))).text
    assert not np.any(text.embeddings) and np.array_equal(text.mask, [[True, False, False, False, False]] * 2)


def test_dropout_drops_whole_captions_at_its_rate():
    dropped = drop(Conditions(text=make_text()), jax.random.key(0), {"text": 0.1}).text
    empty = ~np.asarray(dropped.embeddings).any(axis=(1, 2))
    assert 0.05 < empty.mean() < 0.16
    full = np.asarray(dropped.embeddings).all(axis=(1, 2))
    assert np.array_equal(full, ~empty), "a caption is dropped whole or not at all"
    assert np.array_equal(np.asarray(dropped.mask).sum(1), np.where(empty, 1, 5))
    untouched = drop(Conditions(text=make_text()), jax.random.key(0), {"text": 0.0}).text
    assert np.all(np.asarray(untouched.embeddings) == 1)


def make_conditions(batch: int = 4000) -> Conditions:
    """Every part there is, of ones."""
    there = jnp.ones(batch, bool)
    return Conditions(
        text=make_text(batch),
        tokens=TokenSequence(jnp.ones((batch, 3), int), jnp.ones((batch, 3), bool)),
        text_vector=Vectors(jnp.ones((batch, 2)), there),
        image_vector=Vectors(jnp.ones((batch, 2)), there),
        label=Labels(jnp.ones(batch, int), there),
        low_resolution=LowResolution(jnp.ones((batch, 1, 1, 3))),
    )


def kept(conditions: Conditions, name: str) -> np.ndarray:
    """Whether each example has a part; every part's last array says which of its places count."""
    mask = np.asarray(getattr(conditions, name)[-1])
    return mask if mask.ndim == 1 else mask.all(axis=1)


def test_the_null_lacks_every_part_except_the_low_resolution_image():
    nothing = null(make_conditions(2))
    assert nothing.given == Conditions._fields
    for name in DROPPED:
        assert not kept(nothing, name).any()
    assert np.all(np.asarray(nothing.low_resolution.image) == 1)
    assert null(Conditions()) == Conditions()


def test_parts_are_dropped_independently_at_their_own_rates():
    """As DALL·E 2's decoder: 10% of the image embeddings, and independently half of the captions."""
    dropped = drop(make_conditions(), jax.random.key(0), {"image_vector": 0.1, "text": 0.5})
    image, text = kept(dropped, "image_vector"), kept(dropped, "text")
    assert abs(image.mean() - 0.9) < 0.02 and abs(text.mean() - 0.5) < 0.03
    assert abs((~image & ~text).mean() - 0.05) < 0.015, "5% have neither"
    assert kept(dropped, "label").all() and kept(dropped, "text_vector").all() and kept(dropped, "tokens").all()


def test_a_caption_is_dropped_whole_text_and_token_ids():
    rates = {"image_vector": 0.5, "text": 0.5, "tokens": 0.5}
    dropped = drop(make_conditions(), jax.random.key(0), rates)
    assert np.array_equal(kept(dropped, "text"), kept(dropped, "tokens"))
    assert 0.4 < (kept(dropped, "text") == kept(dropped, "image_vector")).mean() < 0.6


def test_parts_that_are_dropped_together_are_all_there_or_all_gone():
    """As DALL·E 2's prior: 10% of the examples have no text at all."""
    rates = dict.fromkeys(("text", "text_vector", "tokens"), 0.1)
    dropped = drop(make_conditions(), jax.random.key(1), rates, together=True)
    text = kept(dropped, "text")
    assert abs(text.mean() - 0.9) < 0.02
    assert np.array_equal(text, kept(dropped, "text_vector")) and np.array_equal(text, kept(dropped, "tokens"))


def test_a_rate_for_each_example_decides_about_it_alone():
    rates = {name: jnp.asarray([0.0, 1.0, 0.0]) for name in DROPPED}
    dropped = drop(make_conditions(3), jax.random.key(0), rates)
    for name in DROPPED:
        assert kept(dropped, name).tolist() == [True, False, True]


def test_mixed_texts_lie_between_two_and_have_the_tokens_of_both():
    first = Text(jnp.zeros((2, 3, 4)), jnp.asarray([[True, False, False]] * 2))
    second = Text(jnp.ones((2, 3, 4)), jnp.asarray([[True, True, False]] * 2))
    mixed = mix_texts(first, second, jnp.asarray([0.25, 1.0]))
    np.testing.assert_allclose(mixed.embeddings[:, 0, 0], [0.25, 1.0])
    assert np.array_equal(mixed.mask, second.mask)


def test_self_conditioning_shows_the_networks_own_estimate():
    image = jax.random.uniform(jax.random.key(0), (64, 2, 2, 3), minval=-1, maxval=1)
    log_snr = jnp.zeros((64,))
    noisy = add_noise(image, jax.random.normal(jax.random.key(1), image.shape), log_snr)

    def oracle(noisy, log_snr, estimate):
        """Returns the image plus a tenth of the estimate that it receives."""
        return image + 0.1 * estimate

    seen = (self_condition(oracle, PREDICTIONS["x0"])(noisy, log_snr) - image) / 0.1
    np.testing.assert_allclose(seen, image, atol=1e-5)
    in_training = self_condition_for_training(oracle, PREDICTIONS["x0"], jax.random.key(2))(noisy, log_snr)
    has_estimate = np.abs(np.asarray(in_training - image)).max(axis=(1, 2, 3)) > 0
    assert 0.3 < has_estimate.mean() < 0.7


def test_no_gradient_flows_through_the_estimate():
    def predict_with(scale):
        def predict(noisy, log_snr, estimate):
            return scale * noisy + jnp.sum(estimate)

        noisy = jnp.full((8, 1, 1, 3), 0.1)
        halves = self_condition_for_training(predict, PREDICTIONS["x0"], jax.random.key(0))
        return jnp.sum(halves(noisy, jnp.zeros((8,))))

    assert float(jax.grad(predict_with)(1.0)) == pytest.approx(8 * 3 * 0.1, rel=1e-5)


def test_a_blur_is_a_gaussian_of_three_pixels_in_both_directions():
    image = jax.random.uniform(jax.random.key(0), (2, 5, 7, 3), minval=-1, maxval=1)
    taps = np.exp(-0.5 * np.array([-1, 0, 1]) ** 2 / 0.6**2)
    kernel = np.outer(taps, taps) / taps.sum() ** 2
    for blurred, clean in zip(np.asarray(blur(image)), np.asarray(image, np.float64), strict=True):
        np.testing.assert_allclose(blurred, ndimage.convolve(clean, kernel[:, :, None], mode="nearest"), atol=1e-6)


def test_training_blurs_some_images_and_names_no_level():
    image = jax.random.uniform(jax.random.key(0), (1000, 3, 3, 1))
    corrupted, level = blur_for_training(image, jax.random.key(1), 0.3)
    is_clean = (np.asarray(corrupted) == np.asarray(image)).all((1, 2, 3))
    is_blurred = np.isclose(corrupted, blur(image), atol=1e-6).all((1, 2, 3))
    assert level is None and (is_clean ^ is_blurred).all() and 0.25 < is_blurred.mean() < 0.35
