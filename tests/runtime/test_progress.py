"""Progress bars move where somebody watches: in a terminal and in a notebook."""

import io
import sys
import types

import pytest

from imagen_jax.runtime import progress
from imagen_jax.training.monitoring.metrics import Progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


class NotebookStream(io.StringIO):
    """As the kernel of a notebook has it."""


NotebookStream.__module__ = "ipykernel.iostream"


@pytest.mark.parametrize(("stream", "watched"), [(Terminal, True), (NotebookStream, True), (io.StringIO, False)])
def test_it_is_watched_in_a_terminal_and_in_a_notebook(monkeypatch, stream, watched):
    monkeypatch.setattr(sys, "stderr", stream())
    assert progress.is_watched() is watched
    with Progress("Training run", 0, 10) as bar:
        bar.update(10, 0.5, 3.0)
    assert ("10/10 steps" in sys.stderr.getvalue()) is not watched, "lines"
    assert ("10/10 [" in sys.stderr.getvalue()) is watched, "a bar"


def test_a_notebook_has_a_widget(monkeypatch):
    """tqdm looks for a running kernel; without ipywidgets it prints text, and we print no advice."""
    kernel = types.SimpleNamespace(config={"IPKernelApp": {}})
    monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(get_ipython=lambda: kernel))
    for name in [name for name in sys.modules if name.startswith("tqdm.a") or name == progress.__name__]:
        monkeypatch.delitem(sys.modules, name)
    from imagen_jax.runtime.progress import tqdm

    assert tqdm is not progress.tqdm and list(tqdm(range(3), disable=True)) == [0, 1, 2]
