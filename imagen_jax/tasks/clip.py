"""The training of a CLIP, as a task.

config -> two towers (Pair) -> contrastive loss of a whole batch -> Task
open data -> pairs; measurements on held-out pairs, and the exported weights, as hooks (``clip_data``, ``clip_hooks``)
"""

from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from imagen_jax.array_types import RandomKey, Scalar
from imagen_jax.cascade.experiment import ClipExperiment, read_clip_experiment
from imagen_jax.clip.pair import Pair, Pairs, Params, example_input, limit_scale, make_pair
from imagen_jax.config.clip_sections import ClipTrainingConfig
from imagen_jax.config.reading import Given
from imagen_jax.config.sections import MeshConfig
from imagen_jax.diffusion.schedules import SCHEDULES
from imagen_jax.errors import UserError, lookup
from imagen_jax.forecast.flops import count_operations
from imagen_jax.storage.paths import Path
from imagen_jax.tasks.clip_data import open_clip_data
from imagen_jax.tasks.clip_hooks import ClipHook, class_prompts, find_missing_measurement
from imagen_jax.tasks.clip_loss import embed_pairs, loss_of_embeddings
from imagen_jax.tasks.clip_start import check_clip_start, start_clip
from imagen_jax.training.step import Differentiate
from imagen_jax.training.task import Task, TaskData
from imagen_jax.training.whole_batch import (
    differentiate_cached,
    differentiate_whole,
    sharpness_aware,
    sharpness_aware_in_shares,
)


def clip_task(config: Given | ClipExperiment) -> Task:
    """Makes the task of training a CLIP.

    Raises:
        UserError: a part of the config is unknown or contradictory, or the batch has fewer than two pairs.
    """
    config = read_clip_experiment(config)
    pair = build_pair(config)
    check_training(config.training, config.mesh)
    check_noise(config.clip.noise_schedule, pair)
    embed = partial(embed_pairs, pair, config.clip)
    loss = partial(loss_of_embeddings, config.clip)
    differentiate = make_differentiate(embed, loss, config.training)

    def loss_of_batch(params: Params, batch: Pairs, key: RandomKey) -> tuple[Scalar, Any]:
        return loss(params, embed(params, batch, key), batch)

    def open_data(workdir: Path, batch: Pairs) -> TaskData:
        prompts = class_prompts(config)
        data = open_clip_data(config, pair, workdir, batch, prompts.list_distinct() if prompts else ())
        hook = ClipHook(config, pair, data, workdir)
        return TaskData(
            data.batches, data.feed, data.fingerprints, config.to_dict(), hook.hooks(), finished=hook.is_finished
        )

    return Task(
        kind="clip",
        saved=config.to_dict(),
        seed=config.seed,
        training=config.training,
        optimizer=config.optimizer,
        mesh=config.mesh,
        initial_params=pair.initial_params,
        parameter_axes=pair.parameter_axes,
        batch=abstract_pairs(pair, config.training.batch_size),
        loss=loss_of_batch,
        gradient_accumulation=config.training.gradient_accumulation,
        differentiate=differentiate,
        after_update=partial(limit_scale, max_scale=config.clip.max_scale),
        check_start=partial(check_clip_start, config, pair),
        start=partial(start_clip, config, pair),
        open_data=open_data,
        missing=partial(find_missing_measurement, config.training),
    )


def build_pair(config: ClipExperiment) -> Pair:
    """Builds the towers that a config describes.

    Raises:
        UserError: a name or a field is unknown.
    """
    image, text = ({"name": tower.name, **tower.fields} for tower in (config.image_tower, config.text_tower))
    return make_pair(image, text, config.clip.embedding, config.clip.loss)


def count_step_operations(config: ClipExperiment) -> int:
    """Counts the operations of the loss of a batch and its gradient, without recomputation.

    Those of the towers grow with the batch size N, and those of the cosines, 6 N² d for d channels, with its square.
    """
    image, text = (
        replace(tower, fields={key: value for key, value in tower.fields.items() if key not in ("remat", "scan")})
        for tower in (config.image_tower, config.text_tower)
    )
    pair = build_pair(replace(config, image_tower=image, text_tower=text))

    def embed(params: Params, batch: Pairs, key: RandomKey) -> Scalar:
        return sum(map(jnp.sum, embed_pairs(pair, config.clip, params, batch, key)), jnp.zeros(()))

    key = jax.eval_shape(lambda: jax.random.key(0))
    params = jax.eval_shape(pair.initial_params, key)
    of_pair = count_operations(jax.value_and_grad(embed), params, abstract_pairs(pair, 1), key)
    size = config.training.batch_size
    return size * of_pair + 6 * size**2 * config.clip.embedding


def check_training(training: ClipTrainingConfig, mesh: MeshConfig) -> None:
    """Checks that a contrastive training is possible as its config says.

    Raises:
        UserError: the batch has fewer than two pairs, or the settings of SAM contradict others.
    """
    if training.batch_size < 2:
        raise UserError(
            f"config.training.batch_size={training.batch_size}: a contrastive loss compares each pair with the others "
            "of its batch, so set it to 2 or more"
        )
    if training.sam_rho < 0:
        raise UserError(f"config.training.sam_rho={training.sam_rho}: set it to 0 (no SAM) or more")
    share = training.sam_share
    if not share:
        return
    if not training.sam_rho:
        raise UserError("config.training.sam_share has no effect at config.training.sam_rho=0: set both")
    if share < 2 or training.batch_size % share:
        raise UserError(
            f"config.training.sam_share={share} does not divide the batch of {training.batch_size} into shares of two "
            "or more: set it to a divisor"
        )
    if mesh.fsdp != 1 or mesh.tensor != 1:
        raise UserError(
            "config.training.sam_share gives each share parameters of its own, which can't be sharded: set "
            "config.mesh.fsdp=1 and config.mesh.tensor=1, or sam_share=0"
        )
    if training.gradient_accumulation != 1:
        raise UserError(
            "config.training.sam_share embeds the shares at once: set config.training.gradient_accumulation=1, or "
            "sam_share=0"
        )


def check_noise(schedule: str, pair: Pair) -> None:
    """Checks that the image tower is told the noise level if, and only if, images are noisy.

    Raises:
        UserError: it is not, or the schedule is unknown.
    """
    told = bool(getattr(pair.image, "noise_conditioned", False))
    if schedule:
        lookup(SCHEDULES, schedule, "clip.noise_schedule")
    if told != bool(schedule):
        raise UserError(
            f"config.clip.noise_schedule={schedule!r} and config.image_tower.noise_conditioned={told} contradict each "
            "other: set both, for a vision_transformer that guides diffusion, or neither"
        )


def make_differentiate(embed: Any, loss: Any, training: ClipTrainingConfig) -> Differentiate:
    """Makes the gradient of the loss, with gradient accumulation or SAM if the config says so."""
    if training.sam_share:
        return sharpness_aware_in_shares(embed, loss, training.sam_rho, training.sam_share)
    pieces = training.gradient_accumulation
    whole = differentiate_cached(embed, loss, pieces) if pieces > 1 else differentiate_whole(embed, loss)
    return sharpness_aware(whole, training.sam_rho) if training.sam_rho else whole


def abstract_pairs(pair: Pair, size: int) -> Pairs:
    """Returns the shapes of a batch."""

    def of_batch(example: jax.Array) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((size, *example.shape[1:]), example.dtype)

    images, captions = example_input(pair.image), example_input(pair.text)
    shapes: Any = (of_batch(images), of_batch(captions), jax.ShapeDtypeStruct((size,), jnp.int32))
    return Pairs(*shapes)
