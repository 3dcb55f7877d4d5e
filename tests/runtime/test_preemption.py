"""SIGTERM is a notice within the block, and no longer after it."""

import os
import signal
import subprocess
import sys
import threading

import pytest

from imagen_jax.runtime.exit_status import ExitStatus
from imagen_jax.runtime.preemption import watching_for_exit
from tests.tiers import thorough_rows_except

PROGRAM = """
import os, signal, sys
from imagen_jax.runtime.main import run_main
from imagen_jax.errors import LeavingError
from imagen_jax.runtime import preemption
from imagen_jax.runtime.preemption import watching_for_exit

def main():
    preemption.SAME_NOTICE = patience
    with watching_for_exit() as should_leave:
        for number in range(times):
            os.kill(os.getpid(), signal.SIGTERM)
        if should_leave(1):
            raise LeavingError("all of it is saved")

times, patience = int(sys.argv.pop(1)), float(sys.argv.pop(1))
run_main(main)
"""


def test_a_notice_is_handled_within_the_block_alone():
    received = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: received.append(number))
    try:
        with watching_for_exit() as should_leave:
            assert not should_leave(1)
            os.kill(os.getpid(), signal.SIGTERM)
            assert should_leave(2) and should_leave(3) and received == []
        os.kill(os.getpid(), signal.SIGTERM)
        assert received == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize(
    ("times", "patience", "status"),
    thorough_rows_except(
        [(1, 10, ExitStatus.PREEMPTED), (2, 0, -signal.SIGTERM)],
        [
            (0, 10, 0),
            (1, 10, ExitStatus.PREEMPTED),
            (3, 10, ExitStatus.PREEMPTED),
            (1, 0, ExitStatus.PREEMPTED),
            (2, 0, -signal.SIGTERM),
        ],
    ),
)
def test_who_leaves_says_so_with_a_status_of_its_own_and_a_much_later_signal_ends(times, patience, status):
    command = [sys.executable, "-c", PROGRAM, str(times), str(patience)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == status, done.stderr
    assert ("preempted: all of it is saved" in done.stderr) == (status == ExitStatus.PREEMPTED)
    assert "Traceback" not in done.stderr


def test_another_thread_gets_no_notice_and_does_not_fail():
    answers = []

    def listen():
        with watching_for_exit() as should_leave:
            answers.append(should_leave(1))

    thread = threading.Thread(target=listen)
    thread.start()
    thread.join()
    assert answers == [False]
