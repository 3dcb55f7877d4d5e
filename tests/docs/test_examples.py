"""The worked examples of docs/extend.md, each against a statement that does not use its code."""

import io
import json
import math
import zipfile

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import pytest
from PIL import Image

from docs import make_figures
from docs.examples.adams_bashforth import adams_bashforth
from docs.examples.captioned_zips import ATTRIBUTION, captioned_zip_parts
from docs.examples.shifted_cosine import shifted_cosine
from imagen_jax.cascade.cascade import load_cascade
from imagen_jax.data.preparation.preparation import Preparation, prepare
from imagen_jax.data.sources.parted_sources import PARTED_SOURCES, list_parts
from imagen_jax.data.sources.sources import Source
from imagen_jax.data.stored_images import load_split
from imagen_jax.diffusion.process import signal_and_noise_scale
from imagen_jax.diffusion.schedules import LOG_SNR_LIMIT, cosine
from imagen_jax.errors import UserError
from imagen_jax.sampling.sampler import STEP_RULES, sample
from imagen_jax.sampling.spacings import space_as_karras
from imagen_jax.sampling.step_rules import ddim
from tests.small_cascades import write_cascade

MEAN, DEVIATION = 0.3, 0.5


def denoise_gaussian(noisy, log_snr):
    """The exact mean of the clean image, where images are normally distributed."""
    alpha, sigma = signal_and_noise_scale(log_snr, noisy)
    gain = alpha * DEVIATION**2 / (jnp.square(alpha) * DEVIATION**2 + jnp.square(sigma))
    return MEAN + gain * (noisy - alpha * MEAN)


def error_of(rule, steps):
    """The distance to the ODE's exact solution, which keeps each point at its place among the noisy images."""
    log_snrs = space_as_karras(cosine, steps)
    start = jax.random.normal(jax.random.key(0), (64, 1, 1, 1))
    keys = jax.random.split(jax.random.key(1), 64)
    reached = sample(denoise_gaussian, rule, log_snrs, keys, (1, 1, 1), start)
    ends = signal_and_noise_scale(log_snrs[jnp.array([0, -1])], jnp.zeros((2, 1)))
    (alpha, end_alpha), (sigma, end_sigma) = (scale.ravel().tolist() for scale in ends)
    place = (start - alpha * MEAN) / math.hypot(alpha * DEVIATION, sigma)
    exact = end_alpha * MEAN + place * math.hypot(end_alpha * DEVIATION, end_sigma)
    return float(jnp.abs(reached - exact).mean())


def test_the_sampler_is_of_second_order():
    coarse, fine = error_of(adams_bashforth(), 40), error_of(adams_bashforth(), 80)
    assert coarse / fine == pytest.approx(4.0, rel=0.3)
    assert coarse < error_of(ddim(), 40) / 3


@pytest.mark.thorough
def test_a_cascade_takes_the_sampler_by_its_name(tmp_path, monkeypatch):
    cascade = load_cascade(write_cascade(tmp_path)[:1], {"steps": 4, "spacing": "karras"})
    with pytest.raises(UserError, match="adams_bashforth"):
        cascade.sample("panda", sampler="adams_bashforth")
    monkeypatch.setitem(STEP_RULES, "adams_bashforth", lambda gamma, eta: adams_bashforth())
    ours, theirs = (np.asarray(cascade.sample("panda", sampler=name)[0]) for name in ("adams_bashforth", "ddim"))
    assert ours.shape == theirs.shape == (8, 8, 3) and (ours != theirs).any()
    assert "Adams-Bashforth" in cascade.adjusted(sampler="adams_bashforth").describe()["stage_0"]


@pytest.mark.parametrize("resolution", [16, 64, 256, 1024])
def test_the_schedule_is_as_the_sampler_needs_it(resolution):
    log_snr = np.asarray(shifted_cosine(resolution)(jnp.linspace(0.0, 1.0, 1001)))
    assert log_snr[0] == LOG_SNR_LIMIT and log_snr[-1] == -LOG_SNR_LIMIT and (np.diff(log_snr) <= 0).all()


