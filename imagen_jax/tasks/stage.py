"""The training of a diffusion stage, as a task.

config -> Stage -> loss of a batch, its shapes -> Task
open data -> batches, feed; previews, an evaluation and the run's page as hooks
"""

from collections.abc import Callable, Mapping
from functools import partial

from imagen_jax.cascade.experiment import Experiment
from imagen_jax.cascade.previews import is_drawn, make_preview, recall_prompts, with_prompts
from imagen_jax.cascade.stage import Batch, Stage, build_stage
from imagen_jax.cascade.stage_loss import make_losses
from imagen_jax.cascade.stage_task import MakeLosses, make_stage_task
from imagen_jax.errors import UserError
from imagen_jax.evaluation.protocols.during_training import TrainingEvaluation, is_measured
from imagen_jax.forecast.utilisation import make_mfu
from imagen_jax.models import NETWORKS
from imagen_jax.runtime import processes
from imagen_jax.storage.paths import Path
from imagen_jax.tasks.prior_evaluation import make_prior_evaluation
from imagen_jax.tasks.stage_data import (
    StageData,
    VectorsOf,
    check_vectors,
    find_vectors,
    make_feed,
    make_transform,
    open_stage_data,
)
from imagen_jax.tasks.stage_start import check_start, start_stage
from imagen_jax.training.loop import Hook, StepInfo
from imagen_jax.training.monitoring.append_file import print_line, warn_on_write_error
from imagen_jax.training.task import Task, TaskData

PAGE = "page"
"""Name of the hook that writes the run's page."""


def stage_task(
    config: Experiment,
    stage: Stage | None = None,
    make_losses: MakeLosses = make_losses,
    vectors: Mapping[str, VectorsOf] | None = None,
) -> Task:
    """Makes the task of training a stage, with its data.

    Args:
        config: config of the stage and its training.
        stage: the stage; None for the one that the config describes.
        make_losses: makes the loss.
        vectors: a function of the examples for each vector that the network is told, by its name in ``Conditions``.

    Raises:
        UserError: a part of the config is unknown, contradictory, or for imported weights alone.
    """
    stage = build_stage(config) if stage is None else stage
    task = make_stage_task(config, stage, make_losses)
    of_images = bool(config.embedding.clip)
    transform = make_transform(config.data, config.stage.crop, stage, of_images)
    # Only a CLIP gives vectors. It is not loaded yet.
    of_captions = config.stage.text and config.text.encoder == "clip"
    check_vectors(stage, vectors or {}, of_captions, of_images)
    if stage.image_vector and config.training.evaluate_every:
        raise UserError(
            "a decoder is not evaluated during its training, since it needs the image embeddings of a prior: set "
            "config.training.evaluate_every=0, and evaluate the cascade with imagen-jax evaluate"
        )
    if stage.makes_vectors and config.training.preview_every:
        raise UserError(
            "config.training.preview_every has no meaning for a stage that makes vectors: set it to 0, and "
            "evaluate_every for measures of held-out images"
        )

    def open_data(workdir: Path, batch: Batch) -> TaskData:
        remembered = processes.run_on_process_zero_first(partial(recall_prompts, config, workdir))
        data = open_stage_data(remembered, stage, transform)
        completed = with_prompts(remembered, data.prompts)
        hooks = make_hooks(completed, stage, data, workdir)
        stored = {} if data.image_vectors is None else {"image_vector": data.image_vectors}
        feed = make_feed(stage, data.store, batch, {**stored, **(vectors or {})}, data.tokenizer)
        return TaskData(data.batches, feed, data.fingerprints, completed.to_dict(), hooks)

    own = None if config.network.name in NETWORKS else type(stage.network)
    task = task._replace(
        check_start=partial(check_start, config.training, own),
        start=partial(start_stage, config, own),
        open_data=open_data,
        missing=partial(find_missing_previews, config),
    )
    # The operations are counted with the network built in another way, which those of a user need not have.
    return task._replace(mfu=partial(make_mfu, config)) if config.network.name in NETWORKS else task


def make_hooks(config: Experiment, stage: Stage, data: StageData, workdir: Path) -> list[Hook]:
    """Makes the slow hooks: previews, an evaluation if the config enables it, and the run's page after them."""

    def forgiving(name: str, every: int, act: Callable[[int, StepInfo], None]) -> Hook:
        def show(number: int, moment: StepInfo) -> None:
            with warn_on_write_error(f"the {name} of step {number}"):
                act(number, moment)

        return Hook(name, every, show, when_leaving=False)

    def write_page(number: int, info: StepInfo) -> None:
        # Imported here, because matplotlib is slow to import and no step needs it.
        from imagen_jax.evaluation.reports.run_page import write_run_page

        try:
            write_run_page(workdir)
        except Exception as error:
            # Whatever is wrong with a page, it is not worth a training.
            print_line(f"warning: the page of the run can't be written: {error!r}. Training continues")

    there = (config.seed, stage, data.folder, data.store, workdir, data.tokenizer)
    hooks = []
    if config.training.preview_every:
        preview = make_preview(config.preview.prompts, *there, find_vectors(data, config.preview.prompts))
        hooks.append(forgiving("preview", config.training.preview_every, preview))
    if config.training.evaluate_every:
        evaluation: Callable[[int, StepInfo], None] = (
            make_prior_evaluation(config, stage, data, workdir)
            if stage.makes_vectors
            else TrainingEvaluation(config.preview, *there)
        )
        hooks.append(forgiving("evaluation", config.training.evaluate_every, evaluation))
    if processes.is_process_zero():
        every = config.training.preview_every or config.training.checkpoint_every
        hooks.append(Hook(PAGE, every, write_page, when_leaving=False))
    return hooks


def find_missing_previews(config: Experiment, workdir: Path, done: int) -> tuple[str, ...]:
    """Returns the names of hooks that were due at step ``done`` but whose output is missing."""
    there = {
        "preview": (config.training.preview_every, is_drawn),
        "evaluation": (config.training.evaluate_every, is_measured),
    }
    owed = [
        name
        for name, (every, is_there) in there.items()
        if done and every and (done % every == 0 or done == config.training.steps) and not is_there(workdir, done)
    ]
    # The page shows them.
    owed += [PAGE] if owed else []
    return tuple(processes.broadcast(owed))
