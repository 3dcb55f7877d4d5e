"""What a machine lacks is a sentence that says what mends it, with the status that tells whether to try again."""

import os
import subprocess
import sys
import tempfile
import threading

import jax
import numpy as np
import pytest
from jax.errors import JaxRuntimeError

from imagen_jax.runtime import main
from imagen_jax.runtime.machine_errors import explain_missing_resource
from tests.tiers import named_cases


def raise_threads(*_, **__):
    raise RuntimeError("can't start new thread")


def raise_no_temporary_folder():
    raise FileNotFoundError(2, "No usable temporary directory found in ['/tmp']")


def take_too_much_memory():
    np.empty(2**60, np.uint8)


def raise_out_of_device_memory():
    raise JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 9 bytes.\nmore\nlines")


def find_no_home():
    raise RuntimeError("Could not determine home directory.")


LACKS = {
    "threads": (raise_threads, 74, ("no more threads", "ulimit -u")),
    "memory": (take_too_much_memory, 2, ("memory is used up", "Unable to allocate", "batch size")),
    "a device's memory": (raise_out_of_device_memory, 2, ("a device's memory is used up", "batch size")),
    "a folder for temporary files": (raise_no_temporary_folder, 2, ("TMPDIR",)),
    "a home folder": (find_no_home, 2, ("HOME",)),
}


@pytest.mark.parametrize(("lack", "status", "words"), LACKS.values(), ids=LACKS)
def test_a_lack_is_a_sentence_and_a_status(lack, status, words, capsys):
    with pytest.raises(SystemExit) as ended:
        main.run_guarded(lack, "")
    told = capsys.readouterr().err.splitlines()
    assert ended.value.code == status and len(told) == 1 and all(word in told[0] for word in ("error: ", *words))


@pytest.fixture(autouse=True)
def flags_are_parsed():
    if not main.flags.FLAGS.is_parsed():
        # Other files of a worker may have imported commands, whose flags are required.
        main.flags.FLAGS.mark_as_parsed()


@pytest.mark.parametrize(
    "error",
    [AssertionError(), AssertionError("odd"), RuntimeError("odd"), ValueError("odd"), FileNotFoundError(2, "x")],
)
def test_a_defect_of_ours_is_none(error):
    assert explain_missing_resource(error) is None


def test_a_thread_that_python_can_not_start_says_so(monkeypatch):
    """The words that Python says it with, on this machine."""
    with monkeypatch.context() as patch:
        # Of Python 3.13 on, and before.
        name = "_start_joinable_thread" if hasattr(threading, "_start_joinable_thread") else "_start_new_thread"
        patch.setattr(threading, name, raise_threads)
        with pytest.raises(RuntimeError) as raised:
            threading.Thread(target=print).start()
    assert explain_missing_resource(raised.value) is not None


def test_what_python_says_where_no_temporary_folder_is_usable(monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: ["/nowhere"])
    with pytest.raises(FileNotFoundError) as raised:
        tempfile.gettempdir()
    assert "TMPDIR" in str(explain_missing_resource(raised.value))


@pytest.mark.parametrize("others", [False, True])
@pytest.mark.parametrize(
    ("named", "error"),
    [
        ("cuda", AssertionError()),
        ("foo", RuntimeError("Unable to initialize backend 'foo': no such thing (set JAX_PLATFORMS='' to choose)")),
    ],
)
def test_a_platform_that_is_missing_is_named(named, error, others, monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", named)
    monkeypatch.setattr("imagen_jax.runtime.machine_errors.find_reason", lambda: "" if others else "no plugin")
    monkeypatch.setattr("imagen_jax.runtime.machine_errors.list_platforms", lambda: "cpu")
    before = jax.config.values["jax_platforms"]
    jax.config.update("jax_platforms", named)
    try:
        lack = explain_missing_resource(error, others)
    finally:
        jax.config.update("jax_platforms", before)
    if isinstance(error, AssertionError) and others:
        # Nothing may be asked of devices that others would have to answer for.
        assert lack is None
    else:
        assert f"JAX_PLATFORMS={named} names a platform" in str(lack) and "cpu" in str(lack)


def run(*command, prefix=(), **variables):
    environment = {**os.environ, "PYTHONPATH": os.getcwd(), "IMAGEN_JAX_NO_CACHE": "1", **variables}
    command = [*prefix, sys.executable, "-m", *command]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


@pytest.mark.thorough
@pytest.mark.parametrize("platform", ["cuda", "CPU", "foo,cpu"])
def test_a_command_ends_with_status_2_where_the_platform_is_missing(platform):
    """So that launch/supervise.sh does not run it again."""
    finished = run("imagen_jax.commands.count", "--config=configs/quickstart.py:base,smoke", JAX_PLATFORMS=platform)
    assert finished.returncode == 2 and "Traceback" not in finished.stderr, finished.stderr
    # Where libtpu is installed, it writes lines of its own first.
    line = finished.stderr.splitlines()[-1]
    assert f"JAX_PLATFORMS={platform}" in line and "set it to cpu" in line


def test_a_training_on_a_missing_platform_leaves_no_workdir_that_refuses_the_next(tmp_path):
    arguments = ("--config=configs/own_images.py:base,smoke", f"--config.data.options.folder={tmp_path}")
    finished = run("imagen_jax.train", *arguments, f"--workdir={tmp_path / 'run'}", JAX_PLATFORMS="cuda")
    assert finished.returncode == 2 and "Traceback" not in finished.stderr, finished.stderr
    assert not (tmp_path / "run" / "config.json").exists()


ODD = {
    "no home": {"HOME": "", "XDG_CACHE_HOME": ""},
    "a home that is not there": {"HOME": "/nowhere"},
    "an unknown language": {"LANG": "xx_YY.foo", "LC_ALL": "xx_YY.foo"},
    "ASCII alone": {"PYTHONIOENCODING": "ascii", "LC_ALL": "C"},
    "no folder for temporary files": {"TMPDIR": "/nowhere"},
}


@pytest.mark.parametrize("variables", named_cases(ODD, kept=1))
def test_odd_surroundings_change_no_sentence(variables, tmp_path):
    finished = run("imagen_jax.sample", f"--out={tmp_path / 'ö'}", "--prompt=ö", "--stages=nowhere", **variables)
    assert finished.returncode == 2 and "nowhere" in finished.stderr, finished.stderr
    assert len(finished.stderr.splitlines()) == 1
