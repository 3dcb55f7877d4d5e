"""The data sets and batches of a training, from its config: the same for every task."""

from functools import partial

import jax

from imagen_jax.config.sections import DataConfig
from imagen_jax.data.batches import Batches, Mixture, make_batches
from imagen_jax.data.data_sets import DataSets, open_data_sets
from imagen_jax.data.preparation.builder import PREPARED
from imagen_jax.data.transforms import Transform
from imagen_jax.runtime import processes


def open_configured(data: DataConfig) -> DataSets:
    """Finds or renders the data sets of a config, on this process.

    Raises:
        UserError: as ``open_data_sets``.
    """
    return open_data_sets(
        data.source,
        data.resolution,
        data.data_dir,
        data.validation_fraction,
        dict(data.options),
        data.weights,
        fold=data.fold,
        folds=data.folds,
    )


def open_agreed(data: DataConfig) -> DataSets:
    """Finds or renders the data sets of a config: process 0 first, and all must have the same.

    Raises:
        UserError: they can't be opened, or differ between processes.
    """
    opened = processes.run_on_process_zero_first(partial(open_configured, data))
    processes.check_agreement({"the data set": opened.name})
    return opened


def make_training_batches(
    data: DataConfig, opened: DataSets, images: Mixture, transform: Transform, batch_size: int, seed: int
) -> Batches:
    """Makes this process's share of the batches of the training split.

    Args:
        data: the config.
        opened: the result of ``open_configured``.
        images: its training split.
        transform: from a stored image to an example.
        batch_size: number of examples of the batch of all processes.
        seed: seed of the order and of the random choices.

    Raises:
        UserError: as ``make_batches``.
    """
    return make_batches(
        images,
        transform,
        batch_size,
        seed=seed,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        cache=data.cache,
        mirror=data.mirror,
        num_workers=data.num_workers,
        # Only for prepared data: a generated data set's folder is named for its content, and older checkpoints lack it.
        data=opened.name if data.source == PREPARED else None,
        max_bad_fraction=data.max_bad_fraction,
    )
