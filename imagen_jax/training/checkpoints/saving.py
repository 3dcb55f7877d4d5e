"""Saves during training: at regular intervals, at the end, and again soon after a failed write.

A disk that is full for an hour must not end a run of a week. Each failure prints a warning, and only the last step's
failure is an error.
"""

from collections.abc import Callable
from typing import Any

from imagen_jax.errors import UserError
from imagen_jax.training.checkpoints.folder import warn
from imagen_jax.training.checkpoints.store import CheckpointStore
from imagen_jax.training.checkpoints.write_errors import NotWrittenError
from imagen_jax.training.loop import Hook, StepInfo

RETRIES = 10
"""Max retries of a failed write before the next one is due."""


class Saving:
    """Saves state and data position together.

    Args:
        checkpoints: store of the checkpoints.
        every: interval in steps, at least 1.
        steps: number of the last step, which is always saved, as is the step at which the run stops early.
        beside: returns other JSON-serialisable values that are stored with the position in the data.

    Raises:
        UserError: ``every`` is below 1.
    """

    def __init__(
        self, checkpoints: CheckpointStore, every: int, steps: int, beside: Callable[[], dict[str, Any]] = dict
    ) -> None:
        if every < 1:
            raise UserError(f"--config.training.checkpoint_every={every} is below 1: set it to at least 1")
        self._checkpoints = checkpoints
        self._every = every
        self._steps = steps
        self._beside = beside
        self._retry: int | None = None

    def hook(self) -> Hook:
        """Returns the hook for the loop. It runs after each step, to notice a failed write soon."""
        return Hook("checkpoint", 1, self.save_when_due)

    def save_when_due(self, number: int, info: StepInfo) -> None:
        """Saves if a checkpoint is due.

        Raises:
            UserError: the last step can't be saved, or only one of several processes could not write.
        """
        last = number == self._steps or info.leaving
        due = last or number % self._every == 0 or number == self._retry
        try:
            self._checkpoints.wait() if due else self._checkpoints.check()
        except NotWrittenError as error:
            self._warn_and_retry(number, error)
        if not due:
            return
        self._retry = None
        try:
            self._checkpoints.save(number, info.state, info.data_state | self._beside())
        except NotWrittenError as error:
            if last:
                raise
            self._warn_and_retry(number, error)

    def _warn_and_retry(self, number: int, error: NotWrittenError) -> None:
        if number < self._steps:
            self._retry = min(number + max(self._every // RETRIES, 1), self._steps)
            warn(f"{error.what}; training continues, and tries again after step {self._retry}")
        else:
            warn(f"{error.what}; the last step will be saved now")


def make_check(check: Callable[[], None]) -> Hook:
    """Makes the hook that checks after each step, before anything is written, that the workdir still exists.

    Args:
        check: raises ``UserError`` if the workdir does not exist.
    """

    def look(number: int, info: StepInfo) -> None:
        check()

    return Hook("loop", 1, look)
