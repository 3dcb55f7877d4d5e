"""Checkpoints: what goes in comes out, on any mesh, and what does not fit is named."""

import gc
import os
import re
import resource
import shutil
import subprocess
import sys
from collections import namedtuple
from contextlib import contextmanager

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from imagen_jax.errors import UserError
from imagen_jax.sharding.mesh import make_mesh
from imagen_jax.sharding.placement import place_state
from imagen_jax.training.checkpoints import checksums
from imagen_jax.training.checkpoints import store as checkpoints
from imagen_jax.training.checkpoints.store import CheckpointStore
from imagen_jax.training.state import initial_state
from tests.tiers import thorough_except

OPTIMIZERS = {"adam": optax.adam(0.1), "adafactor": optax.adafactor(optax.cosine_decay_schedule(0.1, 10))}
DATA_STATE = {"batches_read": 7, "shuffle": True}


AXES = {"layer": {"kernel": ("channels", "hidden"), "bias": None}}


def make_state(optimizer, width=256):
    params = {"layer": {"kernel": jax.random.normal(jax.random.key(1), (256, width)), "bias": jnp.ones((width,))}}
    state = initial_state(params, optimizer, jax.random.key(5))
    grads = jax.tree.map(lambda leaf: 0.3 * leaf, params)
    _, opt_state = optimizer.update(grads, state.opt_state, params)
    return state._replace(opt_state=opt_state, ema_params=grads, step=jnp.asarray(3, jnp.int32))


def shapes_of(state, mesh=None):
    if mesh is None:
        return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), state)
    shapes = jax.eval_shape(lambda: state)
    return jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
        shapes,
        place_state(shapes, AXES, mesh),
    )


def assert_equal(one, other):
    one, other = one._replace(key=jax.random.key_data(one.key)), other._replace(key=jax.random.key_data(other.key))
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


def files_of(folder):
    return {path.relative_to(folder): path.stat().st_mtime_ns for path in folder.rglob("*")}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A folder with the checkpoints 1 and 2, for tests that only read it or copy it."""
    folder = tmp_path_factory.mktemp("run") / "checkpoints"
    with CheckpointStore(folder) as store:
        for step in (1, 2):
            store.save(step, make_state(OPTIMIZERS["adam"]), {"batches_read": step})
    return folder


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_checkpoint_comes_back_bit_for_bit_with_its_data_position(tmp_path, name):
    state = make_state(OPTIMIZERS[name])
    with CheckpointStore(tmp_path) as store:
        store.save(3, state, DATA_STATE)
    with CheckpointStore(tmp_path) as store:
        restored, data_state = store.restore(shapes_of(state))
    assert_equal(restored, state)
    assert data_state == DATA_STATE


@pytest.mark.parametrize("smallest_slice", thorough_except([1], [checkpoints.MIN_SLICE, 1]))
def test_a_checkpoint_comes_back_onto_another_mesh(tmp_path, smallest_slice, monkeypatch):
    """What several devices have is written by one of them, or each writes a slice of it."""
    monkeypatch.setattr(checkpoints, "MIN_SLICE", smallest_slice)
    # The fingerprint of the kernel is computed on the devices, and that of the bias by NumPy.
    monkeypatch.setattr(checksums, "SMALL", 1000)
    state = make_state(OPTIMIZERS["adam"])
    saved_on, read_on = make_mesh({"data": 2, "fsdp": 4}), make_mesh({"data": 4, "fsdp": 2})
    placed = jax.device_put(state, place_state(jax.eval_shape(lambda: state), AXES, saved_on))
    with CheckpointStore(tmp_path) as store:
        store.save(3, placed, DATA_STATE)
    with CheckpointStore(tmp_path) as store:
        restored, _ = store.restore(shapes_of(state, read_on))
    assert_equal(jax.device_get(restored), jax.device_get(state))
    assert {shard.data.shape for shard in restored.params["layer"]["kernel"].addressable_shards} == {(128, 256)}


def test_a_key_keeps_its_generator(tmp_path):
    state = make_state(OPTIMIZERS["adam"], width=2)._replace(key=jax.random.key(5, impl="rbg"))
    with CheckpointStore(tmp_path) as store:
        store.save(3, state, DATA_STATE)
        restored, _ = store.restore(shapes_of(state))
    assert jax.random.uniform(restored.key) == jax.random.uniform(jax.random.key(5, impl="rbg"))


def test_the_state_may_be_consumed_while_it_is_written(tmp_path):
    """The next step reuses the state's memory at once: what is written must be what was handed over."""
    state = make_state(OPTIMIZERS["adam"], width=4096)
    expected = jax.device_get(state.params)
    spoil = jax.jit(lambda state: jax.tree.map(lambda leaf: leaf * 0, state), donate_argnums=0)
    with CheckpointStore(tmp_path) as store:
        store.save(3, state, DATA_STATE)
        shapes = shapes_of(state)
        spoiled = spoil(state._replace(key=jnp.zeros(())))
        jax.block_until_ready(spoiled)
    with CheckpointStore(tmp_path) as store:
        restored, _ = store.restore(shapes)
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(restored.params), expected)


