"""How a picture that is not square becomes one: ``data.crop``."""

import io

import numpy as np
import pytest
from PIL import Image

from configs import quickstart
from imagen_jax.cascade.experiment import read_experiment
from imagen_jax.cascade.stage import build_stage
from imagen_jax.data.batches import Mixture, make_batches
from imagen_jax.data.pixels import resize_shorter_side, to_image
from imagen_jax.data.stored_images import StoredImage
from imagen_jax.data.transforms import make_example, make_super_resolution_example
from imagen_jax.errors import UserError
from imagen_jax.tasks.stage_data import make_transform
from imagen_jax.train import train
from tests.data.conftest import png_of

WINDOWS = make_example(16, "random")
PAIRS = make_super_resolution_example(8, 16, crop=8, square="random")


def noise_of(seed, height, width):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def smooth(seed, height, width):
    coarse = Image.fromarray(noise_of(seed, 5, 6))
    return np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC))


def jpeg_of(pixels):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="JPEG", quality=95, subsampling=0)
    return buffer.getvalue()


def stored(pixels, encode=png_of, name="one"):
    return StoredImage(f"key-{name}", (f"a {name}",), encode(pixels))


def crop_of(transform, image, seed):
    """The pixels of one example, before it is finished."""
    return transform.vary(transform.prepare(image).pixels, np.random.default_rng(seed))


def position_in(whole, window):
    """Where a window was cropped from; of noise there is one position."""
    windows = np.lib.stride_tricks.sliding_window_view(whole, window.shape)[:, :, 0]
    ((top, left),) = np.argwhere((windows == window).all((2, 3, 4)))
    return int(top), int(left)


@pytest.fixture(scope="module")
def oblong_images():
    """Ten images of noise, some wide, some high, one square, all of which become 16 px and at most 40."""
    sizes = [(16, 40), (40, 16), (32, 48), (16, 16), (48, 32), (24, 60), (16, 33), (16, 17), (64, 32), (20, 30)]
    return [stored(noise_of(seed, *size), name=f"image-{seed}") for seed, size in enumerate(sizes)]


@pytest.mark.parametrize("size", [(48, 96), (96, 48), (48, 129)])
def test_a_window_is_cropped_from_the_image_that_pillow_makes_smaller(size):
    pixels = noise_of(1, *size)
    smaller = (round(size[1] / 3), round(size[0] / 3))
    expected = np.asarray(Image.fromarray(pixels).resize(smaller, Image.Resampling.BOX)).astype(int)
    whole = WINDOWS.prepare(stored(pixels)).pixels
    assert whole.shape == expected.shape and np.abs(whole - expected).max() <= 1
    window = crop_of(WINDOWS, stored(pixels), 5)
    top, left = position_in(whole, window)
    other = np.asarray(Image.fromarray(expected.astype(np.uint8)).crop((left, top, left + 16, top + 16)))
    assert other.shape == window.shape == (16, 16, 3)
    assert np.abs(other.astype(int) - window).max() <= 1


@pytest.mark.parametrize("size", [(50, 71), (71, 50), (37, 200)])
def test_ratios_that_are_no_whole_numbers_keep_the_aspect(size):
    pixels = smooth(2, *size)
    whole = WINDOWS.prepare(stored(pixels)).pixels
    assert min(whole.shape[:2]) == 16
    assert np.abs(np.array(whole.shape[:2]) - np.array(size) * 16 / min(size)).max() <= 0.5
    expected = Image.fromarray(pixels).resize(whole.shape[1::-1], Image.Resampling.HAMMING)
    assert np.abs(np.asarray(expected).astype(int) - whole).mean() < 2


def test_each_pixel_of_an_oblong_image_is_the_mean_of_its_area():
    image = to_image(noise_of(3, 21, 35))
    # Repeated, every new pixel's area is a whole number of pixels.
    enlarged = image.astype(np.float64).repeat(10, 0).repeat(17, 1)
    expected = enlarged.reshape(10, 21, 17, 35, 3).mean((1, 3))
    np.testing.assert_allclose(resize_shorter_side(image, 10), expected, atol=2e-6)


def test_offsets_are_uniform():
    image = stored(noise_of(4, 16, 25))
    whole = WINDOWS.prepare(image).pixels
    offsets = [position_in(whole, WINDOWS.vary(whole, np.random.default_rng(seed)))[1] for seed in range(2000)]
    # Ten offsets of 200 each; 60 is 4.5 standard deviations.
    assert np.abs(np.bincount(offsets, minlength=10) - 200).max() < 60
    assert set(offsets) == set(range(10))


def test_a_jpeg_is_decoded_no_larger_than_needed():
    photo = stored(smooth(5, 128, 200), jpeg_of)
    with Image.open(io.BytesIO(photo.encoded)) as image:
        image.draft(None, (25, 16))
        eighth = np.asarray(image)
    assert eighth.shape == (16, 25, 3)
    np.testing.assert_array_equal(WINDOWS.prepare(photo).pixels, eighth)


@pytest.mark.parametrize("pair", [False, True])
@pytest.mark.parametrize("size", [16, 50])
def test_square_images_are_what_the_centre_gives(pair, size):
    image = stored(noise_of(6, size, size))
    for seed in range(5):
        if pair:
            centre = crop_of(make_super_resolution_example(8, 16, crop=8), image, seed)
            window = crop_of(PAIRS, image, seed)
        else:
            centre, window = make_example(16).prepare(image).pixels, crop_of(WINDOWS, image, seed)
        np.testing.assert_array_equal(window, centre)


