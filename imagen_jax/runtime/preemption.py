"""Told to leave: by SIGTERM, which a scheduler or a cloud sends before it takes the machine away, or by Ctrl-C.

    SIGTERM to any process -> all agree on a step -> a checkpoint after it -> status 75: the same command resumes
    Ctrl-C on any host     -> likewise                                     -> status 130 on all: nobody runs it again

A training listens while its loop runs. Before that there is nothing to keep, and the signal ends the process as it ends
any other; Ctrl-C does until the first step has ended.
"""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from imagen_jax.errors import LeavingError, StoppedError
from imagen_jax.runtime import interrupts, processes
from imagen_jax.runtime import signals as notices

SAME_NOTICE = 10.0
"""Seconds in which further signals say nothing new."""

IF_INTERRUPTED = "the newest checkpoint is kept, if there is one; run the same command to continue"
"""What a training says after a Ctrl-C before its first step, or after its last one."""

ShouldLeave = Callable[[int], bool]
"""Asked after each step, with its number: whether to leave after this one. The same in all processes."""


@contextmanager
def watching_for_exit() -> Iterator[ShouldLeave]:
    """Listens for SIGTERM within the block, and for Ctrl-C from the first question on.

    Where several processes train together, whichever hears it tells the others through JAX's coordination service, and
    they agree on the step after the furthest one's. Alone, another SIGTERM that comes later than ``SAME_NOTICE`` ends
    the process at once: until then it is the same notice, for a system that goes down tells every process, and a
    supervisor hands on what it was told. A second Ctrl-C always ends it (``interrupts``).
    """
    if processes.is_multi_process():
        with notices.own_sigterm_handler() as is_agreed, interrupts.keeping():

            def ask(number: int) -> bool:
                interrupts.begin_to_keep(exit_together)
                return is_agreed(number)

            yield ask
        return
    if threading.current_thread() is not threading.main_thread():
        # Python hears signals in the main thread alone; who trains in another one has to stop it by other means.
        yield lambda number: False
        return
    with watching_alone() as is_told, interrupts.keeping():

        def look(number: int) -> bool:
            interrupts.begin_to_keep(lambda: None)
            return is_told() or interrupts.is_asked()

        yield look


def exit_together() -> None:
    """Has the processes that train together leave, as SIGTERM does, and notes that it was Ctrl-C."""
    processes.note_interruption()
    os.kill(os.getpid(), signal.SIGTERM)


@contextmanager
def watching_alone() -> Iterator[Callable[[], bool]]:
    """Takes SIGTERM for a notice within the block, and gives what says whether it came."""
    told: list[float] = []

    def hear(number: int, frame: FrameType | None) -> None:
        told.append(time.monotonic())
        if told[-1] - told[0] > SAME_NOTICE:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, hear)
    try:
        yield lambda: bool(told)
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


def explain_exit(step: int) -> LeavingError:
    """The error of a training that has left after a step, which is kept; all processes of the run ask together."""
    stopped = processes.is_interrupted() if processes.is_multi_process() else interrupts.is_asked()
    kind = StoppedError if stopped else LeavingError
    return kind(f"the checkpoint of step {step} is written; run the same command to continue")