def test_the_newest_are_kept(tmp_path):
    state = make_state(OPTIMIZERS["adam"], width=2)
    with CheckpointStore(tmp_path, keep=2) as store:
        for step in (1, 2, 3):
            store.save(step, state, DATA_STATE)
        store.close()
        assert store.latest_step() == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["2", "3"]


def test_a_checkpoint_counts_when_all_of_it_is_written(tmp_path):
    state = make_state(OPTIMIZERS["adam"], width=4096)
    with CheckpointStore(tmp_path) as store:
        store.save(4, state, DATA_STATE)
        assert store.latest_step() is None, "written before save returned: it is not asynchronous"
        store.wait()
        assert store.latest_step() == 4
        with pytest.raises(ValueError, match="step 3"):
            store.save(3, state, DATA_STATE)


def test_any_kept_step_can_be_restored(saved):
    store, shapes = CheckpointStore(saved), shapes_of(make_state(OPTIMIZERS["adam"]))
    assert [store.restore(shapes, step)[1]["batches_read"] for step in (None, 1, 2)] == [2, 1, 2]
    assert store.restore_ema(shapes.ema_params, 1)[1] == 1
    with pytest.raises(UserError, match=r"step 3: .* 1, 2"):
        store.restore(shapes, 3)


def test_half_a_checkpoint_is_none(saved, tmp_path):
    """What an interrupted copy or removal leaves is not resumed from, and pushes no good checkpoint out."""
    folder = tmp_path / "checkpoints"
    shutil.copytree(saved, folder)
    shutil.copytree(folder / "2", folder / "5")
    (folder / "5" / "_CHECKPOINT_METADATA").unlink()
    shutil.copytree(folder / "2", folder / "6")
    shutil.rmtree(folder / "6" / "ema_params")
    shutil.copytree(folder / "2", folder / "3.orbax-checkpoint-tmp")
    (folder / "9").mkdir()
    (folder / "notes").mkdir()
    state = make_state(OPTIMIZERS["adam"])
    with CheckpointStore(folder) as store:
        assert store.latest_step() == 2
        assert store.restore(shapes_of(state))[1] == {"batches_read": 2}
        store.save(3, state, {"batches_read": 3})
    assert sorted(path.name for path in folder.iterdir()) == ["2", "3", "5.damaged", "6.damaged", "notes"]
    assert CheckpointStore(folder).restore(shapes_of(state))[1] == {"batches_read": 3}


def test_a_run_killed_while_writing_leaves_the_checkpoint_before(tmp_path):
    program = """
import os, sys, jax.numpy as jnp
from typing import NamedTuple
from imagen_jax.training.checkpoints.store import CheckpointStore

class State(NamedTuple):
    params: object
    ema_params: object

state = State(jnp.ones((4096, 4096)), jnp.ones((4096, 4096)))
store = CheckpointStore(sys.argv[1])
store.save(1, state, {})
store.close()
store.save(2, state, {})
os._exit(9)
"""
    killed = subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=False)
    assert killed.returncode == 9
    assert any(path.name.startswith("2") for path in tmp_path.iterdir()), "it was killed before it began to write"
    with CheckpointStore(tmp_path) as store:
        assert store.latest_step() == 1


def test_sampling_reads_the_average_alone(tmp_path):
    state = make_state(OPTIMIZERS["adam"])
    with CheckpointStore(tmp_path) as store:
        store.save(3, state, DATA_STATE)
    shutil.rmtree(tmp_path / "3" / "state")
    (tmp_path / "3" / "state").mkdir()
    with CheckpointStore(tmp_path) as store:
        average, step = store.restore_ema(jax.eval_shape(lambda: state.ema_params))
    jax.tree.map(np.testing.assert_array_equal, average, state.ema_params)
    assert step == 3


def test_reading_changes_nothing(saved):
    before = files_of(saved)
    with CheckpointStore(saved) as store:
        store.restore_ema(shapes_of(make_state(OPTIMIZERS["adam"])).ema_params)
    assert files_of(saved) == before


def test_the_average_may_be_read_in_another_precision_onto_a_mesh(saved):
    everywhere = NamedSharding(make_mesh({"data": 8}), PartitionSpec())
    expected = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), make_state(OPTIMIZERS["adam"]).ema_params)
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=everywhere), expected)
    average, _ = CheckpointStore(saved).restore_ema(shapes)
    jax.tree.map(np.testing.assert_array_equal, average, expected)
    assert average["layer"]["kernel"].sharding == everywhere


