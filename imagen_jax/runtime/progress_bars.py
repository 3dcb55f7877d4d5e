"""Progress bars that leave out compilation, and the lines that announce it.

    Compiling base (64 px): 12 s          while it lasts, on a terminal
    Compiled base (64 px) in 34.2 s       after it
    Sampling:  25%|██▌       | 24/96 [00:06<00:18, 4.0step/s]

A program is compiled at its first call, for seconds to minutes. A bar would stand at 0 for so long, and its speed and
time left would be wrong afterwards. So each bar receives the seconds of a compilation, and does not count them.
"""

import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, runtime_checkable

import jax

from imagen_jax.runtime.progress import tqdm

SECONDS_BETWEEN_UPDATES = 1.0

SECONDS_OF_SILENCE = 1.0
"""A compilation that ends sooner is not announced."""


@runtime_checkable
class Timed(Protocol):
    """What shows progress, and must not count the time of compilations."""

    def hide(self) -> None:
        """Clears the terminal's line, if it is on it."""

    def leave_out(self, seconds: float) -> None:
        """Does not count the seconds that have just passed, and shows itself again."""


_shown: list[Timed] = []


@contextmanager
def timed(one: Timed) -> Iterator[None]:
    """While the block runs, compilations are announced, and ``one`` does not count their time."""
    _shown.append(one)
    try:
        yield
    finally:
        _shown.remove(one)


class _Nothing:
    """Stands for progress that is not shown yet."""

    def hide(self) -> None:
        pass

    def leave_out(self, seconds: float) -> None:
        pass


@contextmanager
def announcing() -> Iterator[None]:
    """While the block runs, compilations are announced, although no bar is shown yet or at all."""
    with timed(_Nothing()):
        yield


class ProgressBar(tqdm):
    """A tqdm bar, or a notebook's widget, which does not count the time of compilations while it is open."""

    start_t: float
    last_print_t: float

    def __init__(self, desc: str, total: int | None, unit: str, initial: int = 0, disable: bool = False) -> None:
        super().__init__(
            desc=desc, total=total, unit=unit, initial=initial, disable=disable, dynamic_ncols=True, file=sys.stderr
        )
        if not self.disable:
            _shown.append(self)

    def close(self) -> None:
        """Closes the bar."""
        if self in _shown:
            _shown.remove(self)
        super().close()

    def __eq__(self, other: object) -> bool:
        return self is other

    def __hash__(self) -> int:
        return id(self)

    def count_from(self, step: int) -> None:
        """Counts steps and time from here: speed and time left no longer depend on what came before."""
        self.n = self.initial = step
        self.start_t = self.last_print_t = self._time()
        self.refresh()

    def hide(self) -> None:
        """Clears the bar's line, which its own thread does not write again before the next step."""
        self.miniters = 0
        self.clear()

    def leave_out(self, seconds: float) -> None:
        """Moves the begin of the bar, and shows it again. Before its first step nothing counts that came before."""
        now = self._time()
        self.start_t, self.last_print_t = self.start_t + seconds, min(self.last_print_t + seconds, now)
        if self.n == self.initial:
            self.start_t = self.last_print_t = now
        self.refresh()


@contextmanager
def compiling(name: str) -> Iterator[None]:
    """Announces that a program is compiled while the block runs, and then how long it took; on standard error.

    It prints nothing where no progress is shown, nor about a program that is compiled at once, such as one of the
    cache.

    Args:
        name: name of the program.
    """
    shown = list(_shown)
    if not shown:
        yield
        return
    announcement = _Announcement(name, shown)
    announcement.start()
    try:
        yield
    except BaseException:
        announcement.end()
        raise
    seconds = announcement.end()
    if announcement.is_shown:
        print(f"Compiled {name} in {seconds:.1f} s", file=sys.stderr, flush=True)
    for one in shown:
        one.leave_out(seconds)


class _Announcement(threading.Thread):
    """Shows the seconds of a compilation on a terminal, and one line elsewhere."""

    def __init__(self, name: str, shown: Sequence[Timed]) -> None:
        super().__init__(daemon=True)
        self.is_shown = False
        self._program, self._others = name, shown
        self._began, self._done = time.monotonic(), threading.Event()

    def run(self) -> None:
        """Prints until the end."""
        if self._done.wait(SECONDS_OF_SILENCE):
            return
        for one in self._others:
            one.hide()
        self.is_shown = True
        if not sys.stderr.isatty():
            print(f"Compiling {self._program}", file=sys.stderr, flush=True)
            return
        while not self._done.is_set():
            seconds = time.monotonic() - self._began
            print(f"\rCompiling {self._program}: {seconds:.0f} s", end="", file=sys.stderr, flush=True)
            self._done.wait(SECONDS_BETWEEN_UPDATES)
        # What is printed next begins where the line began.
        print("\r", end="", file=sys.stderr, flush=True)

    def end(self) -> float:
        """Ends the announcement, and returns its seconds."""
        self._done.set()
        self.join()
        return time.monotonic() - self._began


def compile_first(program: jax.stages.Wrapped, name: str) -> Callable[..., Any]:
    """Returns a jitted function that announces the compilation at its first call; see ``compiling``.

    Args:
        program: jitted function.
        name: name of the program.
    """
    is_compiled = False

    def run(*arguments: Any) -> Any:
        nonlocal is_compiled
        if not is_compiled:
            with compiling(name):
                # The call below finds the compiled program.
                program.lower(*arguments).compile()
            is_compiled = True
        return program(*arguments)

    return run
