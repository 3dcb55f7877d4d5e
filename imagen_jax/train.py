"""Training of a stage, a CLIP or a prior: the function ``train``, for programs; its command is in ``commands``.

config -> task (what is trained) -> shapes of state and batch -> data -> first or restored state -> compiled step
       -> loop with hooks -> TrainingResult

``run_task`` is the training of anything: read it from top to bottom. ``tasks.stage`` puts together what is particular
to a diffusion stage: its loss (``cascade.stage_loss``), batches (``tasks.stage_data``) and ``cascade.previews``.
"""

import contextlib
import json
import os
import runpy
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

if __name__ == "__main__":
    # As ``python -m imagen_jax.train``, the command's older name. A module that defines flags can't be imported into
    # programs with flags of their own, so the command is another module.
    runpy.run_module("imagen_jax.commands.train", run_name="__main__", alter_sys=True)

import jax

from imagen_jax.cascade.experiment import Experiment, read_classifier_experiment, read_experiment
from imagen_jax.cascade.stage import build_stage
from imagen_jax.cascade.stage_loss import make_losses
from imagen_jax.cascade.stage_task import MakeLosses
from imagen_jax.config.reading import Given, is_clip, is_codes
from imagen_jax.errors import UserError
from imagen_jax.models import Network
from imagen_jax.runtime import processes
from imagen_jax.runtime.config_files import load_config
from imagen_jax.runtime.preemption import explain_exit, watching_for_exit
from imagen_jax.runtime.progress_bars import announcing, compiling
from imagen_jax.storage.paths import Path, to_path, write_whole
from imagen_jax.tasks.classifier import classifier_task, measure_accuracy
from imagen_jax.tasks.clip import clip_task
from imagen_jax.tasks.codes import codes_task
from imagen_jax.tasks.stage import stage_task
from imagen_jax.tasks.stage_data import VectorsOf
from imagen_jax.training.checkpoints.saving import Saving, make_check
from imagen_jax.training.checkpoints.store import CheckpointStore
from imagen_jax.training.compiled_training import Training, make_training
from imagen_jax.training.folder_kinds import check_trainable
from imagen_jax.training.loop import Hook, LoopClock, StepInfo, run_loop
from imagen_jax.training.monitoring.logging import open_log
from imagen_jax.training.monitoring.metrics import check_tensorboard
from imagen_jax.training.monitoring.nonfinite import NonfiniteGuard
from imagen_jax.training.monitoring.watchdog import (
    NOT_WATCHED,
    Watch,
    Watchdog,
    check_traced,
    make_heartbeat_hook,
    trace_steps,
)
from imagen_jax.training.optimizer import check_schedule, make_schedule
from imagen_jax.training.result import TrainingResult
from imagen_jax.training.state import TrainState
from imagen_jax.training.step import TrainStep
from imagen_jax.training.task import Task, TaskData
from imagen_jax.training.workdir import PATHS, check_continues, explain_unused, flatten, keep_config, make_workdir


def train(
    config: str | os.PathLike[str] | Given | Experiment,
    workdir: str | Path,
    watch: Watch = NOT_WATCHED,
    *,
    network: type[Network] | None = None,
    loss: MakeLosses = make_losses,
    vectors: Mapping[str, VectorsOf] | None = None,
) -> TrainingResult:
    """Trains a stage to ``config.training.steps``, from its newest checkpoint if there is one.

    Args:
        config: a config, see ``load_config``, or the name of a bundled config or of a config file, with its variant.
        workdir: folder of the run; the same call resumes it.
        watch: which steps to trace, and when to report a hang; nothing by default.
        network: the class of a network of your own: a Flax Linen module, called as ``models.Network``. Set
            ``config.network.name`` to ``its_module:ItsName``; the other keys of ``config.network`` are its fields. To
            sample, give it again: ``load_cascade(…, network=…)``.
        loss: makes the loss. It is called once, as ``loss(stage, config.training)``, and returns a function
            ``losses(params, batch, key)``: the loss and the log-SNR of each example. A batch is a
            ``cascade.stage.Batch``.
        vectors: for a stage that is told a vector, a function by its name, ``text_vector`` or ``image_vector``. It
            takes a batch on the host (``tasks.stage_data.VectorsOf``), and returns an array ``(batch, width)`` as wide
            as ``config.stage`` says.

    Raises:
        UserError: the config, data, workdir or disk space needs fixing by the user.
        LeavingError: SIGTERM, or Ctrl-C in a command, ended the run; its checkpoint is written.
        KeyboardInterrupt: Ctrl-C in a notebook or program. After the first step a checkpoint is written first, unless
            Ctrl-C came twice.
    """
    if isinstance(config, str | os.PathLike):
        config = load_config(config)
    workdir = to_path(workdir)
    state = train_to_end(config, workdir, watch, network=network, loss=loss, vectors=vectors)
    return TrainingResult(workdir, int(state.step))


