"""The classifier of noisy images, with ADM's attention and pool, and without."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imagen_jax.errors import UserError
from imagen_jax.models.noise_classifier import NoiseClassifier
from imagen_jax.sharding.axes import axes_of, remove_logical_axes, unnamed_parameters
from tests.drawn_params import draw_params

NOISY = jax.random.normal(jax.random.key(0), (2, 16, 16, 3))
LOG_SNR = jnp.asarray([-1.0, 2.0])


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param({}, marks=pytest.mark.thorough),
        pytest.param({"attention_resolutions": (8,), "head_channels": 4}, marks=pytest.mark.thorough),
        {"pool": "attention", "head_channels": 8},
    ],
)
def test_every_pixel_and_the_noise_level_are_read(fields):
    module = NoiseClassifier(classes=3, channels=(8, 16), **fields)
    params = draw_params(
        remove_logical_axes(jax.eval_shape(lambda: module.init(jax.random.key(1), NOISY, LOG_SNR)["params"]))
    )
    classify = jax.jit(lambda noisy, log_snr: module.apply({"params": params}, noisy, log_snr))
    before = np.asarray(classify(NOISY, LOG_SNR))
    assert before.shape == (2, 3)
    moved = np.asarray(classify(NOISY.at[0, 3, 5].add(2.0), LOG_SNR))
    assert np.abs(moved - before)[0].max() > 1e-4 and np.abs(moved - before)[1].max() < 1e-5
    assert np.abs(np.asarray(classify(NOISY, LOG_SNR + 1)) - before).min(axis=1).max() > 1e-4


def test_its_kernels_name_their_axes_and_a_new_one_is_undecided():
    module = NoiseClassifier(3, (8, 16), attention_resolutions=(16, 8), head_channels=4, pool="attention")
    logits, variables = jax.jit(module.init_with_output)(jax.random.key(1), NOISY, LOG_SNR)
    assert unnamed_parameters(axes_of(variables["params"])) == []
    assert not np.any(logits)


def test_an_unknown_pool_names_the_nearest():
    with pytest.raises(UserError, match=r"classifier\.pool.*'mean'"):
        jax.eval_shape(lambda: NoiseClassifier(3, (8,), pool="means").init(jax.random.key(1), NOISY, LOG_SNR))
