"""The objective: known values at an oracle, at zero, and at hand-computed weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imagen_jax.diffusion.loss import (
    LOG_SNR_EDGES,
    denoising_loss,
    denoising_losses,
    min_snr_weighting,
    sample_quantiles,
    sum_by_noise_level,
    uniform_weighting,
)
from imagen_jax.diffusion.noise_levels import times
from imagen_jax.diffusion.process import PREDICTIONS, noise_from_clean, velocity
from imagen_jax.diffusion.schedules import cosine

IMAGE = jax.random.uniform(jax.random.key(3), (64, 8, 8, 3), minval=-1, maxval=1)


def unread():
    """The density of the noise levels, for weightings that need none."""
    raise AssertionError("it is not read")


def oracle_noise(noisy, log_snr):
    return noise_from_clean(IMAGE, noisy, log_snr)


def test_an_oracle_has_no_loss_and_silence_has_the_variance_of_the_noise():
    settings = {"levels": times(cosine), "prediction": PREDICTIONS["eps"]}
    key = jax.random.key(0)
    late = {**settings, "levels": lambda time: cosine(0.2 + 0.8 * time)}  # the oracle divides by σ: keep off σ = 0
    assert float(denoising_loss(oracle_noise, IMAGE, key, **late)) < 1e-6
    assert float(denoising_loss(lambda z, log_snr: jnp.zeros_like(z), IMAGE, key, **settings)) == pytest.approx(
        1, abs=0.03
    )


def test_each_example_has_a_time_and_a_noise_of_its_own():
    seen = {}

    def spy(noisy, log_snr):
        seen["log_snr"], seen["noisy"] = np.asarray(log_snr), np.asarray(noisy)
        return noisy

    denoising_loss(spy, jnp.zeros_like(IMAGE), jax.random.key(0), levels=times(cosine), prediction=PREDICTIONS["eps"])
    assert len(np.unique(seen["log_snr"])) == len(IMAGE)
    noise = seen["noisy"] / np.sqrt(1 / (1 + np.exp(seen["log_snr"])))[:, None, None, None]
    assert noise.std() == pytest.approx(1, abs=0.03) and noise.mean() == pytest.approx(0, abs=0.03), (
        "normal, not uniform"
    )
    kurtosis = np.mean(noise**4) / np.mean(noise**2) ** 2
    assert kurtosis == pytest.approx(3, abs=0.2), "normal, not uniform"
    assert abs(np.corrcoef(noise.reshape(64, -1)[:, :10].mean(1), seen["log_snr"])[0, 1]) < 0.4


def test_predicting_v_as_if_it_were_noise_costs():
    def wrong(noisy, log_snr):
        return velocity(IMAGE, oracle_noise(noisy, log_snr), log_snr)

    loss = denoising_loss(wrong, IMAGE, jax.random.key(0), levels=times(cosine), prediction=PREDICTIONS["eps"])
    assert float(loss) > 0.1


@pytest.mark.parametrize(
    ("name", "log_snr", "weight"),
    [
        ("eps", 0.0, 1.0),  # SNR 1, below γ: min(1, 5)/1
        ("eps", np.log(20.0), 0.25),  # 5/20
        ("x0", np.log(20.0), 5.0),
        ("x0", np.log(0.5), 0.5),
        ("v", np.log(9.0), 0.5),  # 5/(9 + 1)
    ],
)
def test_min_snr_weights(name, log_snr, weight):
    computed = min_snr_weighting(5.0)(jnp.asarray([log_snr], jnp.float32), PREDICTIONS[name], unread)
    assert float(computed[0]) == pytest.approx(weight, rel=1e-4)


def test_uniform_weighting_is_one():
    assert np.all(np.asarray(uniform_weighting(jnp.asarray([-9.0, 0.0, 9.0]), PREDICTIONS["v"], unread)) == 1)


def test_stratified_times_fill_every_slot_and_plain_ones_do_not():
    stratified = np.asarray(sample_quantiles(jax.random.key(0), 32, stratified=True))
    assert sorted(np.floor(stratified * 32 - stratified.min() * 32 + 1e-3).astype(int)) == list(range(32))
    plain = np.asarray(sample_quantiles(jax.random.key(0), 4096))
    assert plain.min() >= 0 and plain.max() < 1 and plain.mean() == pytest.approx(0.5, abs=0.02)
    assert len(np.unique(np.floor(plain[:32] * 32))) < 32


@pytest.mark.parametrize("stratified", [False, True])
def test_a_time_exponent_moves_times_towards_noise(stratified):
    """The density k·t^(k-1) has 1 - 0.9^k of its mass above 0.9, and the mean k/(k + 1)."""
    quantiles = sample_quantiles(jax.random.key(0), 20_000, stratified)
    drawn = np.asarray(times(lambda time: time, 3.0)(quantiles))
    assert drawn.min() >= 0 and drawn.max() < 1
    assert np.mean(drawn > 0.9) == pytest.approx(1 - 0.9**3, abs=0.01)
    assert drawn.mean() == pytest.approx(3 / 4, abs=0.01)


def test_the_losses_of_the_noise_levels_sum_to_the_loss():
    settings = {"levels": times(cosine), "prediction": PREDICTIONS["eps"], "weighting": min_snr_weighting(5.0)}
    arguments = (lambda z, log_snr: jnp.zeros_like(z), IMAGE, jax.random.key(5))
    losses, log_snr = denoising_losses(*arguments, **settings)
    levels = sum_by_noise_level(losses, log_snr)
    borders = [-np.inf, *LOG_SNR_EDGES, np.inf]
    np.testing.assert_array_equal(levels.examples, np.histogram(log_snr, borders)[0])
    exact = np.histogram(log_snr, borders, weights=np.asarray(losses, np.float64))[0]
    np.testing.assert_allclose(levels.total, exact, rtol=1e-5)
    assert float(levels.total.sum()) / len(IMAGE) == pytest.approx(float(denoising_loss(*arguments, **settings)))


def test_a_loss_that_is_not_finite_stays_in_its_noise_level():
    levels = sum_by_noise_level(jnp.asarray([1.0, jnp.nan, 3.0]), jnp.asarray([-7.0, -5.0, 6.0]))
    np.testing.assert_array_equal(levels.total, [1, np.nan, 0, 0, 0, 0, 0, 3])
    np.testing.assert_array_equal(levels.examples, [1, 1, 0, 0, 0, 0, 0, 1])


def test_times_of_the_cosine_schedule_fill_the_noise_levels_as_documented():
    levels = sum_by_noise_level(jnp.ones(10_000), cosine((jnp.arange(10_000) + 0.5) / 10_000))
    np.testing.assert_allclose(levels.examples / 10_000, [0.03, 0.05, 0.14, 0.28, 0.28, 0.14, 0.05, 0.03], atol=0.005)
