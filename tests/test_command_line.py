"""Every mistake that a user can mend: one sentence, no traceback, status 2."""

import errno
import os
import subprocess
import sys
import textwrap

import pytest

from imagen_jax.command_line import explain, explain_flag_error


def run(tmp_path, body, *arguments):
    program = tmp_path / "program.py"
    program.write_text(
        "from imagen_jax.command_line import run_main\n"
        "from imagen_jax.errors import UserError\n"
        f"def main(arguments):\n{textwrap.indent(textwrap.dedent(body), '    ')}\n"
        "if __name__ == '__main__':\n    run_main(main)\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.getcwd()}
    return subprocess.run(
        [sys.executable, program, *arguments], capture_output=True, text=True, check=False, env=environment
    )


def module(name, *arguments):
    return subprocess.run([sys.executable, "-m", name, *arguments], capture_output=True, text=True, check=False)


def assert_sentence(finished, *words):
    assert finished.returncode == 2, finished.stderr
    assert "Traceback" not in finished.stderr
    last = finished.stderr.strip().splitlines()[-1]
    assert last.startswith("error: ") and all(word in last for word in words), finished.stderr


def test_a_users_mistake_is_its_sentence(tmp_path):
    finished = run(tmp_path, "raise UserError('the sky is green: look again')")
    assert (finished.returncode, finished.stderr.strip()) == (2, "error: the sky is green: look again")


def test_debug_shows_the_traceback(tmp_path):
    finished = run(tmp_path, "raise UserError('the sky is green')", "--debug")
    assert finished.returncode != 0 and "Traceback" in finished.stderr and "sky is green" in finished.stderr


def test_our_own_mistake_keeps_its_traceback(tmp_path):
    finished = run(tmp_path, "{}['missing']")
    assert finished.returncode == 1 and "Traceback" in finished.stderr


def test_an_interruption_says_how_to_go_on(tmp_path):
    finished = run(tmp_path, "raise KeyboardInterrupt")
    assert finished.returncode == 130 and "same command again" in finished.stderr


def test_an_unknown_flag_names_the_nearest(tmp_path):
    assert_sentence(run(tmp_path, "pass", "--debugg"), "--debugg", "'debug'")


@pytest.mark.parametrize(
    ("number", "words"),
    [(errno.ENOSPC, "make room"), (errno.EACCES, "permissions"), (errno.EROFS, "another folder")],
)
def test_a_disks_refusal_names_the_file_and_the_mend(number, words):
    sentence = explain(OSError(number, "no", "/some/where"))
    assert "/some/where" in sentence and words in sentence


def test_other_system_errors_are_not_explained_away():
    with pytest.raises(OSError, match="odd"):
        explain(OSError(errno.EBADF, "odd"))


def test_a_config_files_own_error_is_told_without_its_traceback():
    message = "Error in config file:\n\nTraceback (most recent call last):\n  x\nValueError: bad variant"
    assert explain_flag_error(message) == "bad variant"


CONFIG = "--config=configs/quickstart.py:base,smoke"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((CONFIG, "--config.training.stepz=3"), ("'stepz'", "'steps'")),
        ((CONFIG, "--config.trainin.steps=3"), ("'trainin'", "'training'")),
        ((CONFIG, "--config.training.steps=many"), ("training.steps", "many")),
        (("--config=configs/none.py",), ("configs/none.py",)),
        (("--config=configs/quickstart.py:bse",), ("'bse'", "super_resolution")),
        ((CONFIG, "training.steps=3"), ("--config.training.steps",)),
    ],
)
def test_config_mistakes_are_sentences(tmp_path, arguments, words):
    assert_sentence(module("imagen_jax.train", f"--workdir={tmp_path / 'run'}", *arguments), *words)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), ("--prompt",)),
        (("--prompt= ",), ("--prompt",)),
        (("--prompt=a",), ("--stages",)),
        (("--prompt=a", "--stages=nowhere"), ("nowhere", "imagen_jax.train")),
        (("--prompt=a", "--stages=nowhere", "--steps=few"), ("--steps=few",)),
        (("panda",), ("'panda'", "--prompt")),
    ],
)
def test_sampling_mistakes_are_sentences(tmp_path, arguments, words):
    assert_sentence(module("imagen_jax.sample", f"--out={tmp_path / 'out'}", *arguments), *words)


def test_an_output_folder_that_is_a_file_is_a_sentence(tmp_path):
    (tmp_path / "file").touch()
    finished = module("imagen_jax.sample", f"--out={tmp_path / 'file'}", "--prompt=a", "--stages=nowhere")
    assert_sentence(finished, "another --out")
