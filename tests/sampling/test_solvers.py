"""Rules of higher order: their order, on an ODE whose solution SciPy knows, and their first steps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import quad, solve_ivp

from imagen_jax.diffusion.process import signal_and_noise_scale
from imagen_jax.diffusion.schedules import cosine
from imagen_jax.sampling.sampler import STEP_RULES, fold_into_each, normal_for_each, sample
from imagen_jax.sampling.solvers import exponential_moments
from imagen_jax.sampling.spacings import SPACINGS
from imagen_jax.sampling.step_rules import ancestral, ddim
from tests.tiers import thorough_except, thorough_rows_except

MEANS, DEVIATIONS, SHARES = np.array([-0.7, 0.1, 0.8]), np.array([0.1, 0.3, 0.05]), np.array([0.3, 0.5, 0.2])
SHAPE = (2, 2, 3)


def mixture_estimate(noisy, log_snr):
    """E[x | z] where each value is a sample of a mixture of three Gaussians."""
    alpha, sigma = signal_and_noise_scale(log_snr, noisy)
    logits, means = [], []
    for mean, deviation, share in zip(MEANS, DEVIATIONS, SHARES, strict=True):
        spread = jnp.square(alpha * deviation) + jnp.square(sigma)
        error = noisy - alpha * mean
        logits.append(jnp.log(share) - jnp.log(spread) / 2 - jnp.square(error) / spread / 2)
        means.append(mean + alpha * deviation**2 / spread * error)
    return (jax.nn.softmax(jnp.stack(logits), axis=0) * jnp.stack(means)).sum(0)


def exact_path(start, log_snr, end):
    """The probability-flow ODE's solution by SciPy: dy/dl = -(y - x̂) for y = z/α and l = λ/2."""

    def slope(half, scaled):
        level = np.exp(-half)
        spread = DEVIATIONS**2 + level**2
        error = scaled[:, None] - MEANS
        weight = SHARES / np.sqrt(spread) * np.exp(-(error**2) / spread / 2)
        weight /= weight.sum(-1, keepdims=True)
        estimate = (weight * (MEANS + DEVIATIONS**2 / spread * error)).sum(-1)
        return -(scaled - estimate)

    def scale(one):
        return np.sqrt(1 + np.exp(-one))

    flat = np.asarray(start, np.float64).ravel() * scale(log_snr)
    solved = solve_ivp(slope, (log_snr / 2, end / 2), flat, method="DOP853", rtol=1e-12, atol=1e-12)
    return (solved.y[:, -1] / scale(end)).reshape(start.shape)


def keys(batch):
    return jax.random.split(jax.random.key(0), batch)


def error_of(name, steps, begin=-6.0, end=5.0):
    """The mean error of a rule between two log-SNRs."""
    with jax.enable_x64(True):
        log_snrs = jnp.linspace(begin, end, steps + 1)
        sampled = sample(mixture_estimate, STEP_RULES[name](0.0, 0.0), log_snrs, keys(8), SHAPE)
        start = normal_for_each(fold_into_each(keys(8), 0), SHAPE)
        return np.abs(np.asarray(sampled) - exact_path(np.asarray(start), begin, end)).mean()


@pytest.mark.parametrize(
    ("name", "order"),
    thorough_rows_except(
        [("dpm_solver_2m", 2), ("unipc", 3)], [("ddim", 1), ("dpm_solver_2m", 2), ("heun", 2), ("unipc", 3)]
    ),
)
def test_halving_the_steps_shrinks_the_error_as_the_order_says(name, order):
    errors = [error_of(name, steps) for steps in (80, 160, 320)]
    orders = np.log2(np.array(errors[:-1]) / np.array(errors[1:]))
    assert orders[-1] == pytest.approx(order, abs=0.3), (errors, orders)
    assert errors[-1] < 3e-3


def test_higher_orders_need_fewer_steps():
    errors = {name: error_of(name, 20) for name in ("ddim", "dpm_solver_2m", "unipc")}
    assert errors["unipc"] < errors["dpm_solver_2m"] < errors["ddim"] / 2


@pytest.mark.parametrize("name", thorough_except(("unipc",), STEP_RULES))
@pytest.mark.parametrize(
    ("spacing", "steps"), [("uniform", 1), ("uniform", 2), ("discrete", 10), ("log_snr", 10), ("karras", 10)]
)
def test_any_rule_along_any_spacing_ends_at_the_image_of_its_denoiser(name, spacing, steps):
    image = jax.random.uniform(jax.random.key(9), SHAPE, minval=-1, maxval=1)
    log_snrs = SPACINGS[spacing](cosine, steps)
    assert log_snrs.shape == (steps + 1,) and (np.diff(log_snrs) > 0).all()
    sampled = sample(lambda noisy, _: jnp.broadcast_to(image, noisy.shape), STEP_RULES[name](0.0, 0.0), log_snrs,
                   keys(3), SHAPE)  # fmt: skip
    np.testing.assert_allclose(sampled, np.broadcast_to(image, sampled.shape), atol=2e-3)


def test_two_steps_of_the_second_order_are_two_of_the_first():
    """The first step has no history, and the last goes onto the clean image."""
    log_snrs = SPACINGS["uniform"](cosine, 2)
    for name, plain in (("dpm_solver_2m", ddim()), ("dpm_solver_2m_sde", ancestral())):
        sampled, expected = (
            sample(mixture_estimate, rule, log_snrs, keys(4), SHAPE) for rule in (STEP_RULES[name](0.0, 0.0), plain)
        )
        np.testing.assert_allclose(sampled, expected, atol=1e-5)


@pytest.mark.thorough
def test_the_sde_rule_samples_from_the_mixture_in_few_steps():
    """Its spread in 20 steps is nearer to the mixture's than that of ancestral sampling."""
    exact = np.sqrt((SHARES * (DEVIATIONS**2 + MEANS**2)).sum() - (SHARES * MEANS).sum() ** 2)
    log_snrs = SPACINGS["karras"](cosine, 20)
    spreads = {
        rule.name: float(sample(mixture_estimate, rule, log_snrs, keys(2000), SHAPE).std())
        for rule in (STEP_RULES["dpm_solver_2m_sde"](0.0, 0.0), ancestral())
    }
    errors = {name: abs(spread - exact) for name, spread in spreads.items()}
    assert errors["DPM-Solver++(2M) SDE"] < 0.6 * errors["ancestral (γ = 0)"], errors


@pytest.mark.parametrize("height", [1e-4, 0.1, 0.49, 0.51, 3.0, 11.0])
def test_moments_are_the_integrals(height):
    for power, moment in enumerate(exponential_moments(jnp.asarray([height]))):
        exact, _ = quad(lambda u, power=power: np.exp(u - height) * u**power, 0, height, epsabs=0, epsrel=1e-10)
        assert float(moment[0]) == pytest.approx(exact, rel=2e-5)


def test_karras_levels_are_those_of_the_paper():
    levels = np.exp(-np.asarray(SPACINGS["karras"](cosine, 18), np.float64) / 2)
    expected = (80 ** (1 / 7) + np.arange(18) / 17 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    np.testing.assert_allclose(levels[:-1], expected, rtol=1e-4)
    assert levels[-1] < 1e-4