def test_no_checkpoint_is_a_sentence(tmp_path):
    with CheckpointStore(tmp_path / "none") as store:
        assert store.latest_step() is None
        with pytest.raises(UserError, match=r"imagen_jax\.train"):
            store.restore_ema({})
    assert not (tmp_path / "none").exists(), "looking makes no folder"


def test_a_misfit_names_the_parameter_and_both_shapes(tmp_path):
    with CheckpointStore(tmp_path) as store:
        store.save(3, make_state(OPTIMIZERS["adam"]), DATA_STATE)
    other = make_state(OPTIMIZERS["adam"], width=128)
    with CheckpointStore(tmp_path) as store, pytest.raises(UserError, match=r"layer/bias .*\(256,\).*\(128,\)"):
        store.restore(shapes_of(other))


@pytest.mark.parametrize(
    ("layers", "facts"),
    [
        ({"layer": {"kernel": (256, 256)}}, r"layer/bias .*\(256,\).* none "),
        (
            {"layer": {"kernel": (256, 256), "bias": (256,)}, "new": {"bias": (2,)}},
            r"new/bias .* none .*\(2,\)",
        ),
    ],
)
def test_a_parameter_too_few_or_too_many_is_named(saved, layers, facts):
    shapes = {
        layer: {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in parameters.items()}
        for layer, parameters in layers.items()
    }
    with pytest.raises(UserError, match=facts):
        CheckpointStore(saved).restore_ema(shapes)


def test_another_optimizer_or_generator_is_named(saved):
    store, state = CheckpointStore(saved), make_state(OPTIMIZERS["adam"])
    with pytest.raises(UserError, match=r"opt_state/0/mu/layer/bias .*\(256,\).* none "):
        store.restore(shapes_of(make_state(OPTIMIZERS["adafactor"])))
    with pytest.raises(UserError, match=r"key .*\(2,\).*\(4,\)"):
        store.restore(shapes_of(state._replace(key=jax.random.key(0, impl="rbg"))))


# Orbax leaves coroutines of the other arrays unawaited, and Python says so when it collects them: here, not later.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("part", ["state", "ema_params"])
def test_spoilt_numbers_are_a_sentence(saved, tmp_path, part):
    shutil.copytree(saved, tmp_path / "checkpoints")
    files = (tmp_path / "checkpoints" / "2" / part).rglob("*")
    os.truncate(max(files, key=lambda path: path.stat().st_size), 100)
    with pytest.raises(UserError, match=r"checkpoints/2: "):
        CheckpointStore(tmp_path / "checkpoints").restore(shapes_of(make_state(OPTIMIZERS["adam"])), step=2)
    gc.collect()


def test_a_full_disk_is_reported_before_writing_and_nothing_is_lost(tmp_path, monkeypatch):
    state = make_state(OPTIMIZERS["adam"])
    usage = namedtuple("usage", "total used free")
    with CheckpointStore(tmp_path) as store:
        store.save(3, state, DATA_STATE)
        monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10, 10, 1000))
        with pytest.raises(UserError, match=r" 1 MB.* 0 MB "):
            store.save(4, state, DATA_STATE)
    with CheckpointStore(tmp_path) as store:
        assert store.latest_step() == 3


@contextmanager
def largest_file(size):
    """Has the operating system refuse to write files larger than this, as a full disk would."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("keep", [1, 2])
def test_a_refusal_while_writing_is_a_sentence_and_nothing_is_lost(tmp_path, caplog, keep):
    state = make_state(OPTIMIZERS["adam"])
    with CheckpointStore(tmp_path, keep) as store:
        store.save(1, state, DATA_STATE)
    with largest_file(10_000):
        store.save(2, state, DATA_STATE)
        with pytest.raises(UserError, match=rf"{re.escape(str(tmp_path))} \(File too large\)"):
            store.close()
    assert caplog.records == [], "the sentence is all there is to read"
    with CheckpointStore(tmp_path, keep) as again:
        assert again.latest_step() == 1
        assert_equal(again.restore(shapes_of(state))[0], state)
        again.save(2, state, DATA_STATE)
    assert CheckpointStore(tmp_path).latest_step() == 2


def test_a_folder_that_cannot_be_made_is_a_sentence(tmp_path):
    (tmp_path / "run").touch()
    with CheckpointStore(tmp_path / "run" / "checkpoints") as store:
        with pytest.raises(UserError, match=r"run/checkpoints \(Not a directory\)"):
            store.save(1, make_state(OPTIMIZERS["adam"], width=2), DATA_STATE)
