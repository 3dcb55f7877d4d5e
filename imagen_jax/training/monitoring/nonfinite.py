"""Reacts to too many consecutive non-finite steps: stops the run, or rewinds it and leaves out the bad batches.

    each step's metrics -> consecutive skipped steps -> too many: a dump, then stop
                                                        or rewind: parameters of a good checkpoint, data continue

A step whose numbers are not finite leaves the state unchanged (see ``step``). This handles bad batches, but not bad
parameters.

**Rewinding.** Parameters, average and optimizer state are restored from a checkpoint, and with the optimizer state the
position in the learning rate schedule. The step number continues, and with it the random key and the data position: it
still counts all batches, including skipped ones. So metrics and checkpoints keep their order, no batch repeats, and the
run ends after the usual number of batches, with fewer updates.

The run rewinds to the newest checkpoint that has proved good: the step after it was not skipped. Later checkpoints, up
to the rewind, are never used again. If the step after a rewind is skipped too, the next rewind goes further back. A
damaged checkpoint is set aside, and the one before it is used. When old checkpoints are removed, rejected ones and
those made while steps are skipped do not count, so they displace no good ones.

All decisions depend only on the steps' metrics, which are the same in every process, and on the guard's state in each
checkpoint. So all processes decide alike, and a run that is killed at any point and resumed does the same as an
uninterrupted one.
"""

from collections import deque
from typing import Any, NamedTuple

import jax
import optax

from imagen_jax.config.sections import LoopConfig
from imagen_jax.errors import UserError, lookup
from imagen_jax.storage.paths import Path
from imagen_jax.training.checkpoints.store import CheckpointStore
from imagen_jax.training.loop import Batches, StepInfo
from imagen_jax.training.monitoring.incidents import Incidents, KeyedBatches, StepSeen, warn_once
from imagen_jax.training.monitoring.spikes import SpikeFinder
from imagen_jax.training.state import TrainState

ON_NONFINITE = {"stop": False, "rewind": True}
"""Allowed values of ``training.on_nonfinite``, and whether each rewinds to a checkpoint."""

FETCHED_AHEAD = 8
"""Upper bound on the batches that the loop fetches before a step's metrics are available."""

KEPT_AS = "guard"
"""Key of the guard's state in a checkpoint, next to the position in the data."""


class Rewind(NamedTuple):
    """One rewind.

    Attributes:
        back_to: step of the checkpoint.
        at: step after which the run was rewound; checkpoints between the two are not trusted.
    """

    back_to: int
    at: int


