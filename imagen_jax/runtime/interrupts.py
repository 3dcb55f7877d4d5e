"""Ctrl-C: training saves a checkpoint and exits, other commands exit at once. A second Ctrl-C always exits at once.

    Ctrl-C -> Python's handler in the main thread -> KeyboardInterrupt, unless a save callback is set
           -> a pipe -> the listener thread       -> calls the save callback, or makes sure that the process exits

Python runs its handler only between two instructions of the main thread. The main thread may compile, or wait for other
hosts, for minutes. So the listener thread ends the process if the main thread has not done so within ``PATIENCE``.

In a notebook or another program, KeyboardInterrupt is raised as ever, except while training keeps the current step:

    Ctrl-C -> ``ProgramCtrlC`` in the main thread -> calls the save callback; the second one raises KeyboardInterrupt

A terminal sends SIGINT to all processes that run in it. Worker processes ignore it (``data.preparation.workers``); the
process that started them ends them.
"""

import contextlib
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
"""Seconds for a normal exit of the main thread."""

SAME_PRESS = 0.5
"""Seconds in which further signals count as the same Ctrl-C. A parent program may forward the terminal's signal."""

LAST_RESORT = 15.0
"""Seconds after which the process exits even if it could not notify the other hosts."""

KEEPING = (
    "Ctrl-C: saving a checkpoint after the current step. Press Ctrl-C again to exit at once and lose the steps after "
    "the newest checkpoint."
)
ENDED_AT_ONCE = (
    "interrupted twice: no checkpoint of the last steps is saved; run the same command to continue from the newest one"
)


class CtrlC:
    """Handles Ctrl-C for a command.

    Args:
        sentence: message of an interrupted command: the saved state and the next step.
    """

    def __init__(self, sentence: str) -> None:
        self.is_requested = False
        self._sentence = sentence
        self._keep: Callable[[], None] | None = None
        self._first: float | None = None
        self._ending, self._requesting = threading.Lock(), threading.Lock()
        self._receiver, self._sender = os.pipe()
        os.set_blocking(self._sender, False)

    def start(self) -> None:
        """Starts to handle Ctrl-C. The main thread must call it."""
        signal.set_wakeup_fd(self._sender, warn_on_full_buffer=False)
        signal.signal(signal.SIGINT, self._handle_signal)
        threading.Thread(target=self._listen, name="listens for Ctrl-C", daemon=True).start()

    def begin_to_keep(self, keep: Callable[[], None]) -> None:
        """Makes the first Ctrl-C call ``keep``, in the listener thread, and not end the process."""
        self._keep = keep

    def stop_keeping(self) -> None:
        """Makes Ctrl-C end the process again."""
        with self._requesting:
            self._keep = None

    def end(self, sentence: str | None = None) -> NoReturn:
        """Prints a message, notifies the other hosts of the run, and exits with status 130."""
        # Both threads may call this. The lock lets only one print the message.
        self._ending.acquire()
        last_resort = threading.Timer(LAST_RESORT, os._exit, (ExitStatus.INTERRUPTED,))
        last_resort.daemon = True
        last_resort.start()
        print(sentence or f"interrupted: {self._sentence}", file=sys.stderr, flush=True)
        processes.announce_exit("Ctrl-C was pressed there", interrupted=True)
        # A normal exit would free objects that a compiling thread still uses, and crash.
        processes.exit_now(ExitStatus.INTERRUPTED)

    def _handle_signal(self, number: int, frame: FrameType | None) -> None:
        if self._keep is None and not self.is_requested:
            raise KeyboardInterrupt

    def _listen(self) -> None:
        deadline: float | None = None
        while True:
            left = None if deadline is None else max(deadline - time.monotonic(), 0.0)
            if not select.select([self._receiver], [], [], left)[0]:
                self.end()
            # The pipe receives the numbers of all signals that Python handles.
            if signal.SIGINT not in os.read(self._receiver, 512):
                continue
            now = time.monotonic()
            if self._first is not None and now - self._first > SAME_PRESS:
                self.end(ENDED_AT_ONCE if self.is_requested else None)
            elif self._first is None:
                self._first = now
                if not self._request_save():
                    deadline = now + PATIENCE

    def _request_save(self) -> bool:
        """Calls the save callback. Returns whether there is one."""
        with self._requesting:
            if self._keep is None:
                return False
            self.is_requested = True
            print(f"\n{KEEPING}", file=sys.stderr, flush=True)
            self._keep()
            return True


class ProgramCtrlC:
    """Handles Ctrl-C for a program that is no command, from the end of a training's first step to its last.

    Args:
        keep: called at the first Ctrl-C.
    """

    def __init__(self, keep: Callable[[], None]) -> None:
        self.is_requested = False
        self._keep = keep
        self._first = 0.0

    def start(self) -> None:
        """Takes the place of Python's own handler. The main thread must call it."""
        signal.signal(signal.SIGINT, self._handle_signal)

    def _handle_signal(self, number: int, frame: FrameType | None) -> None:
        if not self.is_requested:
            self.is_requested, self._first = True, time.monotonic()
            # Python refuses to print if the signal came while it was printing.
            with contextlib.suppress(RuntimeError):
                print(f"\n{KEEPING}", file=sys.stderr, flush=True)
            self._keep()
        elif time.monotonic() - self._first > SAME_PRESS:
            raise KeyboardInterrupt


_ctrl_c: CtrlC | None = None
_in_program: ProgramCtrlC | None = None


def begin_listening(sentence: str) -> None:
    """Starts to handle Ctrl-C in a command line, unless the process ignores SIGINT or has another handler.

    Args:
        sentence: message of an interrupted command: the saved state and the next step.
    """
    global _ctrl_c
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        _ctrl_c = CtrlC(sentence)
        _ctrl_c.start()


def end(sentence: str) -> NoReturn:
    """Ends an interrupted command with status 130.

    Args:
        sentence: message, unless ``begin_listening`` has set one.
    """
    (_ctrl_c or CtrlC(sentence)).end()


def begin_to_keep(keep: Callable[[], None]) -> None:
    """Makes the first Ctrl-C call ``keep``, in a command in another thread; not if the program has its own handler."""
    global _in_program
    if _ctrl_c is not None:
        _ctrl_c.begin_to_keep(keep)
    elif is_main_thread() and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        _in_program = ProgramCtrlC(keep)
        _in_program.start()


@contextmanager
def keeping() -> Iterator[None]:
    """Makes Ctrl-C end the process, or raise KeyboardInterrupt, again when the block ends."""
    forget_request()
    try:
        yield
    finally:
        if _ctrl_c is not None:
            _ctrl_c.stop_keeping()
        elif _in_program is not None and is_main_thread():
            signal.signal(signal.SIGINT, signal.default_int_handler)


def forget_request() -> None:
    """Forgets the handler of an earlier training of this program."""
    global _in_program
    _in_program = None


def is_requested() -> bool:
    """Returns whether Ctrl-C has requested this process to save its state and exit."""
    handler = _ctrl_c or _in_program
    return handler is not None and handler.is_requested


def is_command() -> bool:
    """Returns whether this process is a command, whose errors become messages."""
    return _ctrl_c is not None


def is_main_thread() -> bool:
    """Returns whether this is the main thread, the only one in which Python handles signals."""
    return threading.current_thread() is threading.main_thread()
