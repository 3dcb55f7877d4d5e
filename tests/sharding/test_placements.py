"""Where each parameter, moment and average of every preset lies on 256 chips."""

import json

import jax
import numpy as np
import pytest

from imagen_jax.cascade.stage import build_stage, initial_params, parameter_axes
from imagen_jax.sharding.axes import unnamed_parameters
from imagen_jax.sharding.placement import path_of, place_state, rows_of_batches
from imagen_jax.training.optimizer import make_optimizer
from imagen_jax.training.state import initial_state
from tests.reference.make_counts import PRESETS, make_config
from tests.reference.make_placements import CHIPS, FOLDER, make_placements, mesh_of, trace
from tests.tiers import thorough_except

OF_EACH_KIND = ["imagen_base_64_300m", "imagen_super_res_256_as_printed"]


@pytest.mark.parametrize("preset", thorough_except(OF_EACH_KIND, PRESETS))
def test_parameters_lie_where_the_file_says(preset):
    on_file = json.loads((FOLDER / f"{preset}.json").read_text())
    assert make_placements(preset) == on_file


def test_a_file_for_each_preset_and_no_other():
    assert {path.stem for path in FOLDER.iterdir()} == set(PRESETS)


@pytest.mark.parametrize(
    "preset",
    [pytest.param("imagen_base_64_300m", marks=pytest.mark.thorough), "imagen_super_res_256_as_printed"],
)
def test_moments_and_averages_lie_with_their_parameters_and_a_chip_holds_its_share(preset):
    """By Adafactor and by Adam; what is no parameter's equal is small. With one block a level, to trace fewer."""
    config = make_config(preset)
    if "blocks" in config.network:
        config.network.blocks = (1,) * len(config.network.blocks)
    else:
        config.network.blocks_per_level = 1
    stage, mesh = build_stage(config), mesh_of(config, CHIPS)
    optimizer = make_optimizer(**config.optimizer.to_dict())
    state = jax.eval_shape(
        lambda: initial_state(initial_params(stage, jax.random.key(0)), optimizer, jax.random.key(1))
    )
    placed = place_state(state, parameter_axes(stage), mesh)
    params = {path_of(path): leaf for path, leaf in jax.tree_util.tree_flatten_with_path(placed.params)[0]}
    shapes = dict(zip(params, (leaf.shape for leaf in jax.tree.leaves(state.params)), strict=True))
    assert jax.tree.leaves(placed.ema_params) == list(params.values())

    whole, equals = 0, 0
    leaves = zip(
        jax.tree_util.tree_flatten_with_path(state.opt_state)[0], jax.tree.leaves(placed.opt_state), strict=True
    )
    for (path, array), sharding in leaves:
        # Of two paths that end alike, as "out/kernel" and "attention/out/kernel", the whole one.
        parameter = max((name for name in params if path_of(path)[-len(name) :] == name), key=len, default=None)
        if parameter is not None and array.shape == shapes[parameter]:
            assert sharding == params[parameter], path
            equals += 1
        else:
            assert sharding.is_fully_replicated
            whole += array.size
    total = sum(np.prod(shape) for shape in shapes.values())
    assert equals >= len(params) / 2 and whole < total / 50

    held = sum(np.prod(params[name].shard_shape(shape)) for name, shape in shapes.items())
    assert held < total / config.mesh.fsdp * 1.1, "next to nothing is whole on each chip"


def test_the_step_and_the_key_are_whole():
    config = make_config("imagen_base_64_300m")
    stage = build_stage(config)
    state = jax.eval_shape(lambda: {"step": jax.numpy.zeros((), int), "key": jax.random.key(0)})
    placed = place_state(state, parameter_axes(stage), mesh_of(config, CHIPS))
    assert all(sharding.is_fully_replicated for sharding in placed.values())


@pytest.mark.parametrize("preset", thorough_except(OF_EACH_KIND, PRESETS))
def test_every_network_names_the_axes_of_its_kernels(preset):
    """The names come with the layer."""
    _, params, axes = trace(preset)
    assert unnamed_parameters(axes) == []
    named = jax.tree.map(lambda array, names: (array.ndim, names), params, axes, is_leaf=lambda x: x is None)
    for ndim, names in jax.tree.leaves(named, is_leaf=lambda x: isinstance(x, tuple)):
        assert names is None or len(names) == ndim


def test_the_last_batch_is_filled_with_the_first_examples():
    assert [rows.tolist() for rows in rows_of_batches(7, 3)] == [[0, 1, 2], [3, 4, 5], [6, 0, 1]]
    assert [rows.tolist() for rows in rows_of_batches(2, 5)] == [[0, 1, 0, 1, 0]]
    assert not list(rows_of_batches(0, 4))
