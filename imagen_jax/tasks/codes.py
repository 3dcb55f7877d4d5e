"""The training of an autoregressive prior of CLIP's image embeddings, as a task (Ramesh et al. 2022, section 2.2).

config -> CodeStage -> cross-entropy of codes -> Task                                      (``make_codes_task``)
open data -> code book; codes of images, captions and z_t as batches (``codes_data``)      (``codes_task``)
"""

from dataclasses import replace
from functools import partial

import jax

from imagen_jax.cascade.code_stage import (
    CodeBatch,
    abstract_code_batch,
    build_code_stage,
    initial_params,
    make_code_loss,
    parameter_axes,
)
from imagen_jax.cascade.experiment import CodesExperiment, read_codes_experiment
from imagen_jax.config.reading import Given
from imagen_jax.forecast.flops import count_operations
from imagen_jax.storage.paths import Path
from imagen_jax.tasks.codes_data import open_codes_data
from imagen_jax.training.task import Task, TaskData


def make_codes_task(config: Given | CodesExperiment) -> Task:
    """Makes the task of training a prior of codes without its data: enough to compile its training step.

    Raises:
        UserError: a part of the config is unknown or out of range.
    """
    config = read_codes_experiment(config)
    stage = build_code_stage(config)
    return Task(
        kind="codes",
        saved=config.to_dict(),
        seed=config.seed,
        training=config.training,
        optimizer=config.optimizer,
        mesh=config.mesh,
        initial_params=partial(initial_params, stage),
        parameter_axes=partial(parameter_axes, stage),
        batch=abstract_code_batch(stage, config.training.batch_size),
        loss=make_code_loss(stage, config.training.caption_dropout),
        gradient_accumulation=config.training.gradient_accumulation,
    )


def count_code_operations(config: CodesExperiment) -> int:
    """Counts the operations of the loss of a batch and its gradient, without recomputation."""
    fields = {key: value for key, value in config.network.fields.items() if key not in ("remat", "scan")}
    stage = build_code_stage(replace(config, network=replace(config.network, fields=fields)))
    loss = make_code_loss(stage, config.training.caption_dropout)
    key = jax.eval_shape(lambda: jax.random.key(0))
    params = jax.eval_shape(partial(initial_params, stage), key)
    gradient = jax.value_and_grad(loss, has_aux=True)
    return config.training.batch_size * count_operations(gradient, params, abstract_code_batch(stage, 1), key)


def codes_task(config: Given | CodesExperiment) -> Task:
    """Makes the task of training a prior of codes.

    Raises:
        UserError: a part of the config is unknown or out of range.
    """
    config = read_codes_experiment(config)

    def open_data(workdir: Path, batch: CodeBatch) -> TaskData:
        data = open_codes_data(config, workdir, batch)
        return TaskData(data.batches, data.feed, data.fingerprints, config.to_dict())

    return make_codes_task(config)._replace(open_data=open_data)
