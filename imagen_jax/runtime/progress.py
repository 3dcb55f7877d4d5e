"""The progress bars of all rooms: ``tqdm``, as text in a terminal and as a widget in a notebook."""

import sys
import warnings

from tqdm import TqdmWarning

with warnings.catch_warnings():
    # Without ipywidgets, a notebook has bars of text, and tqdm would advise to install it.
    warnings.simplefilter("ignore", TqdmWarning)
    from tqdm.auto import tqdm

__all__ = ["is_watched", "tqdm"]


def is_watched() -> bool:
    """Returns whether a progress bar can move where standard error goes: to a terminal or a notebook."""
    return sys.stderr.isatty() or type(sys.stderr).__module__.partition(".")[0] == "ipykernel"
