"""``copy_configs``: the copies train as the bundled configs do, and a changed file is never overwritten."""

import shutil
from pathlib import Path

import pytest

from imagen_jax.runtime.config_files import find_bundled_configs, load_config
from imagen_jax.runtime.exit_status import ExitStatus
from tests.forked_programs import run_forked

COPY = "imagen_jax.commands.copy_configs"


@pytest.fixture
def copies(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = run_forked(COPY, "--out=mine")
    assert done.returncode == ExitStatus.DONE, done.stderr
    assert "--config=mine/own_images.py:base" in done.stdout
    return tmp_path / "mine"


def test_each_copy_is_the_same_config_and_can_be_changed(copies):
    for name in find_bundled_configs():
        assert load_config(copies / f"{name}.py").to_dict() == load_config(name).to_dict()
    shutil.copy(copies / "own_images.py", copies / "changed.py")
    common = copies / "quickstart.py"
    common.write_text(common.read_text().replace('"batch_size": 64', '"batch_size": 5'))
    assert load_config("mine/changed.py:base").training.batch_size == 5


def test_a_changed_file_stays(copies):
    (copies / "quickstart.py").write_text("changed")
    (copies / "base.py").unlink()
    done = run_forked(COPY, "--out=mine")
    assert done.returncode == ExitStatus.USER_ERROR and str(Path("mine", "quickstart.py")) in done.stderr
    assert (copies / "quickstart.py").read_text() == "changed" and not (copies / "base.py").exists()


def test_the_same_command_again_changes_nothing(copies):
    before = {file: file.stat().st_size for file in copies.rglob("*.py")}
    done = run_forked(COPY, "--out=mine")
    assert done.returncode == ExitStatus.DONE and done.stdout.count(str(len(before))) == 2, "all were there"
    assert {file: file.stat().st_size for file in copies.rglob("*.py")} == before


def test_a_bucket_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = run_forked(COPY, "--out=gs:" + "//bucket/configs")
    assert done.returncode == ExitStatus.USER_ERROR and "--out" in done.stderr
