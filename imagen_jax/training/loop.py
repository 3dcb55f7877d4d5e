"""The loop: next batch, one step, and every so often something for people or for the disk.

    batches -> put on the devices -> step -> state
                                       |-> every so often: log line, preview, checkpoint (with the data position)

While the devices compute step n the host fetches the batch of step n + 1; then it waits for step n. So the devices idle
only from one step's end to the next one's start, and that is what ``LoopClock`` measures: a batch that comes late, and
what is done between steps.
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
    """Batches on the host, whose position can be kept."""

    def __next__(self) -> Any: ...

    def get_state(self) -> Any:
        """The position: restored, the next batch is the one that would have come next."""

    def set_state(self, state: Any) -> None:
        """Goes to a position."""


class StepInfo(NamedTuple):
    """What a hook sees after a step.

    Attributes:
        state: the state after the step; the next step consumes it, so a hook must not keep it.
        metrics: the step's metrics, on the device.
        data_state: position in the data right after this step's batch.
        clock: the loop's clock.
        leaving: whether the run leaves after this step, though it is not the last.
    """

    state: TrainState
    metrics: Any
    data_state: Any
    clock: "LoopClock"
    leaving: bool = False


class Hook(NamedTuple):
    """Something done after every ``every``-th step, and after the last one.

    Attributes:
        name: under which the clock counts its seconds.
        every: how often, in steps.
        act: ``(step number, moment) -> None``; or a state, to go on from instead.
        when_leaving: whether also after the step after which a run that was told to leave leaves; there is little time,
            and what is not done then, though it is its turn, is left to whoever goes on.
    """

    name: str
    every: int
    act: Callable[[int, StepInfo], TrainState | None]
    when_leaving: bool = True


class LoopClock:
    """Where the loop's wall time went: inside the compiled step, or outside it and for what.

    Attributes:
        step_seconds: seconds from starting a step to its end, summed.
        outside_seconds: seconds by name of what was done between steps; "input" is the wait for a batch.
        steps: steps counted.
    """

    def __init__(self) -> None:
        self.step_seconds = 0.0
        self.outside_seconds: dict[str, float] = {}
        self.steps = 0

    def add_outside(self, name: str, seconds: float) -> None:
        """Counts seconds between steps under a name."""
        self.outside_seconds[name] = self.outside_seconds.get(name, 0.0) + seconds

    def add_step(self, seconds: float) -> None:
        """Counts one step."""
        self.step_seconds += seconds
        self.steps += 1

    @property
    def total_seconds(self) -> float:
        """Wall time of the loop so far."""
        return self.step_seconds + sum(self.outside_seconds.values())

    def overhead(self, *names: str) -> float:
        """Share of the loop's wall time outside the compiled step, in [0, 1]; of some names only, where given."""
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
    """Trains from ``state.step`` to ``steps``, or until it should leave.

    Args:
        state: where to start; consumed.
        step: the compiled step.
        batches: host batches, positioned right after those already learned from.
        steps: number of updates to reach.
        put: host batch to a batch on the devices.
        hooks: see ``Hook``; run in their order.
        clock: counts where the time goes.
        should_leave: asked after each step, with its number.
    """
    first = int(state.step) + 1
    if first > steps:
        return state
    began = time.perf_counter()
    batch = put(next(batches))
    ended = time.perf_counter()
    clock.add_outside("input", ended - began)
    # A thread of its own sees a step end while this one still fetches a batch.
    waiter = ThreadPoolExecutor(1)
    for number in range(first, steps + 1):
        started = time.perf_counter()
        clock.add_outside("loop", started - ended)
        state, metrics = step(state, batch)
        step_end = waiter.submit(wait_for_end, metrics)
        # Taken before next(batches): the stored position must not skip the batch that is fetched ahead.
        data_state = batches.get_state()
        if number < steps:
            batch = put(next(batches))
        fetched = time.perf_counter()
        done = step_end.result()
        clock.add_step(done - started)
        clock.add_outside("input", max(fetched - done, 0.0))
        ended = max(fetched, done)
        leaving = should_leave(number)
        moment = StepInfo(state, metrics, data_state, clock, leaving)
        for hook in hooks:
            its_turn = hook.when_leaving if leaving else number % hook.every == 0
            if its_turn or number == steps:
                replaced = hook.act(number, moment)
                if replaced is not None:
                    state = replaced
                    moment = moment._replace(state=state)
                acted = time.perf_counter()
                clock.add_outside(hook.name, acted - ended)
                ended = acted
        if leaving:
            break
    waiter.shutdown()
    return state


def wait_for_end(metrics: Any) -> float:
    """Waits for a step's metrics, and returns when they were there."""
    jax.block_until_ready(metrics)
    return time.perf_counter()
