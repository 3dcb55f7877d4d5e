"""What is done when numbers are not finite for too long: the run stops, or goes back and leaves out the bad batches.

    each step's metrics -> skipped steps in a row -> too many: a dump, then stop
                                                            or rewind: parameters of a good checkpoint, data go on

The step itself leaves everything as it was where its numbers are not finite (see ``step``). That mends a batch that is
bad, but not parameters that are.

**Rewinding.** Parameters, average and optimizer become those of a checkpoint, and with the optimizer the place in the
learning rate's course. The number of the step goes on, and with it the random key and the position in the data: as ever
it says how many batches were had, skipped ones included. So lines of metrics and checkpoints keep their order, no batch
comes twice, and the run ends after as many batches as any, with fewer updates.

The checkpoint is the newest that has shown to be good: the step after it was not skipped. Those that are passed over
are never gone back to; and where the step after a rewind is skipped too, the next rewind goes further back. One that is
damaged is set aside, and the one before it is taken. Of those that are kept, neither the passed over count nor those
made while steps are skipped, so that they push out no good one.

All this follows from the steps' metrics, which are the same in every process, and from what each checkpoint keeps
beside the position in the data. So all processes decide alike, and a run that is killed anywhere and continued does the
same as one that is not.
"""

from collections import deque
from typing import Any, NamedTuple

import jax
import optax
from ml_collections import ConfigDict

from imagen_jax.errors import UserError, lookup
from imagen_jax.storage.paths import Path
from imagen_jax.training.checkpoints.store import CheckpointStore
from imagen_jax.training.loop import Batches, StepInfo
from imagen_jax.training.monitoring.incidents import Incidents, KeyedBatches, StepSeen, warn_once
from imagen_jax.training.monitoring.spikes import SpikeFinder
from imagen_jax.training.state import TrainState

ON_NONFINITE = {"stop": False, "rewind": True}
"""What ``training.on_nonfinite`` may say, and whether that goes back to a checkpoint."""

FETCHED_AHEAD = 8
"""More batches than the loop fetches before a step's metrics are there."""

KEPT_AS = "guard"
"""The name of what a checkpoint keeps of the guard, beside the position in the data."""


class Rewind(NamedTuple):
    """One rewind.

    Attributes:
        back_to: the checkpoint's step.
        at: the step after which it was gone back to; checkpoints between the two are not to be trusted.
    """

    back_to: int
    at: int


