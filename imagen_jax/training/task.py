"""What a training must know of what it trains. The loop (``train.run_task``) knows no more.

    config -> Task: batch shapes, parameters and their axes, loss             (nothing is read yet)
    workdir, step to continue from -> TaskData: batches, feed, hooks          (data and encoders are opened)

A diffusion stage and a noisy classifier are tasks (``imagen_jax.tasks``); another kind of network is one more function
that returns a ``Task``.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

from imagen_jax.array_types import RandomKey
from imagen_jax.config.sections import LoopConfig, MeshConfig, OptimizerConfig
from imagen_jax.storage.paths import Path
from imagen_jax.training.loop import Batches, Hook
from imagen_jax.training.state import Params, TrainState
from imagen_jax.training.step import Differentiate, Loss


@runtime_checkable
class TrainingBatches(Batches, Protocol):
    """Host batches that are counted in the metrics, such as ``data.batches.Batches``."""

    def metrics(self, state: dict[str, Any]) -> dict[str, float]:
        """Returns metrics of the data up to a position, such as epochs."""
        ...


class TaskData(NamedTuple):
    """The data of a task, opened.

    Attributes:
        batches: host batches of the training split, at their first position.
        feed: puts a host batch on the devices, in the shapes and shardings of the training's batch.
        fingerprints: what identifies the data and the encoders, see ``training.workdir.FINGERPRINTS``.
        saved: the config to save with the run, as nested dicts.
        hooks: slow actions after a step, such as previews; they do not run when the run stops early.
        finished: ``(step) -> bool``: whether the training is complete after this step, before its last one, because it
            no longer improves. All processes must answer alike, and a resumed run as the run that it resumes.
    """

    batches: TrainingBatches
    feed: Callable[[Mapping[str, Any]], Any]
    fingerprints: Mapping[str, str]
    saved: Mapping[str, Any]
    hooks: Sequence[Hook] = ()
    finished: Callable[[int], bool] = lambda step: False


class Task(NamedTuple):
    """Something to train.

    Attributes:
        kind: a key of ``training.folder_kinds.KINDS``; the kind of workdir.
        saved: the config as nested dicts, as far as it is known before the data are opened.
        seed: seed of the parameters and of the steps' randomness.
        training: length, average, log and checkpoints of the training.
        optimizer: the optimizer.
        mesh: the mesh of devices.
        initial_params: makes random parameters from a key.
        parameter_axes: the logical axes of each parameter, see ``sharding.axes``.
        batch: shapes of a batch's arrays.
        loss: ``(params, batch, key) -> (mean loss, further metrics)``.
        gradient_accumulation: number of micro-batches of a batch.
        differentiate: computes loss and gradient for a loss whose micro-batches depend on each other, such as a
            contrastive one. None for the gradient of ``loss``.
        after_update: changes the parameters after each update.
        check_start: ``(shapes)``: raises ``UserError`` if a new run can't begin as the config says.
        start: ``(make_state, shapes) -> state``: what a new run begins with; ``make_state`` makes random parameters.
        open_data: ``(workdir, batch) -> TaskData``; the batch has shapes and shardings. None for a task that is only
            compiled.
        missing: ``(workdir, step) -> names`` of hooks that were due at a step whose output is not there.
        mfu: makes the function from steps per second to model FLOP utilisation; None if it is unknown.
    """

    kind: str
    saved: Mapping[str, Any]
    seed: int
    training: LoopConfig
    optimizer: OptimizerConfig
    mesh: MeshConfig
    initial_params: Callable[[RandomKey], Params]
    parameter_axes: Callable[[], Any]
    batch: Any
    loss: Loss
    gradient_accumulation: int = 1
    differentiate: Differentiate | None = None
    after_update: Callable[[Params], Params] = lambda params: params
    check_start: Callable[[TrainState], None] = lambda shapes: None
    start: Callable[[Callable[[], TrainState], TrainState], TrainState] = lambda make_state, shapes: make_state()
    open_data: Callable[[Path, Any], TaskData] | None = None
    missing: Callable[[Path, int], Sequence[str]] = lambda workdir, step: ()
    mfu: Callable[[], Callable[[float], float] | None] = lambda: None
