"""SIGTERM in a run of several processes: a notice for JAX's preemption service, or the end of this process.

``jax.distributed.initialize`` installs a SIGTERM handler that only records a notice, for a loop that checks for it
after each step. Without such a loop, a process that compiles or samples would ignore SIGTERM. So we enable JAX's
handler only while such a loop runs.
"""

import ctypes
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from jax.experimental import multihost_utils

_on_notice: int | None = None
"""The address of JAX's C signal handler."""


def set_preemption_notice(wanted: bool) -> None:
    """Enables JAX's SIGTERM handler, or restores the system's default, which ends the process.

    Args:
        wanted: True for JAX's handler. The first call must pass False, which stores that handler.
    """
    global _on_notice
    change = ctypes.CDLL(None).signal
    change.restype, change.argtypes = ctypes.c_void_p, [ctypes.c_int, ctypes.c_void_p]
    if wanted:
        change(signal.SIGTERM, _on_notice)
    else:
        _on_notice = change(signal.SIGTERM, None) or _on_notice


@contextmanager
def own_sigterm_handler() -> Iterator[Callable[[int], bool]]:
    """Enables JAX's SIGTERM handler within the block.

    Yields:
        A function to call after each step with its number. It returns whether this is the agreed step to exit after.
    """
    set_preemption_notice(True)
    try:
        yield multihost_utils.reached_preemption_sync_point
    finally:
        set_preemption_notice(False)
