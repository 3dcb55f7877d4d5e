"""The progress bar of ``Cascade.sample``, of the denoising steps of all stages and batches."""

import contextlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol, runtime_checkable

from imagen_jax.cascade.edits import Edit
from imagen_jax.runtime.progress import is_watched
from imagen_jax.runtime.progress_bars import ProgressBar, announcing
from imagen_jax.sampling.sampler import OnStep


@runtime_checkable
class Sampling(Protocol):
    """A ``Cascade``, as far as its progress goes."""

    on_step: OnStep | None

    def count_steps(self, edit: Edit) -> int:
        """Returns the number of denoising steps for one batch."""
        ...

    def batch_size_for(self, count: int) -> int:
        """Returns the batch size for ``count`` images."""
        ...


@contextmanager
def show_steps(cascade: Sampling, count: int, edit: Edit, progress: bool | None) -> Iterator[None]:
    """Shows a progress bar within the block, in which ``cascade.on_step`` moves the bar too.

    Args:
        cascade: the cascade that samples.
        count: number of images.
        edit: the edit of the images.
        progress: whether to show the bar; None for one in a terminal or notebook. Elsewhere None announces
            compilations alone, and False nothing.
    """
    if not count or not (is_watched() if progress is None else progress):
        with announcing() if progress is None else contextlib.nullcontext():
            yield
        return
    own = cascade.on_step
    batches = -(-count // cascade.batch_size_for(count))
    with ProgressBar("Sampling", batches * cascade.count_steps(edit), "step") as bar:

        def move(number: int) -> None:
            bar.update()
            if own is not None:
                own(number)

        cascade.on_step = move
        try:
            yield
        finally:
            cascade.on_step = own
