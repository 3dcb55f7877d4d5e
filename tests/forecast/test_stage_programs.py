"""A stage's programs, counted both ways; and the presets' counts on file."""

import json

import numpy as np
import pytest

from configs import quickstart
from imagen_jax.cascade.experiment import read_experiment
from imagen_jax.cascade.stage import build_stage
from imagen_jax.forecast.flops import count_operations
from imagen_jax.forecast.parameter_count import count_parameters, total_of
from imagen_jax.forecast.stage_programs import format_operations, forward_program, training_program
from tests.reference.make_counts import FOLDER, PRESETS, make_config
from tests.tiers import thorough_except

MILLION = 1e6
NAMED = {
    "imagen_base_64_2b": (2000, 2200),
    "imagen_base_64_1b": (950, 1050),
    "imagen_base_64_500m": (475, 525),
    "imagen_base_64_300m": (285, 315),
    "imagen_super_res_256_size_matched": (582, 618),
    "imagen_super_res_1024_size_matched": (388, 412),
}
"""Millions of parameters that a preset may have, given what it is called: size-matched within 3%, bases within 5%."""


# One of each network; tracing the others takes a second each.
OF_EACH_NETWORK = ("imagen_super_res_256_size_matched", "openmoji_base")


@pytest.fixture(params=thorough_except(OF_EACH_NETWORK, PRESETS), scope="module")
def preset(request):
    """Name, forward program and what is on file of one preset."""
    path = FOLDER / f"{request.param}.json"
    return request.param, forward_program(build_stage(make_config(request.param))), json.loads(path.read_text())


def test_parameters_are_those_on_file_and_what_the_name_says(preset):
    """`python -m tests.reference.make_counts` counts them again."""
    name, program, on_file = preset
    counts = count_parameters(program.arguments[0])
    assert on_file["parameters"] == {"total": total_of(counts), "by_part": counts}
    low, high = NAMED.get(name, (0, np.inf))
    assert low <= total_of(counts) / MILLION <= high


def test_operations_are_those_on_file_and_near_the_compilers(preset):
    _, program, on_file = preset
    forward, training = on_file["operations"]["forward"], on_file["operations"]["training"]
    assert forward["counted"] == count_operations(program.function, *program.arguments)
    for found in (forward, training):
        assert abs(found["compiled"] / found["counted"] - 1) < 0.05
    per_pixel = [found["counted"] / found["resolution"] ** 2 for found in (forward, training)]
    assert 2.7 < per_pixel[1] / per_pixel[0] < 3.05, "backward costs twice what forward does"


def make_middling():
    config = quickstart.get_config("super_resolution,smoke")
    config.network.update({"channels": (32, 64), "blocks": (1, 2), "strides": (2, 2), "self_attention": (False, True),
                           "cross_attention": (False, False), "text_channels": 64, "dtype": "bfloat16"})  # fmt: skip
    config.stage.update({"resolution": 64, "low_resolution": 16, "crop": 32})
    return config


@pytest.mark.thorough
def test_a_middling_network_is_counted_as_the_compiler_does():
    config = make_middling()
    title, *rows = format_operations(config, 2)
    assert title.split() == ["operations", "an", "image", "counted", "compiled", "ratio"]
    assert [row.split()[:4] for row in rows] == [["forward", "at", "64", "px"], ["training", "at", "32", "px"]]
    for row in rows:
        counted, compiled = (int(number.replace(",", "")) for number in row.split()[4:6])
        assert 1.0 <= compiled / counted < 1.05 and f"{compiled / counted:.3f}" == row.split()[6]
    assert config.network.dtype == "bfloat16", "the caller's config stays as it is"


@pytest.mark.thorough
def test_operations_grow_with_the_batch():
    config = make_middling()
    stage, training = build_stage(config), read_experiment(config).training
    programs = [training_program(stage, training, config.stage.crop, batch_size) for batch_size in (1, 3)]
    one, three = (count_operations(program.function, *program.arguments) for program in programs)
    assert three == 3 * one