class NonfiniteGuard:
    """The hook that looks at the metrics of every step; it comes before those that log and save.

    Args:
        training: ``max_consecutive_nonfinite``, ``on_nonfinite``, ``max_rewinds``, and how checkpoints are made.
        workdir: the run's folder.
        done: the step that the run continues from.
        checkpoints: of the run.
        shapes: of the state, with their placement.

    Raises:
        UserError: a setting is unknown or no number of steps, or too few checkpoints are kept for one to go back to.
    """

    def __init__(
        self, training: ConfigDict, workdir: Path, done: int, checkpoints: CheckpointStore, shapes: TrainState
    ) -> None:
        self._rewinds = lookup(ON_NONFINITE, training.on_nonfinite, "training.on_nonfinite")
        check_settings(training, self._rewinds)
        self._training, self._done = training, done
        self._checkpoints, self._shapes = checkpoints, shapes
        self._incidents = Incidents(workdir, done)
        self._spikes = SpikeFinder()
        self._batches: KeyedBatches | None = None
        self._row: deque[StepSeen] = deque(maxlen=training.max_consecutive_nonfinite)
        self._in_a_row = 0
        self._skipped = 0
        self._good_below = 0
        self._passed: list[Rewind] = []
        checkpoints.count_only(self._may_be_good)

    def watch(self, batches: Batches) -> KeyedBatches:
        """The batches to train on: these, whose keys are known when something happens."""
        self._batches = KeyedBatches(batches, self._done, self._training.max_consecutive_nonfinite + FETCHED_AHEAD)
        return self._batches

    @property
    def metrics(self) -> dict[str, float]:
        """What is to be told: how many steps of the run were skipped, over all its starts."""
        return {"skipped": float(self._skipped)}

    def get_state(self) -> dict[str, Any]:
        """What a checkpoint is to keep, beside the position in the data, as JSON can hold it."""
        kept = {
            "in_a_row": self._in_a_row,
            "skipped": self._skipped,
            "good_below": self._good_below,
            "passed": [list(one) for one in self._passed],
        }
        return {KEPT_AS: kept}

    def set_state(self, data_state: dict[str, Any]) -> None:
        """Takes up what a checkpoint kept; one of an older version kept nothing, and all before it may be good."""
        kept = data_state.get(KEPT_AS)
        self._good_below = self._done
        if kept:
            self._in_a_row, self._skipped, self._good_below = kept["in_a_row"], kept["skipped"], kept["good_below"]
            self._passed = [Rewind(*one) for one in kept["passed"]]

    def __call__(self, number: int, moment: StepInfo) -> TrainState | None:
        """Looks at a step; returns the state to go on from where it is another.

        Raises:
            UserError: too many steps in a row were skipped.
        """
        assert self._batches is not None, "nobody watches the batches"
        metrics = {name: float(value) for name, value in jax.device_get(moment.metrics).items()}
        loss, norm = metrics["loss"], metrics["gradient_norm"]
        if metrics["skipped"]:
            return self._note_skip(number, loss, norm, moment.state)
        self._in_a_row, self._good_below = 0, number
        self._row.clear()
        spike = self._spikes.find(loss)
        if spike:
            usual = f"where {spike.median:.4g} is usual, with a gradient norm of {norm:.4g}"
            sentence = f"the loss of step {number} is a spike: {loss:.4g}, {usual}"
            more = {"median": spike.median, "distance": spike.distance}
            self._incidents.report("spike", self._see(number, loss, norm), sentence, **more)
        return None

    def _note_skip(self, number: int, loss: float, norm: float, state: TrainState) -> TrainState | None:
        """Counts a skipped step, tells of it, and responds where it is one too many."""
        seen = self._see(number, loss, norm)
        self._row.append(seen)
        self._in_a_row += 1
        self._skipped += 1
        sentence = f"step {number} is skipped: its loss is {loss:.4g} and its gradient norm {norm:.4g}"
        self._incidents.report("skipped", seen, sentence, in_a_row=float(self._in_a_row))
        return self._respond(number, state) if self._in_a_row >= self._training.max_consecutive_nonfinite else None

    def _see(self, number: int, loss: float, norm: float) -> StepSeen:
        """A step with the keys of its batch."""
        assert self._batches is not None
        return StepSeen(number, loss, norm, self._batches.keys_of(number))

    def _respond(self, number: int, state: TrainState) -> TrainState:
        """Writes down what happened, and goes back or stops."""
        wanted = self._rewinds and len(self._passed) < self._training.max_rewinds
        facts = {
            "skipped_in_a_row": self._in_a_row,
            "rewinds_before": len(self._passed),
            "updates": count_updates(state.opt_state),
        }
        restored = self._restore(state) if wanted else None
        back_to = restored[1] if restored else None
        path = self._incidents.dump(list(self._row), facts | {"rewound_to": back_to})
        told = f"steps {number - self._in_a_row + 1} to {number} were skipped, for loss or gradient was not finite"
        if restored is None or back_to is None:
            raise UserError(f"{told}: {self._advise(wanted)}; {path} has their numbers and the keys of their batches")
        nth = f"{len(self._passed) + 1} of at most {self._training.max_rewinds} times"
        warn_once(
            f"{told}: on with the parameters of step {back_to} and the data after these ({nth}; {path} has their keys)"
        )
        self._passed.append(Rewind(back_to, number))
        # Until a step is made from it, it has shown nothing.
        self._good_below = back_to
        self._in_a_row = 0
        self._row.clear()
        self._spikes.forget()
        return restored[0]._replace(step=state.step, key=state.key)

    def _may_be_good(self, step: int) -> bool:
        """Whether nothing speaks against the checkpoint of a step."""
        return step <= self._good_below and not any(one.back_to < step < one.at for one in self._passed)

    def _is_good(self, step: int) -> bool:
        """Whether the checkpoint of a step has shown to be good."""
        return step < self._good_below and self._may_be_good(step)

    def _restore(self, state: TrainState) -> tuple[TrainState, int] | None:
        """Reads the newest good checkpoint into the place of a state; None where there is none."""
        # One that could not be written is no reason to end: whoever saves is told of it after this.
        self._checkpoints.settle()
        if self._checkpoints.latest_step_of_all(self._is_good) is None:
            return None
        # First, for a chip may not hold both.
        for leaf in jax.tree.leaves((state.params, state.ema_params, state.opt_state)):
            leaf.delete()
        return self._checkpoints.restore_newest(self._shapes, self._is_good)

    def _advise(self, wanted: bool) -> str:
        """What a user may do."""
        mend = "lower config.optimizer.learning_rate in another --workdir, or look at the data"
        if not self._rewinds:
            return f"set --config.training.on_nonfinite=rewind to go on without them, {mend}"
        if wanted:
            return f"no good checkpoint is left to go back to: {mend}"
        return f"after {len(self._passed)} rewinds that is one too many (training.max_rewinds): {mend}"


def check_settings(training: ConfigDict, rewinds: bool) -> None:
    """Checks the settings of the guard.

    Raises:
        UserError: there is no skipped step in which to respond, or none after which to save; or of the checkpoints only
            the newest is kept, which has not shown yet to be good.
    """
    skips, every = training.max_consecutive_nonfinite, training.checkpoint_every
    if skips < 1:
        raise UserError(
            f"config.training.max_consecutive_nonfinite={skips} is no number of steps: set it to at least 1"
        )
    if every < 1:
        raise UserError(f"config.training.checkpoint_every={every} is no number of steps: set it to at least 1")
    if rewinds and training.keep_checkpoints < 2:
        raise UserError(
            f"config.training.keep_checkpoints={training.keep_checkpoints} would keep no good one to rewind to, for "
            "the newest has yet to show that it is: set it to at least 2"
        )


def count_updates(opt_state: optax.OptState) -> int | None:
    """Updates that an optimizer has made, skipped steps left out: the place in the learning rate's course.

    None where it does not count them.
    """
    counts = [int(count) for _, count in optax.tree.get_all_with_path(opt_state, "count")]
    return max(counts, default=None)
