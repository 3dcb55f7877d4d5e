"""The commands that import and export a CLIP, and the flags that have no effect on one."""

import json
import subprocess
import sys

import pytest

from imagen_jax.weight_formats.clip import import_clip
from tests.reference.clip_folders import write_clip_file, write_vocabulary


def run(main, *flags):
    command = [sys.executable, "-m", f"imagen_jax.{main}", *flags]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.slow
@pytest.mark.thorough
def test_a_file_of_openai_becomes_a_folder_of_open_clip(tmp_path):
    source, own, out = write_clip_file(tmp_path / "openai"), tmp_path / "own", tmp_path / "out"
    done = run("import_weights", "--format=clip", f"--source={source}", f"--out={own}")
    assert done.returncode == 0, done.stderr
    done = run("export_weights", f"--workdir={own}", f"--out={out}", "--format=open_clip", "--dtype=bfloat16")
    assert done.returncode == 0, done.stderr
    assert json.loads((out / "open_clip_config.json").read_text())["model_cfg"]["quick_gelu"] is True
    found, expected = import_clip(str(out)), import_clip(str(source))
    assert found.description == expected.description
    assert found.tokenize(["a panda"]) == expected.tokenize(["a panda"])
    done = run("export_weights", f"--workdir={own}", f"--out={out}")
    assert done.returncode == 2 and "already contains a model" in done.stderr


@pytest.mark.slow
def test_flags_without_effect_are_refused(tmp_path):
    vocabulary = write_vocabulary(tmp_path)
    done = run("import_weights", "--format=clip", "--source=x", "--out=y", "--dtype=bfloat16")
    assert done.returncode == 2 and "--dtype has no effect with --format=clip" in done.stderr
    done = run("import_weights", "--format=imagen_jax", "--source=x", "--out=y", f"--clip_vocabulary={vocabulary}")
    assert done.returncode == 2 and "--clip_vocabulary has no effect" in done.stderr