@pytest.mark.parametrize("time", [0.1, 0.5, 0.9])
def test_means_of_blocks_of_pixels_have_the_log_snr_of_the_small_image(time):
    """A mean of 4 × 4 pixels has the signal of one, and noise of a sixteenth of the variance."""
    alpha_of = math.sqrt(1 / (1 + math.exp(-float(shifted_cosine(256)(jnp.asarray(time))))))
    of_mean = math.log(alpha_of**2 / ((1 - alpha_of**2) / 16))
    assert of_mean == pytest.approx(float(cosine(jnp.asarray(time))), abs=1e-3)
    assert float(shifted_cosine(64)(jnp.asarray(time))) == pytest.approx(float(cosine(jnp.asarray(time))), abs=1e-3)


def png(number):
    pixels = np.random.default_rng(number).integers(0, 256, (16, 16, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def zips(tmp_path):
    """Two zip files with twenty images, one without a caption and one that is not an image; and one damaged file."""
    folder = tmp_path / "zips"
    folder.mkdir()
    for part in (0, 1):
        with zipfile.ZipFile(folder / f"part-{part}.zip", "w") as archive:
            for number in range(10):
                archive.writestr(f"a_red_apple_{number}.png", png(10 * part + number))
            archive.writestr("notes.txt", "not an image")
    with zipfile.ZipFile(folder / "part-1.zip", "a") as archive:
        archive.writestr("0042.png", png(42))
        archive.writestr("a web page.jpg", b"<html>")
    (folder / "torn.zip").write_bytes((folder / "part-0.zip").read_bytes()[:100])
    return folder


def test_the_source_is_prepared_and_names_what_it_leaves_out(zips, tmp_path, monkeypatch):
    monkeypatch.setitem(PARTED_SOURCES, "captioned_zips", Source(captioned_zip_parts, ATTRIBUTION))
    parts = list_parts("captioned_zips", {"folder": str(zips)})
    assert [part.name for part in parts] == ["part-0.zip", "part-1.zip", "torn.zip"]
    out = tmp_path / "prepared"
    prepare(Preparation("captioned_zips", {}, ATTRIBUTION, parts, max_bad_fraction=0.5), out, workers=0)
    assert [one.captions for one in load_split(out, "train")] == 20 * [("a red apple",)]
    left_out = [json.loads(line) for line in (out / "quarantine.jsonl").read_text(encoding="utf-8").splitlines()]
    assert sorted(one["key"] for one in left_out) == ["part-1/0042.png", "part-1/a web page.jpg", "torn.zip"]


def test_a_folder_without_zip_files_is_refused(tmp_path):
    with pytest.raises(UserError, match="--option=folder"):
        captioned_zip_parts(tmp_path)


def test_the_figures_denoiser_is_the_mean_of_what_a_pixel_may_have_been():
    """Against the integral over all clean pixels."""
    clean = np.linspace(-1.5, 1.5, 20_001)
    prior = sum(np.exp(-0.5 * ((clean - mode) / make_figures.DEVIATION) ** 2) for mode in make_figures.MODES)
    for noisy, log_snr in ((0.3, -2.0), (-0.5, 1.0), (0.05, 3.0)):
        alpha, sigma = math.sqrt(1 / (1 + math.exp(-log_snr))), math.sqrt(1 / (1 + math.exp(log_snr)))
        weight = prior * np.exp(-0.5 * ((noisy - alpha * clean) / sigma) ** 2)
        ours = make_figures.denoise_exactly(jnp.full((1, 1, 1, 1), noisy), jnp.full(1, log_snr))
        assert float(ours[0, 0, 0, 0]) == pytest.approx((weight * clean).sum() / weight.sum(), abs=1e-4)


@pytest.mark.thorough
def test_the_figures_are_made(tmp_path, monkeypatch):
    monkeypatch.setattr(make_figures, "STEPS", 4)
    monkeypatch.setattr("sys.argv", ["make_figures.py", str(tmp_path)])
    with plt.rc_context():
        make_figures.main()
    for name in ("schedules.png", "noised.jpg", "paths.png"):
        pixels = np.asarray(Image.open(tmp_path / name).convert("L"))
        assert pixels.shape[1] > 800 and pixels.std() > 20
