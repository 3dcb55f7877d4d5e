"""What worker processes share, those that prepare data and those that make batches."""

import os
import signal
import threading
from multiprocessing import parent_process


def ignore_ctrl_c() -> None:
    """Leaves Ctrl-C to the process that started this one: a terminal sends it to both, and that ends its workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def die_with_parent() -> None:
    """Ends this worker when the process that started it is gone, however it went: killed, that could end no worker.

    A worker that lives on writes where the next run writes, or holds memory and files that nobody asks for.
    """

    def wait() -> None:
        parent = parent_process()
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
