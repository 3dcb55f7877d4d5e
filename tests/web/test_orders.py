"""What an order of the page becomes before anything is sampled."""

import numpy as np
import pytest

from configs import emoji_unclip
from imagen_jax.cascade.stage import build_stage
from imagen_jax.errors import UserError
from imagen_jax.web.orders import TEXT_DIFFERENCE, VARIATION, Limits, read_order
from tests.web.asking import data_url

STAGES = [build_stage(emoji_unclip.get_config(f"{name},smoke")) for name in ("prior", "decoder")]
CHOSEN = [{"sampler": "ancestral", "steps": 4}, {"sampler": "ancestral", "steps": 4}]


@pytest.mark.parametrize(("how", "decoder"), [(TEXT_DIFFERENCE, "ddim"), (VARIATION, "ancestral")])
def test_the_history_names_the_sampler_of_a_text_difference_too(how, decoder):
    requested = {"prompt": "a cat", "image": data_url(np.zeros((8, 8, 3), np.uint8)), "how": how, "stages": CHOSEN}
    order = read_order(requested, STAGES, Limits())
    assert order.settings["sampler"] == ["ancestral", decoder] and order.settings["steps"] == [4, 4]
    assert [one["sampler"] for one in order.page_settings["stages"]] == ["ancestral", decoder]


def test_a_sampler_that_there_is_not_is_refused_for_a_text_difference_too():
    stages = [CHOSEN[0], {**CHOSEN[1], "sampler": "no sampler"}]
    requested = {"prompt": "a cat", "image": data_url(np.zeros((8, 8, 3), np.uint8)), "how": TEXT_DIFFERENCE}
    with pytest.raises(UserError, match="no sampler"):
        read_order({**requested, "stages": stages}, STAGES, Limits())


def test_settings_that_are_left_out_stay_those_of_the_stages():
    requested = {"prompt": "a cat", "image": data_url(np.zeros((8, 8, 3), np.uint8)), "how": TEXT_DIFFERENCE}
    order = read_order(requested, STAGES, Limits())
    assert order.settings == {} and order.page_settings["stages"] == []
