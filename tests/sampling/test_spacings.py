"""Which of the 1000 discrete steps a spacing takes."""

import jax.numpy as jnp
import numpy as np
import pytest

from imagen_jax.cascade.sampling_settings import make_settings
from imagen_jax.config.sections import SamplingConfig
from imagen_jax.diffusion.schedules import LOG_SNR_LIMIT, discrete_cosine, linear
from imagen_jax.errors import UserError
from imagen_jax.sampling.spacings import SPACINGS, steps_in_sections, steps_with_both_ends

GLIDE_27 = [997, 800, 799, 600, 599, 500, 400,
            399, 377, 355, 333, 311, 288, 266, 244, 222, 200,
            199, 177, 155, 133, 111, 88, 66, 44, 22, 0]  # fmt: skip
"""The steps of GLIDE's upsampler, "fast27"."""

UNCLIP_15 = [999, 928, 856, 785, 714, 642, 571, 500, 428, 357, 285, 214, 143, 71, 0]


def space(**settings):
    return make_settings(SamplingConfig(guidance=1.0, **settings).to_dict())


def test_sections_are_those_of_glide():
    assert steps_in_sections(27) == GLIDE_27
    log_snrs = np.asarray(space(steps=27, spacing="sections").spacing(discrete_cosine, 27))
    stated = np.asarray(discrete_cosine((jnp.asarray(GLIDE_27) + 1) / 1000))
    np.testing.assert_allclose(log_snrs[:-1], stated, atol=1e-5)
    assert log_snrs[-1] == pytest.approx(LOG_SNR_LIMIT, abs=1e-3) and (np.diff(log_snrs) > 0).all()


def test_other_sections_take_both_ends_of_each():
    assert steps_in_sections(5, "3, 2") == [997, 500, 499, 250, 0]
    assert steps_in_sections(5, "1,1,3") == [997, 832, 666, 333, 0]
    assert len(steps_in_sections(800, "800")) == 800
    settings = space(steps=5, spacing="sections", sections="3,2")
    assert settings.spacing(linear, 5).shape == (6,)


def test_both_ends_are_as_karlo_rounds_them():
    assert steps_with_both_ends(15) == UNCLIP_15
    for steps in range(2, 1001):
        ratio = 999 / (steps - 1)
        assert steps_with_both_ends(steps) == (np.arange(steps) * ratio).round()[::-1].astype(int).tolist(), steps
    assert steps_with_both_ends(1) == [999]
    log_snrs = np.asarray(SPACINGS["both_ends"](linear, 15))
    np.testing.assert_allclose(log_snrs[:-1], linear((jnp.asarray(UNCLIP_15) + 1) / 1000), atol=1e-5)
    assert log_snrs[-1] > 0.99 * LOG_SNR_LIMIT


@pytest.mark.parametrize(
    ("settings", "facts"),
    [
        ({"steps": 1001, "spacing": "both_ends"}, "--steps"),
        ({"steps": 28, "spacing": "sections"}, "--steps=27"),
        ({"steps": 3, "spacing": "sections", "sections": "2,1"}, "section 2"),
        ({"steps": 2, "spacing": "sections", "sections": "0,2"}, "section 1"),
        ({"steps": 502, "spacing": "sections", "sections": "501,1"}, "section 1"),
        ({"steps": 999, "spacing": "sections", "sections": "999"}, "section 1"),
        ({"steps": 2, "spacing": "sections", "sections": "two"}, "sections='two'"),
    ],
)
def test_steps_that_there_are_not_are_refused(settings, facts):
    with pytest.raises(UserError, match=facts):
        space(**settings)
