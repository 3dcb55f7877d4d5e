"""Signals and lifetime of worker processes, both for preparing data and for making batches."""

import os
import signal
import threading
from multiprocessing import parent_process


def ignore_ctrl_c() -> None:
    """Ignores Ctrl-C in this worker: the terminal sends it to the parent too, which ends its workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def die_with_parent() -> None:
    """Ends this worker when its parent process ends, even if the parent was killed and could not end it.

    An orphaned worker would write where the next run writes, or keep memory and files that are no longer used.
    """

    def wait() -> None:
        parent = parent_process()
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