def train_to_end(
    config: Given | Experiment,
    workdir: Path,
    watch: Watch = NOT_WATCHED,
    *,
    network: type[Network] | None = None,
    loss: MakeLosses = make_losses,
    vectors: Mapping[str, VectorsOf] | None = None,
) -> TrainState:
    """As ``train``, for a config that is read already; returns the state after the last step."""
    if not isinstance(config, Experiment) and (is_clip(config) or is_codes(config)):
        if network is not None or loss is not make_losses or vectors:
            raise UserError(
                "network, loss and vectors belong to a stage, and this config is not one of a stage: leave them out"
            )
        return run_task(clip_task(config) if is_clip(config) else codes_task(config), workdir, watch)
    config = read_experiment(config)
    check_traced(watch.traced, 0, config.training.steps)
    return run_task(stage_task(config, build_stage(config, network), loss, vectors), workdir, watch)


def run_task(task: Task, workdir: Path, watch: Watch = NOT_WATCHED) -> TrainState:
    """Trains anything: to ``task.training.steps``, from the newest checkpoint of the workdir if there is one.

    Args:
        task: what is trained.
        workdir: folder of the run.
        watch: which steps to trace, and when to report a hang; nothing by default.

    Returns:
        The state after the last step.

    Raises:
        UserError: the config, data, workdir or disk space needs fixing by the user.
        LeavingError: SIGTERM, or Ctrl-C in a command, ended the run; its checkpoint is written.
        KeyboardInterrupt: Ctrl-C in a notebook or program. After the first step a checkpoint is written first, unless
            Ctrl-C came twice.
    """
    settings, steps = task.training, task.training.steps
    if settings.tensorboard:
        check_tensorboard()
    job = make_training(task)
    claim_workdir(workdir, task)
    with (
        announcing() if processes.is_process_zero() else contextlib.nullcontext(),
        processes.lock_on_process_zero(workdir, "--workdir") as check_workdir,
        CheckpointStore(workdir / "checkpoints", settings.keep_checkpoints, settings.keep_every) as checkpoints,
    ):
        done = checkpoints.latest_step_of_all() or 0
        # A run may have ended after its last checkpoint and before its last preview.
        if done >= steps and not task.missing(workdir, done):
            state, _ = checkpoints.restore(job.state)
            # If the newest checkpoint is damaged, an earlier one was read.
            if int(state.step) >= steps:
                print_once(
                    f"{workdir} is trained already: {int(state.step)} steps.{explain_unused(workdir, task.saved)}"
                )
                return state
            del state
        check_traced(watch.traced, done, steps)
        if done < steps:
            # Raises if the learning rate reaches 0 before the last step.
            check_schedule(make_schedule(task.optimizer.to_dict()), steps)
        if not done:
            task.check_start(job.state)
        assert task.open_data is not None, "the task is only compiled"
        data = task.open_data(workdir, job.batch)
        if done:
            state, data_state = checkpoints.restore(job.state)
            done = int(state.step)
            what = "no longer improved, and ended" if data.finished(done) else "continues"
            print_once(f"{workdir} {what} after step {done} of {steps}.")
            data.batches.set_state(data_state)
        else:
            state, data_state = task.start(job.make_state, job.state), {}
        guard = NonfiniteGuard(settings, workdir, done, checkpoints, job.state)
        guard.set_state(data_state)
        if processes.is_process_zero():
            keep_config(workdir, data.saved, data.fingerprints)

        # Previews that were due at the step of the checkpoint.
        owed = task.missing(workdir, done)
        for hook in data.hooks:
            if hook.name in owed:
                hook.act(done, StepInfo(state, {}, {}, LoopClock()))
        if done < steps and not data.finished(done):
            run = Run(workdir, done, checkpoints, guard, check_workdir)
            state = train_from(state, task, job, data, run, watch)
    if int(state.step) < steps and not data.finished(int(state.step)):
        raise explain_exit(int(state.step))
    return state


