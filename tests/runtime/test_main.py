"""Every error that a user can fix: one message, no traceback, status 2."""

import errno
import os
import subprocess
import sys
import textwrap

import pytest

from imagen_jax.runtime.main import explain
from tests.forked_programs import run_forked

ENVIRONMENT = {**os.environ, "PYTHONPATH": os.getcwd()}


def write_program(tmp_path, body, define=""):
    (tmp_path / "program.py").write_text(
        "from imagen_jax.runtime.main import run_main\n"
        "from imagen_jax.errors import UserError\n"
        f"{define}"
        f"def main():\n{textwrap.indent(textwrap.dedent(body), '    ')}\n"
        "if __name__ == '__main__':\n    run_main(main)\n"
    )


FOR_NOW = "import errno\nfrom imagen_jax.errors import ForNowError\n"


def run(tmp_path, body, *arguments, define="", variables=None):
    write_program(tmp_path, body, define)
    if variables is None:
        return run_forked(tmp_path / "program.py", *arguments)
    command = [sys.executable, tmp_path / "program.py", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=ENVIRONMENT | variables)


def assert_sentence(finished, *words):
    assert finished.returncode == 2, finished.stderr
    assert "Traceback" not in finished.stderr
    last = finished.stderr.strip().splitlines()[-1]
    assert last.startswith("error: ") and all(word in last for word in words), finished.stderr


def test_a_users_mistake_is_its_sentence(tmp_path):
    finished = run(tmp_path, "raise UserError('the sky is green: look again')")
    assert (finished.returncode, finished.stderr.strip()) == (2, "error: the sky is green: look again")


@pytest.mark.parametrize("hint", [None, "give the stage as --workdir=…"])
def test_an_argument_that_is_not_a_flag_is_named_and_nothing_runs(tmp_path, hint):
    program = "from imagen_jax.runtime.main import run_main\nrun_main(lambda: print('ran')" + (
        f", {hint!r})" if hint else ")"
    )
    command = [sys.executable, "-c", program, "runs/base"]
    finished = subprocess.run(command, capture_output=True, text=True, check=False, env=ENVIRONMENT)
    assert_sentence(finished, "'runs/base'", hint or "")
    assert finished.stdout == ""


def test_debug_shows_the_traceback(tmp_path):
    finished = run(tmp_path, "raise UserError('the sky is green')", "--debug")
    assert finished.returncode != 0 and "Traceback" in finished.stderr and "sky is green" in finished.stderr


def test_our_own_mistake_keeps_its_traceback(tmp_path):
    finished = run(tmp_path, "{}['missing']")
    assert finished.returncode == 1 and "Traceback" in finished.stderr


def test_an_interruption_is_one_line_and_a_status(tmp_path):
    finished = run(tmp_path, "raise KeyboardInterrupt")
    assert finished.returncode == 130 and len(finished.stderr.splitlines()) == 1


def test_an_unknown_flag_names_the_nearest(tmp_path):
    assert_sentence(run(tmp_path, "pass", "--debugg"), "--debugg", "'debug'")


def test_the_message_of_a_disk_error_names_the_file():
    numbers = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS, errno.EIO)
    messages = {explain(OSError(number, "no", "/some/where")) for number in numbers}
    assert len(messages) == len(numbers) and all("/some/where" in message for message in messages)


@pytest.mark.parametrize(
    "error",
    [
        "RuntimeError('write() failed: No space left on device; writing x; at byte 0')",
        "OSError('1536 requested and 1024 written')",
        "ValueError('I/O error: No space left on device (os error 28)')",
    ],
)
def test_a_full_disk_is_one_message_from_any_library(tmp_path, error):
    assert_sentence(run(tmp_path, f"raise {error}"))


def test_what_may_pass_by_itself_has_its_own_status(tmp_path):
    """So that launch/supervise.sh and a JobSet run the same command again, which they don't after a mistake."""
    finished = run(tmp_path, "raise ForNowError('the sky is cloudy: look again')", define=FOR_NOW)
    assert (finished.returncode, finished.stderr.strip()) == (74, "error: the sky is cloudy: look again")
    finished = run(tmp_path, "raise OSError(errno.EIO, 'Input/output error', '/some/where')", define=FOR_NOW)
    assert finished.returncode == 74 and finished.stderr.startswith("error: /some/where ")


def test_other_system_errors_are_not_explained_away():
    with pytest.raises(OSError, match="odd"):
        explain(OSError(errno.EBADF, "odd"))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--config.trian.steps=3",), ("'trian'", "'training'")),
        (("--config.training.stesp", "3"), ("config.training ", "'stesp'", "'steps'")),
        (("--noconfig.training.flg",), ("config.training ", "'flg'", "'flag'")),
        (("--config.q=3",), ("'q'", "training")),
        (("--config.training.steps.a=3",), ("config.training.steps ", "3", ".a")),
        (("--config.training.crop=3",), ("config.training.crop ", "None")),
    ],
)
def test_a_key_that_the_config_lacks_is_named_with_the_nearest(tmp_path, arguments, words):
    config = tmp_path / "config.py"
    config.write_text(
        "from ml_collections import ConfigDict\n"
        "def get_config():\n"
        "    return ConfigDict({'training': {'steps': 3, 'flag': True, 'crop': None}})\n"
    )
    body = "raise UserError('the main function ran')"
    define = "from ml_collections import config_flags\nconfig_flags.DEFINE_config_file('config')\n"
    finished = run(tmp_path, body, f"--config={config}", *arguments, define=define)
    assert_sentence(finished, *words)
    assert len(finished.stderr.splitlines()) == 1


