"""Ctrl-C: a training keeps a checkpoint first, everything else ends at once; a second Ctrl-C always does.

    Ctrl-C -> Python's handler, in the main thread: KeyboardInterrupt, unless work is being kept
           -> a pipe -> a thread of ours: asks for the work to be kept, or sees to it that the process ends

Python's handler runs only between two instructions of the main thread, and that may compile, or wait for other hosts,
for minutes. So the thread ends the process where the main one has not done it within ``PATIENCE``.

A terminal sends SIGINT to all processes that run in it. Workers ignore it (``data.preparation.workers``): the process
that started them ends them.
"""

import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

from imagen_jax.runtime import processes
from imagen_jax.runtime.exit_status import ExitStatus

PATIENCE = 2.0
"""Seconds that the main thread has to end the process in an orderly way."""

SAME_PRESS = 0.5
"""Seconds in which further signals are the same Ctrl-C: a terminal sends it, and so may a program between us."""

LAST_RESORT = 15.0
"""Seconds after which the process ends even though the other hosts could not be told."""

KEEPING = (
    "Ctrl-C: keeping a checkpoint after the present step. Press Ctrl-C again to end at once and lose what came after "
    "the newest checkpoint."
)
ENDED_AT_ONCE = (
    "interrupted twice: no checkpoint is kept of the last steps; run the same command to continue from the newest one"
)


class CtrlC:
    """Listens for Ctrl-C.

    Args:
        sentence: said at the end of an interrupted command: what is kept, and what to do.
    """

    def __init__(self, sentence: str) -> None:
        self.is_asked = False
        self._sentence = sentence
        self._keep: Callable[[], None] | None = None
        self._first: float | None = None
        self._ending, self._asking = threading.Lock(), threading.Lock()
        self._receiver, self._sender = os.pipe()
        os.set_blocking(self._sender, False)

    def start(self) -> None:
        """Begins to listen; only the main thread can."""
        signal.set_wakeup_fd(self._sender, warn_on_full_buffer=False)
        signal.signal(signal.SIGINT, self._hear)
        threading.Thread(target=self._listen, name="listens for Ctrl-C", daemon=True).start()

    def begin_to_keep(self, keep: Callable[[], None]) -> None:
        """From now on the first Ctrl-C calls ``keep``, in another thread, and does not end the process."""
        self._keep = keep

    def stop_keeping(self) -> None:
        """From now on Ctrl-C ends the process."""
        with self._asking:
            self._keep = None

    def end(self, sentence: str | None = None) -> NoReturn:
        """Ends the process with status 130, and tells the other hosts of the run."""
        # Two threads may come here; one speaks.
        self._ending.acquire()
        last_resort = threading.Timer(LAST_RESORT, os._exit, (ExitStatus.INTERRUPTED,))
        last_resort.daemon = True
        last_resort.start()
        print(sentence or f"interrupted: {self._sentence}", file=sys.stderr, flush=True)
        processes.announce_exit("somebody pressed Ctrl-C there", interrupted=True)
        # An orderly exit would pull the rug from under a thread that is compiling, and end in a crash.
        processes.exit_now(ExitStatus.INTERRUPTED)

    def _hear(self, number: int, frame: FrameType | None) -> None:
        if self._keep is None and not self.is_asked:
            raise KeyboardInterrupt

    def _listen(self) -> None:
        deadline: float | None = None
        while True:
            left = None if deadline is None else max(deadline - time.monotonic(), 0.0)
            if not select.select([self._receiver], [], [], left)[0]:
                self.end()
            # The numbers of all signals that Python hears.
            if signal.SIGINT not in os.read(self._receiver, 512):
                continue
            now = time.monotonic()
            if self._first is not None and now - self._first > SAME_PRESS:
                self.end(ENDED_AT_ONCE if self.is_asked else None)
            elif self._first is None:
                self._first = now
                if not self._ask():
                    deadline = now + PATIENCE

    def _ask(self) -> bool:
        """Asks for the work to be kept; returns whether there is any."""
        with self._asking:
            if self._keep is None:
                return False
            self.is_asked = True
            print(f"\n{KEEPING}", file=sys.stderr, flush=True)
            self._keep()
            return True


_ctrl_c: CtrlC | None = None


def begin_listening(sentence: str) -> None:
    """Takes Ctrl-C over for a command line, unless the process was started deaf to it.

    Args:
        sentence: see ``CtrlC``.
    """
    global _ctrl_c
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        _ctrl_c = CtrlC(sentence)
        _ctrl_c.start()


def end(sentence: str) -> NoReturn:
    """Ends an interrupted command."""
    (_ctrl_c or CtrlC(sentence)).end()


def begin_to_keep(keep: Callable[[], None]) -> None:
    """From now on the first Ctrl-C calls ``keep``, in another thread; outside of a command line it does nothing."""
    if _ctrl_c is not None:
        _ctrl_c.begin_to_keep(keep)


@contextmanager
def keeping() -> Iterator[None]:
    """At the end of the block, Ctrl-C ends the process again."""
    try:
        yield
    finally:
        if _ctrl_c is not None:
            _ctrl_c.stop_keeping()


def is_asked() -> bool:
    """Whether Ctrl-C has asked this process to keep its work and leave."""
    return _ctrl_c is not None and _ctrl_c.is_asked
