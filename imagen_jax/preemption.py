"""Told to leave: SIGTERM, which a scheduler or a cloud sends some time before it takes the machine away.

    SIGTERM to any process -> all agree on a step -> a checkpoint after it -> status ``AGAIN``: the same command goes on

A training listens while its loop runs. Before that there is nothing to keep, and the signal ends the process as it ends
any other.
"""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from imagen_jax import notices, processes

AGAIN = 75
"""Exit status of a process that was told to leave and kept what it had; ``launch/supervise.sh`` runs it again."""

SAME_NOTICE = 10.0
"""Seconds in which further signals say nothing new."""

ShouldLeave = Callable[[int], bool]
"""Asked after each step, with its number: whether to leave after this one. The same in all processes."""


@contextmanager
def listening() -> Iterator[ShouldLeave]:
    """Listens for SIGTERM within the block.

    Where several processes train together, whichever hears it tells the others through JAX's coordination service, and
    they agree on the step after the furthest one's. Alone, another SIGTERM that comes later than ``SAME_NOTICE`` ends
    the process at once: until then it is the same notice, for a system that goes down tells every process, and a
    supervisor hands on what it was told.
    """
    if processes.is_together():
        with notices.hearing() as is_agreed:
            yield is_agreed
        return
    told: list[float] = []

    def hear(number: int, frame: FrameType | None) -> None:
        told.append(time.monotonic())
        if told[-1] - told[0] > SAME_NOTICE:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGTERM)

    if threading.current_thread() is not threading.main_thread():
        # Python hears signals in the main thread alone; who trains in another one has to stop it by other means.
        yield lambda number: False
        return
    before = signal.signal(signal.SIGTERM, hear)
    try:
        yield lambda number: bool(told)
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)
