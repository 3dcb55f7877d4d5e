"""Saving while training: a write that fails is reported and tried again, and only at the end is it an error."""

import errno
import re
import shutil
from collections import namedtuple

import jax
import jax.numpy as jnp
import optax
import pytest

from imagen_jax.errors import UserError
from imagen_jax.training.checkpoints import store as checkpoints
from imagen_jax.training.checkpoints.saving import Saving
from imagen_jax.training.checkpoints.store import CheckpointStore
from imagen_jax.training.loop import LoopClock, StepInfo
from imagen_jax.training.state import initial_state
from tests.training.checkpoints.test_store import largest_file

usage = namedtuple("usage", "total used free")


def info(number):
    params = {"kernel": jax.random.normal(jax.random.key(number), (128, 128))}
    state = initial_state(params, optax.sgd(0.1), jax.random.key(0))._replace(step=jnp.asarray(number, jnp.int32))
    return StepInfo(state, {}, {"batches_read": number}, LoopClock())


def run(store, first, last, every, steps, harms=()):
    """Loops as ``run_loop`` would; harms are done before the hook of a step, by its number."""
    hook = Saving(store, every, steps).hook()
    assert (hook.name, hook.every) == ("checkpoint", 1)
    harms = dict(harms)
    for number in range(first, last + 1):
        harms.get(number, lambda: None)()
        hook.act(number, info(number))


def steps_in(folder):
    return sorted(int(path.name) for path in folder.iterdir() if path.name.isdecimal())


def test_it_saves_every_so_often_and_at_the_end(tmp_path):
    with CheckpointStore(tmp_path, keep=9) as store:
        run(store, 1, 11, every=4, steps=11)
    assert steps_in(tmp_path) == [4, 8, 11]


def test_a_full_disk_is_reported_each_time_and_tried_again_until_there_is_room(tmp_path, monkeypatch, capsys):
    real = shutil.disk_usage
    room = {20: lambda: monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10, 10, 1000)),
            23: lambda: monkeypatch.setattr(shutil, "disk_usage", real)}  # fmt: skip
    with CheckpointStore(tmp_path, keep=9) as store:
        run(store, 1, 40, every=20, steps=40, harms=room)
    lines = capsys.readouterr().err.splitlines()
    assert [line.rpartition(" step ")[2] for line in lines] == ["22", "24"]
    assert all(line.startswith("warning: ") and " MB " in line for line in lines)
    assert steps_in(tmp_path) == [24, 40]


def test_a_write_that_fails_in_the_background_is_detected_soon_and_leaves_the_one_before(tmp_path, capsys):
    with CheckpointStore(tmp_path, keep=1) as store:
        run(store, 1, 20, every=20, steps=1000)
        store.wait()
        hook = Saving(store, 20, 1000).hook()
        with largest_file(5_000):
            hook.act(40, info(40))
            while not (printed := capsys.readouterr().err):
                hook.act(41, info(41))
            assert "File too large" in printed and "step 43" in printed
            assert steps_in(tmp_path) == [20]
        hook.act(42, info(42))
        assert store.latest_step() == 20
        hook.act(43, info(43))
    assert steps_in(tmp_path) == [43], "what the failed one left is gone too"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["43"]
    assert not capsys.readouterr().err


def test_the_last_step_that_cannot_be_saved_is_an_error(tmp_path, monkeypatch, capsys):
    with CheckpointStore(tmp_path) as store:
        run(store, 1, 4, every=4, steps=8)
        store.wait()
        monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10, 10, 1000))
        with pytest.raises(UserError, match=" MB "):
            run(store, 5, 8, every=4, steps=8)
    assert steps_in(tmp_path) == [4]
    monkeypatch.undo()
    with pytest.raises(UserError, match="File too large"):
        with largest_file(5_000), CheckpointStore(tmp_path) as store:
            run(store, 5, 8, every=4, steps=8)
    assert steps_in(tmp_path) == [4]
    assert not capsys.readouterr().err


def test_a_write_that_failed_before_the_last_step_is_reported_and_the_last_is_saved(tmp_path, capsys):
    with CheckpointStore(tmp_path) as store:
        with largest_file(5_000):
            store.save(4, info(4).state, {})
            # It has failed, and its result was not requested yet.
            assert store._writing._thread_runner._future.exception(timeout=30)
        run(store, 5, 5, every=4, steps=5)
    assert "File too large" in capsys.readouterr().err
    assert steps_in(tmp_path) == [5]


@pytest.mark.parametrize(("number", "for_now"), [(errno.EIO, True), (errno.ESTALE, True), (errno.ENOSPC, False)])
def test_a_disk_that_refuses_for_now_is_worth_another_try(tmp_path, monkeypatch, number, for_now):
    """At the last step, when training itself can't try again."""

    def fail(folder, parts):
        raise OSError(number, "as if")

    monkeypatch.setattr(checkpoints, "lack_of_room", fail)
    with CheckpointStore(tmp_path) as store, pytest.raises(UserError, match=re.escape(str(tmp_path))) as stop:
        run(store, 8, 8, every=4, steps=8)
    assert stop.value.for_now == for_now


@pytest.mark.parametrize("every", [0, -4])
def test_to_save_never_is_refused(tmp_path, every):
    with pytest.raises(UserError, match=rf"checkpoint_every={every}\b"):
        Saving(CheckpointStore(tmp_path), every, 8)