@pytest.mark.thorough
def test_a_reader_that_leaves_early_is_no_mistake(tmp_path):
    """As in ``python -m imagen_jax.… | head -n 1``."""
    write_program(tmp_path, "for number in range(10**5): print(number)")
    command = [sys.executable, tmp_path / "program.py"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT) as left:
        assert left.stdout.readline() == "0\n"
        left.stdout.close()
        assert left.stderr.read() == ""


@pytest.mark.thorough
def test_compiled_programs_are_kept_for_the_next_run(tmp_path):
    body = """
        import jax, jax.monitoring
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        found = []
        jax.monitoring.register_event_listener(lambda event, **_: found.append(event))
        print(float(jax.jit(lambda x: x * 3 + 1)(2.0)), "/jax/compilation_cache/cache_hits" in found)
        """
    cache = {"XDG_CACHE_HOME": str(tmp_path / "cache"), "IMAGEN_JAX_CACHE": ""}
    first, second = (run(tmp_path, body, variables=cache).stdout for _ in range(2))
    assert (first.strip(), second.strip()) == ("7.0 False", "7.0 True")
    (folder,) = (tmp_path / "cache" / "imagen-jax" / "programs").iterdir()
    kept = sorted(folder.iterdir())
    assert run(tmp_path, body, variables=cache | {"IMAGEN_JAX_NO_CACHE": "1"}).stdout.strip() == "7.0 False"
    assert kept and sorted(folder.iterdir()) == kept


CONFIG = "--config=configs/quickstart.py:base,smoke"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((CONFIG, "--config.training.stepz=3"), ("'stepz'", "'steps'")),
        ((CONFIG, "--config.trainin.steps=3"), ("'trainin'", "'training'")),
        ((CONFIG, "--config.training.steps=many"), ("training.steps", "many")),
        (("--config=configs/none.py",), ("configs/none.py", "--config=own_images:base", "imagen-jax copy_configs")),
        (("--config=quickstrt:base",), ("'quickstrt'", "'quickstart'")),
        (("--config=configs/quickstart.py:bse",), ("'bse'", "super_resolution")),
        ((CONFIG, "training.steps=3"), ("--config.training.steps",)),
    ],
)
def test_config_mistakes_are_sentences(tmp_path, arguments, words):
    assert_sentence(run_forked("imagen_jax.train", f"--workdir={tmp_path / 'run'}", *arguments), *words)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), ("--prompt",)),
        (("--prompt= ",), ("--prompt",)),
        (("--prompt=a", "--stages="), ("--stages", "openmoji")),
        (("--prompt=a", "--stages=nowhere"), ("no folder nowhere", "bundled", "--stages")),
        (("--prompt=a", "--seed=abc"), ("--seed=abc", "whole number")),
        (("--prompt=a", "--format=jpegg"), ("jpegg", "jpg")),
        (("--prompt=a", "--stages=nowhere", "--steps=few"), ("--steps=few",)),
        (("panda",), ("'panda'", "--prompt")),
        (("--stages=nowhere", b"--prompt=\xff"), ("UTF-8",)),
    ],
)
def test_sampling_mistakes_are_sentences(tmp_path, arguments, words):
    assert_sentence(run_forked("imagen_jax.sample", f"--out={tmp_path / 'out'}", *arguments), *words)


def test_an_encoder_that_is_not_installed_is_told_before_anything_is_written(tmp_path):
    define = "from imagen_jax import sample\nfrom imagen_jax.encoders import minilm\n"
    body = """
    minilm.importlib.util.find_spec = lambda name: None
    sample.main()
    """
    finished = run(tmp_path, body, f"--out={tmp_path / 'out'}", "--prompt=a", define=define)
    assert_sentence(finished, "pip install")
    assert not (tmp_path / "out").exists() and "Sampling" not in finished.stderr


def test_a_warning_of_this_package_is_a_line_of_its_own(tmp_path):
    define = (
        "from absl import logging\nfrom imagen_jax.encoders import batched_encoder\n"
        "from imagen_jax.runtime.progress_bars import ProgressBar\n"
    )
    body = """
    logging.warning("of another program")
    with ProgressBar("Steps", 3, "step"):
        parts = batched_encoder.EncoderParts(lambda captions: [[1] * 9], None, None)
        batched_encoder.BatchedEncoder("name", 4, 4, lambda: parts).tokenize(["long"], 4)
    """
    finished = run(tmp_path, body, define=define)
    assert finished.returncode == 0, finished.stderr
    lines = finished.stderr.replace("\r", "\n").split("\n")
    (told,) = [line for line in lines if line.startswith("warning: ")]
    assert "'long'" in told and "9" in told and "4" in told
    assert any(line.startswith("W") and line.endswith("of another program") for line in lines)


def test_an_output_folder_that_is_a_file_is_a_sentence(tmp_path):
    (tmp_path / "file").touch()
    finished = run_forked("imagen_jax.sample", f"--out={tmp_path / 'file'}", "--prompt=a")
    assert_sentence(finished, str(tmp_path / "file"))