@pytest.mark.parametrize("crop", [None, 8])
def test_low_resolutions_are_the_exact_means_of_the_window(crop):
    transform = make_super_resolution_example(4, 16, crop=crop, square="random")
    image = stored(noise_of(7, 32, 70))
    whole = transform.prepare(image).pixels
    positions = set()
    for seed in range(30):
        pixels = crop_of(transform, image, seed)
        size = crop or 16
        assert pixels.shape == (size, size, 3)
        positions.add(position_in(whole, pixels))
        example = transform.finish(pixels[None])
        means = to_image(pixels).astype(np.float64).reshape(size // 4, 4, size // 4, 4, 3).mean((1, 3))
        np.testing.assert_allclose(example["low_res"][0], means, atol=1e-6)
        np.testing.assert_array_equal(example["image"][0], to_image(pixels))
    tops, lefts = (set(values) for values in zip(*positions, strict=True))
    assert tops == ({0} if crop is None else {0, 4, 8}) and len(lefts) > 8


def read(images, transform=WINDOWS, count=6, **options):
    batches = make_batches(images, transform, 4, seed=3, **options)
    return [next(batches) for _ in range(count)]


def assert_equal(batches, others):
    for batch, other in zip(batches, others, strict=True):
        assert batch.keys() == other.keys()
        for name in batch:
            np.testing.assert_array_equal(batch[name], other[name])


@pytest.mark.parametrize(
    ("mirror", "transform"),
    [
        pytest.param(False, WINDOWS, id="base", marks=pytest.mark.thorough),
        pytest.param(True, WINDOWS, id="base, mirrored"),
        pytest.param(False, PAIRS, id="super_resolution", marks=pytest.mark.thorough),
        pytest.param(True, PAIRS, id="super_resolution, mirrored", marks=pytest.mark.thorough),
    ],
)
def test_batches_are_the_same_however_they_are_made(oblong_images, transform, mirror):
    alone = read(oblong_images, transform, mirror=mirror)
    assert_equal(read(oblong_images, transform, mirror=mirror, cache=True), alone)
    assert_equal(read(oblong_images, transform, mirror=mirror, num_workers=1), alone)
    shares = [read(oblong_images, transform, mirror=mirror, process_index=index, process_count=2) for index in range(2)]
    joined = [{name: np.concatenate([one[name], two[name]]) for name in one} for one, two in zip(*shares, strict=True)]
    assert_equal(joined, alone)


def test_a_run_resumes_on_the_same_windows(oblong_images):
    first = make_batches(oblong_images, WINDOWS, 4, seed=3, cache=True)
    for _ in range(3):
        next(first)
    again = make_batches(oblong_images, WINDOWS, 4, seed=3)
    again.set_state(first.get_state())
    assert_equal([next(again) for _ in range(3)], read(oblong_images)[3:])


def test_windows_of_a_remembered_image_still_vary():
    images = [stored(noise_of(8, 16, 40))] * 4
    batches = read(images, cache=True, count=8)
    assert len({image.tobytes() for batch in batches for image in batch["image"]}) > 10


def test_a_mirror_turns_the_window_that_was_cropped(oblong_images):
    plain = np.concatenate([batch["image"] for batch in read(oblong_images, count=10)])
    mirrored = np.concatenate([batch["image"] for batch in read(oblong_images, count=10, mirror=True)])
    turned = [np.array_equal(one, other[:, ::-1]) for one, other in zip(plain, mirrored, strict=True)]
    kept = [np.array_equal(one, other) for one, other in zip(plain, mirrored, strict=True)]
    assert 10 < sum(turned) < 30 and sum(turned) + sum(kept) == 40


@pytest.mark.thorough
def test_a_mixture_has_windows_too(oblong_images):
    mixture = Mixture((oblong_images[:5], oblong_images[5:]), (3.0, 1.0))
    assert_equal(read(mixture, num_workers=1), read(mixture, cache=True))


def test_an_image_that_is_too_small_is_refused():
    with pytest.raises(UserError, match=r"\b40×15\b.*\b16\b"):
        WINDOWS.prepare(stored(noise_of(9, 15, 40)))


@pytest.fixture(params=["base", "super_resolution"])
def config(request):
    config = quickstart.get_config(f"{request.param},smoke")
    config.data.source = "prepared"
    return config


def transform_of(config):
    experiment = read_experiment(config)
    return make_transform(experiment.data, experiment.stage.crop, build_stage(experiment))


def test_the_config_says_how(config):
    image = stored(noise_of(10, 16, 40))
    assert config.data.crop == "centre"
    assert transform_of(config).prepare(image).pixels.shape[0] == config.stage.resolution
    config.data.crop = "random"
    whole = transform_of(config).prepare(image).pixels
    assert whole.shape[1] == 2.5 * whole.shape[0]


@pytest.mark.parametrize(
    ("crop", "message"), [("center", r"data\.crop 'center'.*'centre'"), ("top", r"data\.crop 'top'.*centre, random")]
)
def test_an_unknown_crop_is_refused(config, crop, message):
    config.data.crop = crop
    with pytest.raises(UserError, match=message):
        transform_of(config)


def test_a_refused_crop_leaves_no_workdir(tmp_path):
    config = quickstart.get_config("base,smoke")
    config.data.crop = "top"
    with pytest.raises(UserError, match=r"data\.crop 'top'"):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_sources_that_store_squares_have_no_random_crop(config):
    config.data.update({"source": "folder", "crop": "random"})
    with pytest.raises(UserError, match=r"data\.crop='random'.*prepare_data"):
        transform_of(config)
