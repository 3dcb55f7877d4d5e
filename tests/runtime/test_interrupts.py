"""Ctrl-C: a training saves a checkpoint first; other commands and a second Ctrl-C end at once."""

import os
import re
import signal
import subprocess
import sys
import time

import pytest

from imagen_jax.runtime.exit_status import ExitStatus
from tests.tiers import named_cases

PROGRAM = """
import hashlib, sys, time
from imagen_jax.runtime.main import run_main
from imagen_jax.runtime.preemption import explain_exit, watching_for_exit

def compute():
    # As a compiler does: minutes without one instruction of Python, in which other threads run.
    hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)

def train(steps):
    with watching_for_exit() as should_leave:
        for number in range(1, steps + 1):
            if should_leave(number):
                raise explain_exit(number)
            print("step", number, flush=True)
            after_step()
    print("done", flush=True)

def after_step():
    time.sleep(0.05)

def ready(work):
    print("ready", flush=True)
    work()

"""
SENTENCE = "all that is here is kept"


def start(body):
    program = f"{PROGRAM}{body}\n\nrun_main(main, if_interrupted={SENTENCE!r})"
    return subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": os.getcwd()}, start_new_session=True,
    )  # fmt: skip


def wait_for(process, line):
    for printed in process.stdout:
        if printed.startswith(line):
            return
    raise AssertionError(process.stderr.read())


def press(process):
    """Ctrl-C as a terminal sends it: to all processes there."""
    os.killpg(process.pid, signal.SIGINT)
    return time.monotonic()


def end_of(process, pressed):
    """Its standard error, and the seconds until its end."""
    try:
        printed = process.communicate(timeout=60)[1]
    finally:
        process.kill()
    assert "Traceback" not in printed
    return printed.strip(), time.monotonic() - pressed


WORK = {
    "before the first step": "lambda: watching_for_exit().__enter__() and compute()",
    "after the last step": "lambda: [train(3), compute()]",
    "waiting": "lambda: time.sleep(1000)",
    "compiling": "compute",
}


@pytest.mark.parametrize("work", named_cases(WORK, kept=1))
def test_where_no_step_can_be_lost_it_ends_at_once_with_the_commands_sentence(work):
    process = start(f"def main():\n    ready({work})")
    wait_for(process, "done" if "train" in work else "ready")
    time.sleep(0.2)
    printed, seconds = end_of(process, press(process))
    assert (process.returncode, printed) == (ExitStatus.INTERRUPTED, f"interrupted: {SENTENCE}")
    assert seconds < 10


def test_a_training_ends_after_the_current_step():
    process = start("def main():\n    train(10**6)")
    wait_for(process, "step 3")
    printed, _ = end_of(process, press(process))
    assert process.returncode == ExitStatus.INTERRUPTED
    first, last = printed.splitlines()
    assert first.startswith("Ctrl-C: ")
    assert re.fullmatch(r"interrupted: .*\bstep \d+\b.*", last)


def test_what_comes_twice_within_a_moment_is_one():
    """A terminal sends it to a training, and so may the program that started that."""
    process = start("def main():\n    train(10**6)")
    wait_for(process, "step 3")
    press(process)
    time.sleep(0.05)
    printed, _ = end_of(process, press(process))
    assert process.returncode == ExitStatus.INTERRUPTED and re.search(r"interrupted: .*\bstep \d+\b", printed)


def test_the_second_ends_it_at_once_whatever_it_is_at():
    process = start("def main():\n    train(10**6)\n\nafter_step = compute")
    wait_for(process, "step 1")
    press(process)
    time.sleep(1.0)
    printed, seconds = end_of(process, press(process))
    assert process.returncode == ExitStatus.INTERRUPTED and seconds < 10
    assert printed.splitlines()[-1].startswith("interrupted twice: ")


def test_a_last_step_that_ends_meanwhile_is_the_end_of_the_run():
    process = start("def main():\n    train(1)\n\ndef after_step():\n    time.sleep(1)")
    wait_for(process, "step 1")
    press(process)
    wait_for(process, "done")
    process.communicate(timeout=60)
    assert process.returncode == 0


@pytest.mark.thorough
def test_a_process_that_ignores_it_from_its_start_keeps_ignoring_it():
    """As nohup and a shell's & do."""
    body = "def main():\n    ready(lambda: time.sleep(1))"
    process = start(f"import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\n{body}")
    wait_for(process, "ready")
    press(process)
    process.communicate(timeout=60)
    assert process.returncode == 0


IN_A_PROGRAM = """
import signal

def interrupted(steps):
    try:
        train(steps)
    except KeyboardInterrupt as error:
        print("interrupted:", error, flush=True)
    print("as before", signal.getsignal(signal.SIGINT) is signal.default_int_handler, flush=True)
"""


def start_program(body):
    """Starts a program that is no command, as a notebook is."""
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM + IN_A_PROGRAM + body], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, env={**os.environ, "PYTHONPATH": os.getcwd()}, start_new_session=True,
    )  # fmt: skip


def test_in_a_program_training_keeps_the_step_raises_and_can_run_again():
    process = start_program("interrupted(10**6)\ninterrupted(5)")
    wait_for(process, "step 3")
    press(process)
    printed, errors = process.communicate(timeout=60)
    lines = [line for line in printed.splitlines() if not line.startswith("step")]
    assert re.fullmatch(r"interrupted: .*\bstep \d+\b.*", lines[0])
    assert lines[1:] == ["as before True", "done", "as before True"]
    assert process.returncode == 0 and len(errors.split("\n")) == 3 and "Ctrl-C: " in errors


@pytest.mark.thorough
def test_in_a_program_the_second_raises_at_once():
    process = start_program("after_step = lambda: time.sleep(1000)\ninterrupted(10**6)")
    wait_for(process, "step 1")
    press(process)
    time.sleep(1.0)
    pressed = press(process)
    printed = process.communicate(timeout=60)[0]
    assert printed.splitlines() == ["interrupted: ", "as before True"] and time.monotonic() - pressed < 10


@pytest.mark.thorough
def test_a_programs_own_handler_stays():
    body = "signal.signal(signal.SIGINT, lambda *_: print('own', flush=True))\ninterrupted(20)"
    process = start_program(body)
    wait_for(process, "step 3")
    press(process)
    printed = process.communicate(timeout=60)[0].splitlines()
    assert {"own", "done", "as before False"} <= set(printed)
