"""The parts of JAX's coordination service that have no public API. All such names of JAX are in this module.

- The client, for messages and barriers between hosts. ``jax.experimental.multihost_utils`` communicates by programs on
  the devices instead. These programs have no time limits, initialise the devices, and hang if the devices hang.
- The start and the end of preemption notices. ``jax.distributed.initialize`` starts them for the whole run, and then a
  process that compiles or samples would ignore SIGTERM.
- The reason and the exit status of an abort. JAX's client aborts in C++: ``faulthandler`` would print stacks and leave
  the status at 134, and a handler of Python's ``signal`` module would run too late.

The private names are imported when a process joins a run. A version of JAX without them fails only there.
"""

import ctypes
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import jax
from jax.experimental import multihost_utils

from imagen_jax.errors import UserError

_on_abort: Any = None  # a reference to the callback, because C keeps none


def find_state() -> Any:
    """Returns JAX's state of a run of several processes, such as its client. Orbax uses the same object.

    Raises:
        UserError: this version of JAX has no such object.
    """
    try:
        from jax._src.distributed import global_state
    except ImportError as error:
        raise UserError(
            f"several processes can't run together with JAX {jax.__version__} ({error}): install a version that "
            "setup.py allows"
        ) from error
    return global_state


def postpone_preemption_notices() -> None:
    """Makes ``jax.distributed.initialize`` leave SIGTERM alone, so that it ends the process."""
    jax.config.update("jax_enable_preemption_service", False)


@contextmanager
def preemption_notices() -> Iterator[Callable[[int], bool]]:
    """Makes SIGTERM a notice to all processes within the block. After the block it ends this process again.

    Yields:
        A function to call after each step with its number. It returns whether this is the agreed step to exit after.
    """
    state = find_state()
    jax.config.update("jax_enable_preemption_service", True)
    state.initialize_preemption_sync_manager()
    try:
        yield multihost_utils.reached_preemption_sync_point
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        state.preemption_sync_manager.shutdown()
        state.preemption_sync_manager = None


def call_on_abort(act: Callable[[], None]) -> None:
    """Calls a function when JAX's client or service aborts this process. It may exit with a status of its own.

    JAX aborts from a thread of its own if the other processes don't join in time, if the connection to process 0
    breaks, or if a process sends no heartbeat for long. JAX's own callback for this can't be used: it crashes.
    """
    global _on_abort
    _on_abort = ctypes.CFUNCTYPE(None, ctypes.c_int)(lambda number: act())
    ctypes.CDLL(None).signal(signal.SIGABRT, _on_abort)
