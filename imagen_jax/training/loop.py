"""The training loop: next batch, one step, and at regular intervals a log line, a preview or a checkpoint.

    batches -> put on the devices -> step -> state
                                       |-> every n-th step: log line, preview, checkpoint (with the data position)

While the devices compute step n, the host fetches the batch of step n + 1 and then waits for step n. So the devices are
idle only between the end of one step and the start of the next. ``LoopClock`` measures this time: the wait for late
batches, and the work between steps.
"""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax

from imagen_jax.training.state import TrainState
from imagen_jax.training.step import Batch, TrainStep


@runtime_checkable
class Batches(Protocol):
    """Batches on the host, with a position that can be saved and restored."""

    def __next__(self) -> Any: ...

    def get_state(self) -> Any:
        """Returns the position. Once it is restored, the next batch is the one that would have come next."""

    def set_state(self, state: Any) -> None:
        """Restores a position."""


class StepInfo(NamedTuple):
    """Information that a hook receives after a step.

    Attributes:
        state: state after the step; the next step consumes it, so a hook must not keep it.
        metrics: the step's metrics, on the device.
        data_state: position in the data right after this step's batch.
        clock: the loop's clock.
        leaving: whether the run stops early after this step, because ``should_leave`` returned True.
    """

    state: TrainState
    metrics: Any
    data_state: Any
    clock: "LoopClock"
    leaving: bool = False


class Hook(NamedTuple):
    """An action after every ``every``-th step, and after the last one.

    Attributes:
        name: name under which the clock counts the hook's seconds.
        every: interval in steps.
        act: ``(step number, step info) -> None``, or a state with which the loop continues.
        when_leaving: whether the hook also runs, whatever its interval, after the step at which the run stops early.
            There is little time then. If False, a hook that is due at that step is left to the resumed run.
    """

    name: str
    every: int
    act: Callable[[int, StepInfo], TrainState | None]
    when_leaving: bool = True


class LoopClock:
    """The wall time of the loop, inside the compiled step and outside it.

    Attributes:
        step_seconds: total seconds between the starts and the ends of steps.
        outside_seconds: total seconds between steps, by name of the activity; "input" is the wait for a batch.
        steps: number of steps.
    """

    def __init__(self) -> None:
        self.step_seconds = 0.0
        self.outside_seconds: dict[str, float] = {}
        self.steps = 0

    def add_outside(self, name: str, seconds: float) -> None:
        """Adds seconds between steps under a name."""
        self.outside_seconds[name] = self.outside_seconds.get(name, 0.0) + seconds

    def add_step(self, seconds: float) -> None:
        """Adds one step and its seconds."""
        self.step_seconds += seconds
        self.steps += 1

    @property
    def total_seconds(self) -> float:
        """Wall time of the loop so far, in seconds."""
        return self.step_seconds + sum(self.outside_seconds.values())

    def overhead(self, *names: str) -> float:
        """Returns the fraction of the wall time outside the compiled step, in [0, 1]; of ``names`` only, if given."""
        outside = sum(seconds for name, seconds in self.outside_seconds.items() if not names or name in names)
        return outside / self.total_seconds if self.total_seconds else 0.0


def run_loop(
    state: TrainState,
    step: TrainStep,
    batches: Batches,
    *,
    steps: int,
    put: Callable[[Any], Batch],
    hooks: Sequence[Hook],
    clock: LoopClock,
    should_leave: Callable[[int], bool] = lambda number: False,
) -> TrainState:
    """Trains from ``state.step`` to ``steps``, or until ``should_leave`` returns True; returns the last state.

    Args:
        state: first state; consumed.
        step: compiled step.
        batches: host batches, positioned after the last batch that was trained on.
        steps: number of the last step.
        put: puts a host batch on the devices.
        hooks: actions after a step, in this order; see ``Hook``.
        clock: measures the time of the loop.
        should_leave: called with the step's number after each step.
    """
    first = int(state.step) + 1
    if first > steps:
        return state
    began = time.perf_counter()
    batch = put(next(batches))
    ended = time.perf_counter()
    clock.add_outside("input", ended - began)
    # A separate thread sees the end of a step while this one still fetches a batch.
    waiter = ThreadPoolExecutor(1)
    for number in range(first, steps + 1):
        started = time.perf_counter()
        clock.add_outside("loop", started - ended)
        state, metrics = step(state, batch)
        step_end = waiter.submit(wait_for_end, metrics)
        # Read before next(batches): the stored position must not skip the batch that is fetched ahead.
        data_state = batches.get_state()
        if number < steps:
            batch = put(next(batches))
        fetched = time.perf_counter()
        done = step_end.result()
        clock.add_step(done - started)
        clock.add_outside("input", max(fetched - done, 0.0))
        ended = max(fetched, done)
        leaving = should_leave(number)
        info = StepInfo(state, metrics, data_state, clock, leaving)
        for hook in hooks:
            its_turn = hook.when_leaving if leaving else number % hook.every == 0
            if its_turn or number == steps:
                replaced = hook.act(number, info)
                if replaced is not None:
                    state = replaced
                    info = info._replace(state=state)
                acted = time.perf_counter()
                clock.add_outside(hook.name, acted - ended)
                ended = acted
        if leaving:
            break
    waiter.shutdown()
    return state


def wait_for_end(metrics: Any) -> float:
    """Waits for a step's metrics, and returns the time when they arrived, as ``time.perf_counter`` counts."""
    jax.block_until_ready(metrics)
    return time.perf_counter()
