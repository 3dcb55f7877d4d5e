"""BSRGAN's degradations: each operation against another statement of it, and that batches repeat them exactly."""

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from imagen_jax.data import degradations
from imagen_jax.data.batches import make_batches
from imagen_jax.data.degradations import add_noise, blur, compress, degrade, gaussian, random_kernel, resize
from imagen_jax.data.stored_images import StoredImage
from imagen_jax.data.transforms import make_super_resolution_example, with_degradations
from tests.data.conftest import png_of


def noise_of(seed, size):
    return np.random.default_rng(seed).integers(0, 256, (size, size, 3), np.uint8)


def smooth_of(seed, size):
    coarse = Image.fromarray(noise_of(seed, 5))
    return np.asarray(coarse.resize((size, size), Image.Resampling.BICUBIC))


@pytest.mark.parametrize("size", [2, 9, 40])
def test_a_blur_is_a_convolution_mirrored_at_the_edges(size):
    pixels, kernel = noise_of(0, size), random_kernel(np.random.default_rng(3), 4)
    expected = ndimage.convolve(pixels.astype(float), kernel[:, :, None], mode="mirror")
    assert np.abs(blur(pixels, kernel) - expected).max() <= 0.5 + 1e-6
    np.testing.assert_array_equal(blur(pixels, gaussian(7, 0.0)), pixels)


def test_a_kernel_has_the_covariance_of_its_axes():
    kernel = gaussian(41, 3.0, 1.0, angle=0.6)
    rows, columns = np.mgrid[-20:21, -20:21]
    turn = np.array([[np.cos(0.6), -np.sin(0.6)], [np.sin(0.6), np.cos(0.6)]])
    expected = turn @ np.diag([9.0, 1.0]) @ turn.T
    offsets = np.stack([columns.ravel(), rows.ravel()])
    np.testing.assert_allclose(offsets * kernel.ravel() @ offsets.T, expected, atol=1e-3)
    assert kernel.sum() == pytest.approx(1)
    sizes = {random_kernel(np.random.default_rng(seed), 4).shape for seed in range(100)}
    assert sizes == {(size, size) for size in range(7, 26, 2)}


def test_noise_is_of_three_kinds_and_as_strong_as_said():
    grey = np.full((64, 64, 3), 128, np.uint8)
    equal, deviations = 0, []
    for seed in range(300):
        added = add_noise(grey, np.random.default_rng(seed)).astype(float) - 128
        deviations.append(added.std())
        equal += (added[..., 0] == added[..., 1]).all()
    assert 0.32 < equal / 300 < 0.48
    assert 0.5 < min(deviations) < 3 and 20 < max(deviations) < 26


def test_jpeg_has_the_quality_that_was_drawn(monkeypatch):
    pixels, qualities = smooth_of(1, 32), set()
    save = Image.Image.save

    def spy(self, file, **options):
        qualities.add(options["quality"])
        save(self, file, **options)

    monkeypatch.setattr(Image.Image, "save", spy)
    generator = np.random.default_rng(0)
    stored = [compress(pixels, generator) for _ in range(400)]
    assert min(qualities) == 30 and max(qualities) == 95
    assert 0 < np.abs(stored[0].astype(float) - pixels).mean() < 20


def test_the_final_size_comes_after_the_size_by_chance(monkeypatch):
    """The order is random, but the image has its final size from its own resize on."""
    called = []
    for name in ("blur", "resize", "add_noise", "compress"):
        original = getattr(degradations, name)

        def spy(pixels, *others, original=original, name=name):
            called[-1].append((name, others[0] if name == "resize" else None))
            return original(pixels, *others)

        monkeypatch.setattr(degradations, name, spy)
    for seed in range(60):
        called.append([])
        made = degradations.degrade(smooth_of(seed, 64), np.random.default_rng(seed), 4)
        assert made.shape == (16, 16, 3) and made.dtype == np.uint8
        sizes = [size for name, size in called[-1] if name == "resize"]
        assert sizes[-1] == 16 and len(sizes) in (2, 3) and called[-1][-1][0] == "compress"
    assert len({tuple(name for name, _ in calls) for calls in called}) > 30


@pytest.mark.parametrize(("size", "factor"), [(64, 4), (64, 2), (4, 2), (8, 4)])
def test_a_degraded_image_still_shows_the_same(size, factor):
    pixels, clean = smooth_of(2, size), resize(smooth_of(2, size), size // factor, Image.Resampling.BOX)
    errors = [
        np.abs(degrade(pixels, np.random.default_rng(seed), factor).astype(float) - clean).mean() for seed in range(40)
    ]
    assert 1 < np.median(errors) < 40


def test_a_batch_is_the_same_whoever_makes_it():
    """The same images after a resume, and with two processes, and another degradation of an image in another epoch."""
    images = [StoredImage(f"key-{seed}", ("one",), png_of(smooth_of(seed, 16))) for seed in range(4)]
    plain = make_super_resolution_example(8, 16, crop=8)
    transform = with_degradations(plain, 2)

    def batches(transform=transform, **others):
        return make_batches(images, transform, 4, seed=3, **others)

    whole = batches()
    first, second = next(whole), next(whole)
    resumed = batches()
    resumed.set_state(state_after_one(batches()))
    np.testing.assert_array_equal(next(resumed)["low_res"], second["low_res"])
    halves = [next(batches(process_index=index, process_count=2))["low_res"] for index in range(2)]
    np.testing.assert_array_equal(np.concatenate(halves), first["low_res"])
    undegraded = next(batches(plain))
    np.testing.assert_array_equal(undegraded["image"], first["image"])
    assert first["low_res"].dtype == np.float32 and first["low_res"].shape == (4, 4, 4, 3)
    assert np.abs(undegraded["low_res"] - first["low_res"]).mean() > 0.01
    assert not np.array_equal(first["low_res"], second["low_res"])


def state_after_one(batches):
    next(batches)
    return batches.get_state()


def test_grey_images_stay_grey():
    transform = with_degradations(make_super_resolution_example(8, 16, channels=1), 2, channels=1)
    pixels = smooth_of(0, 16)[None]
    assert transform.degrade(pixels, [np.random.default_rng(0)])["low_res"].shape == (1, 8, 8, 1)
