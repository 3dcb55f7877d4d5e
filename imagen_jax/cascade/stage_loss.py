"""The training loss of a stage.

batch -> conditions dropped and augmented -> the network, at a random noise level -> loss of each example
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from imagen_jax.array_types import PerExample, RandomKey, Scalar
from imagen_jax.cascade.stage import Batch, Params, Stage, apply_network, with_augmented
from imagen_jax.config.sections import TrainingConfig
from imagen_jax.diffusion.augmentation import augment_for_training
from imagen_jax.diffusion.conditions import DROPPED, drop, in_float32
from imagen_jax.diffusion.loss import (
    Weighting,
    denoising_losses,
    edm_weighting,
    min_snr_weighting,
    sigmoid_weighting,
    uniform_weighting,
)
from imagen_jax.diffusion.noise_levels import NOISE_LEVELS
from imagen_jax.diffusion.self_conditioning import self_condition_for_training
from imagen_jax.diffusion.variance_loss import hybrid_losses
from imagen_jax.errors import UserError, check_names, lookup

WEIGHTINGS: dict[str, Callable[[TrainingConfig], Weighting]] = {
    "uniform": lambda training: uniform_weighting,
    "min_snr": lambda training: min_snr_weighting(training.min_snr_gamma),
    "edm": lambda training: edm_weighting,
    "sigmoid": lambda training: sigmoid_weighting(training.sigmoid_bias),
}
"""Allowed values of ``training.weighting``."""

Losses = Callable[[Params, Batch, RandomKey], tuple[PerExample, PerExample]]
"""``losses(params, batch, key) -> (loss, log-SNR)`` of each example of a training batch."""


def make_losses(stage: Stage, training: TrainingConfig) -> Losses:
    """Makes a stage's ``Losses`` from ``config.training``.

    Raises:
        UserError: the weighting is unknown, or ``check_variance`` finds that the network can't learn its variance.
    """
    if stage.learns_variance:
        check_variance(stage)
    check_rates(training.drop)
    # A class stands for a caption where there is none.
    rates = {"text": training.caption_dropout, "label": training.caption_dropout, **training.drop}
    weighting = lookup(WEIGHTINGS, training.weighting, "training.weighting")(training)
    make_levels = lookup(NOISE_LEVELS, training.noise_levels, "training.noise_levels")
    levels = make_levels(
        stage.schedule, training.time_exponent, mean=training.noise_mean, deviation=training.noise_deviation
    )

    losses_of = partial(hybrid_losses, schedule=stage.schedule) if stage.learns_variance else denoising_losses

    def losses(params: Params, batch: Batch, key: RandomKey) -> tuple[PerExample, PerExample]:
        drop_key, augmentation_key, dropout_key, estimate_key, noise_key = jax.random.split(key, 5)
        conditions = drop(in_float32(batch.conditions), drop_key, rates, training.drop_together)
        conditions = with_augmented(
            stage,
            conditions,
            lambda small: augment_for_training(small, augmentation_key, stage.augmentation_schedule),
            batch.clean.shape[1],
        )
        predict = apply_network(stage, params, conditions, dropout_key)
        if stage.self_conditioned:
            predict = self_condition_for_training(predict, stage.prediction, estimate_key, stage.value_range)
        return losses_of(
            predict,
            batch.clean,
            noise_key,
            levels=levels,
            prediction=stage.prediction,
            weighting=weighting,
            stratified=training.stratified_times,
        )

    return losses


def check_variance(stage: Stage) -> None:
    """Checks that the loss of a learned variance is defined for a stage.

    Raises:
        UserError: its samples are no images, or its network is self-conditioned.
    """
    if len(stage.shape) != 3 or stage.value_range is None:
        raise UserError(
            "a network learns its variance from images of 8-bit values, and this stage makes none: set "
            f"--config.network.out_channels={stage.shape[-1]}"
        )
    if stage.self_conditioned:
        raise UserError(
            "a self-conditioned network can't learn its variance: set --config.stage.self_conditioned=False, or "
            f"--config.network.out_channels={stage.shape[-1]}"
        )


def check_rates(rates: Mapping[str, Any]) -> None:
    """Checks ``training.drop``.

    Raises:
        UserError: a name is none of a condition that can be dropped, or a rate is not in [0, 1].
    """
    check_names(rates, DROPPED, "condition in config.training.drop:")
    for name, rate in rates.items():
        if isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 <= rate <= 1:
            raise UserError(f"config.training.drop.{name} is {rate!r}: set it to a number from 0 to 1")


def make_loss(stage: Stage, training: TrainingConfig) -> Callable[[Params, Batch, RandomKey], Scalar]:
    """Makes a stage's ``loss(params, batch, key)``, the mean of ``make_losses``, which raises the same errors."""
    losses = make_losses(stage, training)
    return lambda params, batch, key: jnp.mean(losses(params, batch, key)[0])
