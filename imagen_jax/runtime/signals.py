"""SIGTERM where several processes run together: a notice for JAX's preemption service, or the end of this process.

JAX hears the signal from when the processes have found each other, and does nothing but wait for a loop that asks after
each step. So a process that compiles, or draws, would be deaf to it; here it is deaf only while something asks.
"""

import ctypes
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from jax.experimental import multihost_utils

_on_notice: int | None = None
"""What JAX does at the signal, as C knows it."""


def set_preemption_notice(wanted: bool) -> None:
    """Whether the signal is a notice from now on, or ends this process as it ends any."""
    global _on_notice
    change = ctypes.CDLL(None).signal
    change.restype, change.argtypes = ctypes.c_void_p, [ctypes.c_int, ctypes.c_void_p]
    if wanted:
        change(signal.SIGTERM, _on_notice)
    else:
        _on_notice = change(signal.SIGTERM, None) or _on_notice


@contextmanager
def own_sigterm_handler() -> Iterator[Callable[[int], bool]]:
    """Takes the signal for a notice within the block, which asks after each step whether it is the agreed one."""
    set_preemption_notice(True)
    try:
        yield multihost_utils.reached_preemption_sync_point
    finally:
        set_preemption_notice(False)