class NonfiniteGuard:
    """Hook that checks the metrics of every step; it must come before the hooks that log and save.

    Args:
        training: settings of the run.
        workdir: folder of the run.
        done: step that the run continues from.
        checkpoints: checkpoints of the run.
        shapes: shapes of the state, with their shardings.

    Raises:
        UserError: a setting is unknown or out of range, or too few checkpoints are kept to rewind to one.
    """

    def __init__(
        self, training: LoopConfig, workdir: Path, done: int, checkpoints: CheckpointStore, shapes: TrainState
    ) -> None:
        self._rewinds = lookup(ON_NONFINITE, training.on_nonfinite, "training.on_nonfinite")
        check_settings(training, self._rewinds)
        self._training, self._done = training, done
        self._checkpoints, self._shapes = checkpoints, shapes
        self._incidents = Incidents(workdir, done)
        self._spikes = SpikeFinder()
        self._batches: KeyedBatches | None = None
        self._skipped_steps: deque[StepSeen] = deque(maxlen=training.max_consecutive_nonfinite)
        self._consecutive = 0
        self._skipped = 0
        self._good_below = 0
        self._passed: list[Rewind] = []
        checkpoints.count_only(self._may_be_good)

    def watch(self, batches: Batches) -> KeyedBatches:
        """Returns the batches to train on, which store their keys for reports."""
        self._batches = KeyedBatches(batches, self._done, self._training.max_consecutive_nonfinite + FETCHED_AHEAD)
        return self._batches

    @property
    def metrics(self) -> dict[str, float]:
        """Metrics of the guard: ``skipped``, the number of skipped steps over all starts of the run."""
        return {"skipped": float(self._skipped)}

    def get_state(self) -> dict[str, Any]:
        """Returns the JSON-serialisable state of the guard, for a checkpoint."""
        kept = {
            "in_a_row": self._consecutive,
            "skipped": self._skipped,
            "good_below": self._good_below,
            "passed": [list(one) for one in self._passed],
        }
        return {KEPT_AS: kept}

    def set_state(self, data_state: dict[str, Any]) -> None:
        """Restores the guard's state from a checkpoint's data state.

        Checkpoints of older versions have none; then all checkpoints up to the current step may be good.
        """
        kept = data_state.get(KEPT_AS)
        self._good_below = self._done
        if kept:
            self._consecutive, self._skipped, self._good_below = kept["in_a_row"], kept["skipped"], kept["good_below"]
            self._passed = [Rewind(*one) for one in kept["passed"]]

    def __call__(self, number: int, info: StepInfo) -> TrainState | None:
        """Checks a step; returns the state to continue with after a rewind, and None otherwise.

        Raises:
            UserError: too many consecutive steps were skipped.
        """
        assert self._batches is not None, "watch() was not called"
        names = ("loss", "gradient_norm", "skipped")
        loss, norm, skipped = map(float, jax.device_get([info.metrics[name] for name in names]))
        if skipped:
            return self._count_skip(number, loss, norm, info.state)
        self._consecutive, self._good_below = 0, number
        self._skipped_steps.clear()
        spike = self._spikes.find(loss)
        if spike:
            usual = f"the median is {spike.median:.4g}, and the gradient norm {norm:.4g}"
            sentence = f"the loss of step {number} is a spike: {loss:.4g}, {usual}"
            more = {"median": spike.median, "distance": spike.distance}
            self._incidents.report("spike", self._see(number, loss, norm), sentence, **more)
        return None

    def _count_skip(self, number: int, loss: float, norm: float, state: TrainState) -> TrainState | None:
        """Counts and reports a skipped step, and responds if there are too many."""
        seen = self._see(number, loss, norm)
        self._skipped_steps.append(seen)
        self._consecutive += 1
        self._skipped += 1
        sentence = f"step {number} is skipped: its loss is {loss:.4g} and its gradient norm {norm:.4g}"
        self._incidents.report("skipped", seen, sentence, in_a_row=float(self._consecutive))
        return self._respond(number, state) if self._consecutive >= self._training.max_consecutive_nonfinite else None

    def _see(self, number: int, loss: float, norm: float) -> StepSeen:
        """Returns a step with the keys of its batch."""
        assert self._batches is not None
        return StepSeen(number, loss, norm, self._batches.keys_of(number))

    def _respond(self, number: int, state: TrainState) -> TrainState:
        """Writes a dump of the skipped steps, and rewinds or raises ``UserError``."""
        may_rewind = self._rewinds and len(self._passed) < self._training.max_rewinds
        facts = {
            "skipped_in_a_row": self._consecutive,
            "rewinds_before": len(self._passed),
            "updates": count_updates(state.opt_state),
        }
        restored = self._restore(state) if may_rewind else None
        back_to = restored[1] if restored else None
        path = self._incidents.dump(list(self._skipped_steps), facts | {"rewound_to": back_to})
        sentence = f"steps {number - self._consecutive + 1} to {number} were skipped: loss or gradient was not finite"
        if restored is None or back_to is None:
            raise UserError(
                f"{sentence}. {self._advise(may_rewind)}. {path} has their metrics and the keys of their batches"
            )
        count = f"rewind {len(self._passed) + 1} of at most {self._training.max_rewinds}"
        warn_once(
            f"{sentence}. Training continues with the parameters of step {back_to} and the data after these steps "
            f"({count}; {path} has their keys)"
        )
        self._passed.append(Rewind(back_to, number))
        # The restored checkpoint proves good only after a step from it is not skipped.
        self._good_below = back_to
        self._consecutive = 0
        self._skipped_steps.clear()
        self._spikes.forget()
        return restored[0]._replace(step=state.step, key=state.key)

    def _may_be_good(self, step: int) -> bool:
        """Returns whether there is no evidence against the checkpoint of a step."""
        return step <= self._good_below and not any(one.back_to < step < one.at for one in self._passed)

    def _is_good(self, step: int) -> bool:
        """Returns whether the checkpoint of a step has proved good."""
        return step < self._good_below and self._may_be_good(step)

    def _restore(self, state: TrainState) -> tuple[TrainState, int] | None:
        """Restores the newest good checkpoint and frees the old state; returns None if there is no such checkpoint."""
        # A failed write is no reason to stop here: the next save reports it.
        self._checkpoints.settle()
        if self._checkpoints.latest_step_of_all(self._is_good) is None:
            return None
        # Free the old state first, because a device may not have room for both.
        for leaf in jax.tree.leaves((state.params, state.ema_params, state.opt_state)):
            leaf.delete()
        return self._checkpoints.restore_newest(self._shapes, self._is_good)

    def _advise(self, may_rewind: bool) -> str:
        """Returns what the user can do, for the error message."""
        advice = "lower --config.optimizer.learning_rate in another --workdir, or check the data"
        if not self._rewinds:
            return f"Set --config.training.on_nonfinite=rewind to continue without them, {advice}"
        if may_rewind:
            return f"There is no good checkpoint left to rewind to: {advice}"
        return f"The run has used all {len(self._passed)} rewinds (--config.training.max_rewinds): {advice}"


def check_settings(training: LoopConfig, rewinds: bool) -> None:
    """Checks the settings of the guard.

    Raises:
        UserError: ``max_consecutive_nonfinite`` or ``checkpoint_every`` is below 1; or the run may rewind but keeps
            fewer than two checkpoints (the newest one has not proved good yet).
    """
    skips, every = training.max_consecutive_nonfinite, training.checkpoint_every
    if skips < 1:
        raise UserError(f"--config.training.max_consecutive_nonfinite={skips} is below 1: set it to at least 1")
    if every < 1:
        raise UserError(f"--config.training.checkpoint_every={every} is below 1: set it to at least 1")
    if rewinds and training.keep_checkpoints < 2:
        raise UserError(
            f"--config.training.keep_checkpoints={training.keep_checkpoints} is too few for on_nonfinite=rewind, "
            "because the newest checkpoint may already be bad: set it to at least 2"
        )


def count_updates(opt_state: optax.OptState) -> int | None:
    """Returns the number of updates of an optimizer, without skipped steps; None if it does not count them.

    It is the position in the learning rate schedule.
    """
    counts = [int(count) for _, count in optax.tree.get_all_with_path(opt_state, "count")]
    return max(counts, default=None)
