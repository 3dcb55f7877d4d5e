"""Told to leave: SIGTERM, which a scheduler or a cloud sends some time before it takes the machine away.

    SIGTERM to any process -> all agree on a step -> a checkpoint after it -> status ``AGAIN``: the same command goes on

A training listens while its loop runs. Before that there is nothing to keep, and the signal ends the process as it ends
any other.
"""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from imagen_jax import notices, processes

AGAIN = 75
"""Exit status of a process that was told to leave and kept what it had; ``launch/supervise.sh`` runs it again."""

ShouldLeave = Callable[[int], bool]
"""Asked after each step, with its number: whether to leave after this one. The same in all processes."""


@contextmanager
def listening() -> Iterator[ShouldLeave]:
    """Listens for SIGTERM within the block.

    Where several processes train together, whichever hears it tells the others through JAX's coordination service, and
    they agree on the step after the furthest one's. Alone, a second SIGTERM ends the process at once.
    """
    if processes.is_together():
        with notices.hearing() as is_agreed:
            yield is_agreed
        return
    told = threading.Event()

    def hear(number: int, frame: FrameType | None) -> None:
        told.set()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)

    if threading.current_thread() is not threading.main_thread():
        # Python hears signals in the main thread alone; who trains in another one has to stop it by other means.
        yield lambda number: False
        return
    before = signal.signal(signal.SIGTERM, hear)
    try:
        yield lambda number: told.is_set()
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)
