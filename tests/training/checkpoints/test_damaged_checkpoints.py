"""Checkpoints that are not as they were written: each is found, named, and the one before it is used."""

import errno
import gc
import json
import os
import re
import shutil
import zipfile
from collections import namedtuple
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from aiohttp import ClientConnectorError
from aiohttp.client_reqrep import ConnectionKey
from jax.errors import JaxRuntimeError
from orbax.checkpoint import v1 as ocp

from imagen_jax.errors import ForNowError, UserError
from imagen_jax.training.checkpoints import folder as checkpoint_files
from imagen_jax.training.checkpoints import reading
from imagen_jax.training.checkpoints.checksums import numbers_of
from imagen_jax.training.checkpoints.metadata import FORMAT, read_record
from imagen_jax.training.checkpoints.store import CheckpointStore
from imagen_jax.training.state import initial_state
from tests.reference import make_checkpoint_of_format_1
from tests.tiers import thorough_except

# Orbax leaves coroutines of the other arrays unawaited, and Python says so when it collects them: here, not later.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

OPTIMIZER = optax.adam(0.1)


@pytest.fixture(autouse=True)
def collected():
    yield
    gc.collect()


def make_state(number):
    """Random numbers, so that what is cut short can't be packed away."""
    kernel = jax.random.normal(jax.random.key(number), (16, 12))
    state = initial_state({"kernel": kernel, "bias": jnp.ones(3, jnp.bfloat16)}, OPTIMIZER, jax.random.key(number))
    return state._replace(step=jnp.asarray(number, jnp.int32), ema_params=state.params | {"kernel": kernel + 1})


def shapes():
    return reading.place_here(jax.eval_shape(lambda: make_state(0)))