class Run(NamedTuple):
    """What ``train_from`` needs of a run that starts or resumes.

    Attributes:
        workdir: folder of the run.
        done: step to continue from.
        checkpoints: checkpoints of the run.
        guard: hook that checks the metrics of every step.
        check_workdir: raises ``UserError`` if the workdir was deleted, moved or replaced.
    """

    workdir: Path
    done: int
    checkpoints: CheckpointStore
    guard: NonfiniteGuard
    check_workdir: Callable[[], None]


def train_from(state: TrainState, task: Task, job: Training, data: TaskData, run: Run, watch: Watch) -> TrainState:
    """Compiles the step, trains to the last one or until SIGTERM or Ctrl-C, and waits for the checkpoints."""
    settings, steps, clock = task.training, task.training.steps, LoopClock()

    def more_metrics(position: dict[str, Any]) -> dict[str, float]:
        return data.batches.metrics(position) | run.guard.metrics

    mfu = task.mfu() if processes.is_process_zero() else None
    with open_log(settings, run.workdir, run.done, clock, more_metrics, mfu) as logging:
        with compiling("the training step"):
            step: TrainStep = job.compile()
        if processes.is_process_zero():
            step = trace_steps(step, watch.traced, run.done, steps, run.workdir / "profile")
        saving = Saving(run.checkpoints, settings.checkpoint_every, steps, run.guard.get_state)
        with (
            Watchdog(watch.hang_seconds, watch.end_when_hung, run.done) as watchdog,
            watching_for_exit() as should_leave,
        ):
            check, heartbeat = make_check(run.check_workdir), make_heartbeat_hook(watchdog)
            # On CPUs the first collective times out after half a minute, so all processes start it together.
            processes.barrier("the step is compiled")
            state = run_loop(
                state,
                step,
                run.guard.watch(data.batches),
                steps=steps,
                put=data.feed,
                # Checkpoints are saved before the slow hooks, so that a run stopped during a preview loses nothing.
                # The heartbeat comes twice: a slow hook must not look like a step that hangs.
                hooks=[check, heartbeat, Hook("loop", 1, run.guard), *logging, saving.hook(), *data.hooks, heartbeat],
                clock=clock,
                should_leave=lambda number: should_leave(number) or data.finished(number),
            )
            # Wait inside the block, where a first signal does not end the process.
            run.checkpoints.wait()
            return state


def train_classifier(config: Given, workdir: str | Path, watch: Watch = NOT_WATCHED) -> dict[str, Any]:
    """Trains a classifier of noisy images, from its newest checkpoint if there is one, and measures its accuracy.

    Args:
        config: config of the classifier, see ``cascade.experiment.ClassifierExperiment``.
        workdir: folder of the run; the same call resumes it.
        watch: settings of profiler and watchdog.

    Returns:
        The contents of ``accuracy.json``, see ``tasks.classifier.measure_accuracy``.

    Raises:
        UserError, LeavingError, KeyboardInterrupt: as ``train``.
    """
    experiment, workdir = read_classifier_experiment(config), to_path(workdir)
    state = run_task(classifier_task(experiment), workdir, watch)
    accuracy = measure_accuracy(experiment, state)
    if processes.is_process_zero():
        write_whole(workdir / "accuracy.json", (json.dumps(accuracy, indent=2) + "\n").encode())
    return accuracy


def print_once(sentence: str) -> None:
    """Prints a sentence on process 0 only."""
    if processes.is_process_zero():
        # At once, for standard output may be a pipe, and the lines that follow are those of standard error.
        print(sentence, flush=True)


def claim_workdir(workdir: Path, task: Task) -> None:
    """Checks that all processes train the same config in the same usable folder, and creates the folder.

    Raises:
        UserError: configs or folders differ, or the folder belongs to another run or contains something else.
    """
    saved = dict(task.saved)
    here = {f"config.{key}": value for key, value in flatten(saved) if key not in PATHS}
    processes.check_agreement({**here, "the number of local devices": jax.local_device_count()})
    if processes.is_process_zero():
        check_trainable(workdir, task.kind, saved["data"])
        check_continues(workdir, saved)
        make_workdir(workdir)
    processes.check_shared(workdir)
