"""The progress bar of ``Cascade.sample``, of the denoising steps of all stages and batches."""

from collections.abc import Iterator
from contextlib import contextmanager

from imagen_jax.runtime.progress import is_watched, tqdm
from imagen_jax.sampling.sampler import OnStep


@contextmanager
def show_steps(steps: int, progress: bool | None, on_step: OnStep | None = None) -> Iterator[OnStep | None]:
    """Shows a progress bar within the block, and yields the function that counts a step; None if nothing counts.

    Args:
        steps: number of steps.
        progress: whether to show the bar; None for one in a terminal or notebook.
        on_step: another function to call after each step.
    """
    if not (is_watched() if progress is None else progress):
        yield on_step
        return
    with tqdm(desc="Sampling", total=steps, unit="step", dynamic_ncols=True) as bar:
        bar.set_postfix_str("the first image waits for compilation")

        def count(number: int) -> None:
            if not bar.n:
                # The time left is that of the steps.
                bar.unpause()
                bar.set_postfix_str("", refresh=False)
            bar.update()
            if on_step is not None:
                on_step(number)

        yield count