def plain(tree):
    return [np.asarray(numbers_of(leaf)).tobytes() for leaf in jax.tree.leaves(tree)]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A folder with the checkpoints 1 and 2, to copy."""
    folder = tmp_path_factory.mktemp("run") / "checkpoints"
    with CheckpointStore(folder) as store:
        for step in (1, 2):
            store.save(step, make_state(step), {"batches_read": step})
    return folder


@pytest.fixture
def copied(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "checkpoints")


def files_of(folder):
    return {path.relative_to(folder): path.stat().st_mtime_ns for path in folder.rglob("*")}


def flip_a_byte(file):
    content = bytearray(file.read_bytes())
    if content:
        content[len(content) // 2] ^= 0x04
    file.write_bytes(content)


HARMS = {
    "deleted": lambda file: file.unlink(),
    "cut short": lambda file: os.truncate(file, file.stat().st_size // 2),
    "emptied": lambda file: os.truncate(file, 0),
    "a byte changed": flip_a_byte,
}


@pytest.mark.parametrize("harm", thorough_except(("a byte changed",), HARMS))
def test_whichever_file_is_harmed_what_is_read_is_what_was_written(saved, tmp_path, capsys, harm):
    """Some files are never read; damage to all others is reported, and the state is that of the step before."""
    expected, used = {step: plain(make_state(step)) for step in (1, 2)}, {1: [], 2: []}
    files = sorted(path.relative_to(saved) for path in (saved / "2").rglob("*") if path.is_file())
    for number, file in enumerate(files):
        folder = shutil.copytree(saved, tmp_path / str(number))
        HARMS[harm](folder / file)
        state, data_state = CheckpointStore(folder).restore(shapes())
        step = data_state["batches_read"]
        assert plain(state) == expected[step], file
        printed, names = capsys.readouterr().err, sorted(path.name for path in folder.iterdir())
        if step == 1:
            assert f"{folder / '2'} " in printed, (file, printed)
            assert re.search(r"2\.damaged.* step 1", printed) and names == ["1", "2.damaged"], file
        else:
            assert "warning" not in printed and names == ["1", "2"], file
        used[step].append(str(file))
    # A byte of a list of the arrays may be one that nothing asks for.
    assert {"2/_CHECKPOINT_METADATA", "2/state/manifest.ocdbt", "2/ema_params/manifest.ocdbt"} <= {*used[1]}, used
    assert not any("/d/" in name and "process_0" not in name for name in used[2]), used


def test_half_of_the_files_are_deleted_and_the_run_continues_and_writes_that_step_again(copied, capsys):
    for file in [path for path in sorted((copied / "2").rglob("*")) if path.is_file()][::2]:
        file.unlink()
    with CheckpointStore(copied) as store:
        state, data_state = store.restore(shapes())
        assert data_state == {"batches_read": 1} and plain(state) == plain(make_state(1))
        store.save(2, make_state(2), {"batches_read": 2})
    assert f"{copied / '2'} " in capsys.readouterr().err
    assert sorted(path.name for path in copied.iterdir()) == ["1", "2", "2.damaged"]
    assert plain(CheckpointStore(copied).restore(shapes())[0]) == plain(make_state(2))
    # Once more, to a second one.
    (copied / "2" / "_CHECKPOINT_METADATA").unlink()
    CheckpointStore(copied).restore(shapes())
    assert sorted(path.name for path in copied.iterdir()) == ["1", "2.damaged", "2.damaged-2"]


def test_only_the_last_that_were_set_aside_are_kept(copied, monkeypatch, capsys):
    """Removed in the order of their steps, but never the one that is set aside just now; and named when room lacks."""
    for name in ("2.damaged", "3.damaged", "3.damaged-2"):
        shutil.copytree(copied / "1", copied / name)
    (copied / "2" / "_CHECKPOINT_METADATA").unlink()
    with CheckpointStore(copied) as store:
        store.restore(shapes())
        assert sorted(path.name for path in copied.iterdir()) == ["1", "2.damaged-2", "3.damaged-2"]
        printed = capsys.readouterr().err.splitlines()
        for name in ("2.damaged", "3.damaged"):
            assert any(line.startswith(f"warning: {copied / name} ") for line in printed)
        usage = namedtuple("usage", "total used free")
        monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10, 10, 10))
        with pytest.raises(UserError, match=r"2\.damaged-2, 3\.damaged-2"):
            store.save(3, make_state(3), {})


@pytest.mark.parametrize("part", ["state", "ema_params"])
def test_numbers_that_only_the_fingerprints_detect(copied, capsys, part):
    """A part of another checkpoint reads without an error, and is none of this one."""
    shutil.rmtree(copied / "2" / part)
    shutil.copytree(copied / "1" / part, copied / "2" / part)
    assert CheckpointStore(copied).restore(shapes())[1] == {"batches_read": 1}
    assert f"{copied / '2'} " in capsys.readouterr().err


def test_a_position_in_the_data_that_was_changed_is_damage(copied, capsys):
    file = copied / "2" / "_CHECKPOINT_METADATA"
    file.write_text(file.read_text().replace('"batches_read": 2', '"batches_read": 3'))
    assert CheckpointStore(copied).restore(shapes())[1] == {"batches_read": 1}
    assert f"{copied / '2'} " in capsys.readouterr().err


def test_sampling_takes_the_one_before_and_changes_nothing(copied, capsys):
    flip_a_byte(max((copied / "2" / "ema_params" / "d").iterdir(), key=lambda path: path.stat().st_size))
    before = files_of(copied)
    params, step = CheckpointStore(copied).restore_ema(shapes().ema_params)
    assert step == 1 and plain(params) == plain(make_state(1).ema_params)
    assert re.search(rf"{re.escape(str(copied / '2'))} .* step 1", capsys.readouterr().err)
    assert files_of(copied) == before
    with pytest.raises(UserError, match=r"step 2: .*\b1\b"):
        CheckpointStore(copied).restore_ema(shapes().ema_params, step=2)
    with pytest.raises(UserError, match=r"step 2: .*\b1\b"):
        CheckpointStore(copied).restore(shapes(), step=2)
    assert files_of(copied) == before


def test_without_a_complete_one_nothing_restarts(copied):
    """The second time as well: what is set aside does not count, so all stay where they are."""
    for step in "12":
        os.truncate(copied / step / "state" / "manifest.ocdbt", 20)
    for _ in range(2):
        with pytest.raises(UserError, match=r"\(2: .*; 1: "):
            CheckpointStore(copied).restore(shapes())
    for step in "12":
        (copied / step / "_CHECKPOINT_METADATA").unlink()
    with pytest.raises(UserError, match=r"\(2: _CHECKPOINT_METADATA .*; 1: "):
        CheckpointStore(copied).latest_step()
    assert sorted(path.name for path in copied.iterdir()) == ["1", "2"]


def test_a_misfit_is_no_damage(copied, capsys):
    other = shapes()._replace(params={"kernel": jax.ShapeDtypeStruct((2, 2), jnp.float32)})
    with pytest.raises(UserError, match=re.escape(str(copied))):
        CheckpointStore(copied).restore(other)
    assert sorted(path.name for path in copied.iterdir()) == ["1", "2"] and not capsys.readouterr().err


def wrapped(cause):
    """An error as Orbax raises it."""
    try:
        raise cause
    except type(cause) as error:
        wrapper = KeyError("incompatible handler")
        wrapper.__cause__ = error
        return wrapper


CONNECTION = ConnectionKey("storage.googleapis.com", 443, True, True, None, None, None)

DENIED = {
    "a folder": PermissionError(errno.EACCES, "Permission denied"),
    "a file": ValueError("PERMISSION_DENIED: Error opening [os_error_code='13']"),
    "a bucket": OSError("Forbidden: b/bucket/o/2"),
}
REFUSED = {
    "a network's disk": OSError(errno.EIO, "Input/output error"),
    "a disk that is not mounted yet": OSError(errno.ENOTCONN, "Transport endpoint is not connected"),
    "a server that restarts": ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused"),
    "tensorstore's disk": ValueError("UNKNOWN: Error reading [os_error_code='5'] [source locations='…']"),
    "the network": ValueError("UNAVAILABLE: CURL error"),
    "aiohttp": ClientConnectorError(CONNECTION, OSError(errno.EHOSTUNREACH, "No route to host")),
    "aiohttp without a number": ClientConnectorError(CONNECTION, OSError(None, "Temporary failure in name resolution")),
    "gcsfs": OSError("Gateway has gone away"),
}


@pytest.mark.parametrize("name", [*DENIED, *REFUSED])
def test_what_may_not_be_read_now_is_no_damage(copied, monkeypatch, capsys, name):
    def refuse(*_):
        raise wrapped({**DENIED, **REFUSED}[name])

    for where, what in ((ocp, "load_checkpointables"), (reading, "read_json")):
        with monkeypatch.context() as patch:
            patch.setattr(where, what, refuse)
            with pytest.raises(UserError, match=r"checkpoints/2 ") as stop:
                CheckpointStore(copied).restore(shapes())
            assert isinstance(stop.value, ForNowError) == (name in REFUSED)
    assert sorted(path.name for path in copied.iterdir()) == ["1", "2"] and not capsys.readouterr().err


@pytest.mark.parametrize(
    "error",
    [FileNotFoundError("b/bucket/o/2"), OSError(errno.ENOENT, "gone"), ValueError("NOT_FOUND: 2")],
)
def test_what_is_missing_is_damage(copied, monkeypatch, error):
    def fail(path, parts):
        if path.name == "2":
            raise wrapped(error)
        return load(path, parts)

    load = ocp.load_checkpointables
    monkeypatch.setattr(ocp, "load_checkpointables", fail)
    assert CheckpointStore(copied).restore(shapes())[1] == {"batches_read": 1}


def test_a_device_without_memory_is_no_damage(copied, monkeypatch):
    def fail(*_):
        raise wrapped(JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory"))

    monkeypatch.setattr(ocp, "load_checkpointables", fail)
    with pytest.raises(KeyError):
        CheckpointStore(copied).restore(shapes())
    assert sorted(path.name for path in copied.iterdir()) == ["1", "2"]


def test_one_that_training_deletes_while_it_is_read_is_passed_over_in_silence(copied, monkeypatch, capsys):
    read_parts = reading.read_parts

    def delete_and_read(path, wanted):
        if path.name == "2":
            shutil.rmtree(path)
        return read_parts(path, wanted)

    monkeypatch.setattr(reading, "read_parts", delete_and_read)
    assert CheckpointStore(copied).restore_ema(shapes().ema_params)[1] == 1
    assert not capsys.readouterr().err


def test_a_newer_format_is_refused(copied, capsys):
    file = copied / "2" / "_CHECKPOINT_METADATA"
    content = json.loads(file.read_text())
    assert content["custom_metadata"]["format"] == FORMAT
    content["custom_metadata"]["format"] = FORMAT + 1
    file.write_text(json.dumps(content))
    for read in (lambda store: store.restore(shapes()), lambda store: store.restore_ema(shapes().ema_params)):
        with pytest.raises(UserError, match=rf"format {FORMAT + 1}\b"):
            read(CheckpointStore(copied))
    assert sorted(path.name for path in copied.iterdir()) == ["1", "2"] and not capsys.readouterr().err


def test_a_checkpoint_of_format_1_is_read_and_continued(tmp_path):
    with zipfile.ZipFile(Path(__file__).parents[2] / "golden" / "checkpoint_format_1.zip") as archive:
        archive.extractall(tmp_path)
    written = json.loads((tmp_path / "7" / "_CHECKPOINT_METADATA").read_text())["custom_metadata"]
    assert written == {"data_state": make_checkpoint_of_format_1.DATA_STATE}
    expected = make_checkpoint_of_format_1.make_state()
    wanted = reading.place_here(jax.eval_shape(lambda: expected))
    with CheckpointStore(tmp_path) as store:
        state, data_state = store.restore(wanted)
        assert plain(state) == plain(expected) and data_state == make_checkpoint_of_format_1.DATA_STATE
        assert plain(store.restore_ema(wanted.ema_params)[0]) == plain(expected.ema_params)
        store.save(8, state, data_state)
    assert plain(CheckpointStore(tmp_path).restore(wanted)[0]) == plain(expected)
    record = json.loads((tmp_path / "8" / "_CHECKPOINT_METADATA").read_text())["custom_metadata"]
    assert record["format"] == 2 and read_record(record, tmp_path / "8").fingerprints["ema_params"].keys() == {
        "layer/kernel", "layer/bias"
    }  # fmt: skip
    # The error for another network is that of newer formats.
    with pytest.raises(UserError, match=r"layer/bias .*\(5,\).* none "):
        CheckpointStore(tmp_path).restore_ema({"layer": {"kernel": wanted.ema_params["layer"]["kernel"]}}, step=7)


def test_a_whole_state_comes_back_in_another_precision(copied):
    """It is looked at as it was written, before it is cast."""

    def halve(leaf):
        is_float = not reading.is_key(leaf) and leaf.dtype == jnp.float32
        return jax.ShapeDtypeStruct(leaf.shape, jnp.bfloat16, sharding=leaf.sharding) if is_float else leaf

    expected = make_state(2)
    state, _ = CheckpointStore(copied).restore(jax.tree.map(halve, shapes()))
    for read, wanted in zip(jax.tree.leaves(state), jax.tree.leaves(expected), strict=True):
        if not reading.is_key(read):
            dtype = jnp.bfloat16 if wanted.dtype == jnp.float32 else wanted.dtype
            assert read.dtype == dtype
            np.testing.assert_array_equal(np.asarray(read), np.asarray(wanted.astype(dtype)))


def test_milestones_are_kept_beside_the_newest(tmp_path):
    """The first at or after each multiple, for one that could not be written at it comes a little later."""
    state = make_state(1)
    for steps in ((1, 2, 4, 5), (7, 8, 9, 10)):
        with CheckpointStore(tmp_path, keep=2, keep_every=3) as store:
            for step in steps:
                store.save(step, state, {})
    assert sorted(int(path.name) for path in tmp_path.iterdir()) == [4, 7, 9, 10]


def test_what_does_not_count_pushes_out_nothing_and_stays_while_it_is_the_newest(tmp_path):
    state, bad = make_state(1), set()
    with CheckpointStore(tmp_path, keep=2, keep_every=4) as store:
        store.count_only(lambda step: step not in bad)
        for step, left in ((1, [1]), (2, [1, 2]), (3, [1, 2, 3]), (4, [1, 2, 4]), (5, [2, 5])):
            bad |= {step} & {3, 4}
            store.save(step, state, {})
            store.wait()
            assert sorted(int(path.name) for path in tmp_path.iterdir()) == left


@pytest.mark.parametrize(
    ("settings", "fact"),
    [({"keep": 0}, "keep_checkpoints=0"), ({"keep": -1}, "keep_checkpoints=-1"), ({"keep_every": -5}, "keep_every=-5")],
)
def test_to_keep_none_is_refused(tmp_path, settings, fact):
    with pytest.raises(UserError, match=rf"config\.training\.{fact} "):
        CheckpointStore(tmp_path, **settings)


def test_processes_look_until_all_see_the_same_checkpoint(copied, monkeypatch):
    """The other one's disk shows it late; and where it never does, it is worth another try."""
    others = iter([1, -1, 2])
    monkeypatch.setattr(checkpoint_files, "gather", lambda number: [number, next(others, 1)])
    monkeypatch.setattr(checkpoint_files, "SECONDS_BETWEEN_LOOKS", 0.01)
    assert CheckpointStore(copied).latest_step_of_all() == 2
    with pytest.raises(ForNowError, match=r"process 0 .*\b2\b.* process 1 .*\b1\b"):
        CheckpointStore(copied).latest_step_of_all()


def test_alone_the_latest_of_all_is_the_latest(copied):
    assert CheckpointStore(copied).latest_step_of_all() == 2
    assert CheckpointStore(copied).latest_step_of_all(lambda step: step < 2) == 1
    assert CheckpointStore(copied).latest_step_of_all(lambda step: step < 1) is None
    assert CheckpointStore(copied / "none").latest_step_of_all() is None
    for step in "12":
        (copied / step / "_CHECKPOINT_METADATA").unlink()
    with pytest.raises(UserError, match=re.escape(str(copied))):
        CheckpointStore(copied).latest_step_of_all()
