"""A diffusion stage as a task without its data: enough to compile its training step, also for a pod that is not here.

config -> Stage -> loss of a batch, its shapes; parameters with their axes -> Task (``tasks.stage`` adds the data)
"""

from collections.abc import Callable
from functools import partial

import jax.numpy as jnp
from jaxtyping import Array, Float

from imagen_jax.array_types import RandomKey, Scalar
from imagen_jax.cascade.experiment import Experiment, read_experiment
from imagen_jax.cascade.stage import Batch, Params, Stage, abstract_batch, build_stage, initial_params, parameter_axes
from imagen_jax.cascade.stage_loss import Losses, make_losses
from imagen_jax.config.reading import Given
from imagen_jax.config.sections import TrainingConfig
from imagen_jax.diffusion.loss import sum_by_noise_level
from imagen_jax.errors import UserError
from imagen_jax.training.task import Task

MakeLosses = Callable[[Stage, TrainingConfig], Losses]
"""``make_losses(stage, training)``: makes the loss of each example, see ``cascade.stage_loss.make_losses``."""


def make_stage_task(
    config: Given | Experiment, stage: Stage | None = None, make_losses: MakeLosses = make_losses
) -> Task:
    """Makes the task of training a stage.

    Args:
        config: config of the stage and its training.
        stage: the stage; None for the one that the config describes.
        make_losses: makes the loss.

    Raises:
        UserError: a part of the config is unknown, or ``text.null`` is one for imported weights alone.
    """
    config = read_experiment(config)
    if config.text.null != "zeros":
        raise UserError(
            f"training replaces dropped captions by zeros: set --config.text.null=zeros, not {config.text.null!r}"
        )
    stage = build_stage(config) if stage is None else stage
    return Task(
        kind="stage",
        saved=config.to_dict(),
        seed=config.seed,
        training=config.training,
        optimizer=config.optimizer,
        mesh=config.mesh,
        initial_params=partial(initial_params, stage),
        parameter_axes=partial(parameter_axes, stage),
        batch=abstract_batch(stage, config.training.batch_size, config.stage.crop),
        loss=with_noise_levels(make_losses(stage, config.training)),
        gradient_accumulation=config.training.gradient_accumulation,
    )


def with_noise_levels(
    losses: Losses,
) -> Callable[[Params, Batch, RandomKey], tuple[Scalar, Float[Array, "2 levels"]]]:
    """Makes the loss of the training step: the mean over the batch, and a stacked ``LossByNoiseLevel`` for the log."""

    def loss(params: Params, batch: Batch, key: RandomKey) -> tuple[Scalar, Float[Array, "2 levels"]]:
        of_examples, log_snr = losses(params, batch, key)
        # One array: with two, libtpu reports a program without temporaries, which no program is.
        return jnp.mean(of_examples), jnp.stack(sum_by_noise_level(of_examples, log_snr))

    return loss
