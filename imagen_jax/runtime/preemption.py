"""Preemption: saves a checkpoint after SIGTERM or Ctrl-C, then exits. Schedulers and clouds send SIGTERM before a stop.

    SIGTERM to any process -> all agree on a step -> checkpoint after it -> status 75: the same command resumes
    Ctrl-C on any host     -> all agree on a step -> checkpoint after it -> status 130 on all hosts: no restart

Training handles SIGTERM while its loop runs, and Ctrl-C from the end of its first step. Before that there is no state
to save, and the signals end the process at once. A notebook or another program gets an exception instead of an exit.
"""

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from imagen_jax.errors import LeavingError, StoppedError
from imagen_jax.runtime import coordination, interrupts, processes

SAME_NOTICE = 10.0
"""Seconds in which further SIGTERMs count as the same notice."""

IF_INTERRUPTED = "the newest checkpoint is kept, if there is one; run the same command to continue"
"""Training's message after a Ctrl-C before its first step or after its last one."""

ShouldLeave = Callable[[int], bool]
"""Function to call after each step, with its number: whether to exit after it. All processes get the same result."""


@contextmanager
def watching_for_exit() -> Iterator[ShouldLeave]:
    """Handles SIGTERM within the block, and Ctrl-C from the first call of the yielded function.

    With several processes, the one that receives a signal notifies the others through JAX's coordination service. All
    agree to exit after the step that follows the latest step of any process.

    With a single process, a further SIGTERM within ``SAME_NOTICE`` seconds counts as the same notice: a system that
    shuts down signals every process, and a supervisor forwards its signal. A later SIGTERM ends the process at once. A
    second Ctrl-C always ends it at once (``interrupts``).

    Yields:
        A function to call after each step, which returns whether to exit. Outside of the main thread of a single
        process it always returns False.
    """
    if processes.is_multi_process():
        with coordination.preemption_notices() as is_agreed, interrupts.keeping():

            def should_leave(number: int) -> bool:
                interrupts.begin_to_keep(exit_together)
                return is_agreed(number)

            yield should_leave
        return
    if not interrupts.is_main_thread():
        # A program that trains in another thread must stop it itself.
        yield lambda number: False
        return
    with watching_alone() as has_arrived, interrupts.keeping():

        def should_leave(number: int) -> bool:
            interrupts.begin_to_keep(lambda: None)
            return has_arrived() or interrupts.is_requested()

        yield should_leave


def exit_together() -> None:
    """Makes all processes of the run save and exit, as after SIGTERM, and records that Ctrl-C was the reason."""
    processes.note_interruption()
    os.kill(os.getpid(), signal.SIGTERM)


@contextmanager
def watching_alone() -> Iterator[Callable[[], bool]]:
    """Handles SIGTERM within the block, and yields a function that returns whether it has arrived."""
    arrivals: list[float] = []

    def handle_signal(number: int, frame: FrameType | None) -> None:
        arrivals.append(time.monotonic())
        if arrivals[-1] - arrivals[0] > SAME_NOTICE:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, handle_signal)
    try:
        yield lambda: bool(arrivals)
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


def explain_exit(step: int) -> BaseException:
    """Returns the exception for an exit after the checkpoint of a step. All processes of the run must call it together.

    Args:
        step: number of the saved step.

    Returns:
        A ``LeavingError`` if SIGTERM was the reason. If it was Ctrl-C, a ``StoppedError`` in a command, and a
        ``KeyboardInterrupt`` in another program.
    """
    stopped = processes.is_interrupted() if processes.is_multi_process() else interrupts.is_requested()
    saved = f"the checkpoint of step {step} is written"
    if not interrupts.is_command():
        return (KeyboardInterrupt if stopped else LeavingError)(f"{saved}; the same call continues")
    return (StoppedError if stopped else LeavingError)(f"{saved}; run the same command to continue")
