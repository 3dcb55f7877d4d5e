"""The warnings of this package as lines of their own, ``warning: …``, on the standard error of a command.

absl's own form, with the time and the line of the code, is for the warnings of libraries.
"""

import logging
import os
import sys

from imagen_jax.runtime.progress import tqdm

PACKAGE = os.path.dirname(os.path.dirname(__file__))


def print_own_warning(record: logging.LogRecord) -> bool:
    """Prints a warning of this package, and returns whether absl should print the record: a filter of its handler.

    Args:
        record: the record.
    """
    if record.levelno != logging.WARNING or not record.pathname.startswith(PACKAGE + os.sep):
        return True
    # Clears the progress bars, and shows them again below the line.
    with tqdm.external_write_mode(file=sys.stderr):
        print(f"warning: {record.getMessage()}", file=sys.stderr, flush=True)
    return False
