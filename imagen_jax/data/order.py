"""Maps a position in an infinite sequence to an example: of one data set, or of several by their weights.

    position -> block of positions, and the data set whose turn it is (``Order.turn``)
             -> position in that data set's own infinite sequence -> its epoch and example (``Order.at``)

Everything is computed from the position alone, so any process can start anywhere without stored state.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import grain
import numpy as np
from jaxtyping import Int

from imagen_jax.errors import UserError

BLOCK = 4096
"""Number of positions in a block.

Every data set has its exact quota of turns in each block, so weights are rounded to 1/4096.
"""

MAX_ORDER_LENGTH = 2**18
"""Max number of examples whose shuffled order is stored, 8 bytes each.

The order of more examples is computed position by position, in about 8 µs.
"""


class Spot(NamedTuple):
    """An example of one of several data sets.

    Attributes:
        data_set: index of the data set, from 0.
        example: index of the example within it, from 0.
    """

    data_set: int
    example: int


@dataclass(frozen=True)
class Order:
    """The infinite sequence of examples.

    Each data set has its own epochs: all of its examples are read once, in random order, before any is read again. How
    often the other data sets are read does not matter.

    Attributes:
        counts: number of examples of each data set.
        quotas: number of turns of each data set in a block.
        seed: seed of all random orders.
        shuffle: whether each epoch, and each block of several data sets, has a random order.
    """

    counts: tuple[int, ...]
    quotas: tuple[int, ...]
    seed: int
    shuffle: bool

    def at(self, position: int) -> Spot:
        """Returns the example at a position."""
        data_set, own_position = self.turn(position)
        epoch, example = divmod(own_position, self.counts[data_set])
        if self.shuffle:
            example = shuffled(example, self.counts[data_set], (self.seed, epoch, data_set))
        return Spot(data_set, example)

    def turn(self, position: int) -> tuple[int, int]:
        """Returns the data set whose turn it is at a position, and how many turns it had before."""
        if len(self.counts) == 1:
            return 0, position
        block, slot = divmod(position, BLOCK)
        turns, ranks = turns_of_block(self.quotas, (self.seed, block) if self.shuffle else None)
        data_set = turns.item(slot)
        return data_set, block * self.quotas[data_set] + ranks.item(slot)

    def epochs(self, num_positions: int) -> list[float]:
        """Returns the mean number of epochs of each data set after the first ``num_positions`` positions."""
        return [
            num_positions * quota / sum(self.quotas) / count
            for quota, count in zip(self.quotas, self.counts, strict=True)
        ]


def quotas_of(weights: Sequence[float]) -> tuple[int, ...]:
    """Returns the number of turns in a block for each weight, at least 1; weights need not sum to 1.

    Raises:
        UserError: a weight is not positive and finite, or there are more weights than positions in a block.
    """
    if len(weights) > BLOCK or not all(0 < weight < float("inf") for weight in weights):
        raise UserError(f"data sets can't be mixed by the weights {tuple(weights)}: give each a number above 0")
    shares = np.array(weights, np.float64) / sum(weights) * BLOCK
    quotas = np.maximum(np.floor(shares), 1).astype(int)
    # Turns left over by rounding down go to the quotas that lost most. Turns in excess, due to the minimum of 1, are
    # taken from the largest quotas.
    left = BLOCK - int(quotas.sum())
    for index in np.argsort(quotas - shares, kind="stable")[: max(left, 0)]:
        quotas[index] += 1
    for _ in range(-left):
        quotas[np.argmax(quotas)] -= 1
    return tuple(quotas.tolist())


@lru_cache(maxsize=8)
def turns_of_block(
    quotas: tuple[int, ...], key: tuple[int, int] | None
) -> tuple[Int[np.ndarray, " block"], Int[np.ndarray, " block"]]:
    """Returns the data set of each position of a block, and the number of its earlier turns there.

    Args:
        quotas: number of turns of each data set.
        key: run seed and block number, which seed the random order; None: the turns are evenly interleaved.
    """
    turns = np.repeat(np.arange(len(quotas)), quotas)
    if key is not None:
        turns = np.random.default_rng([*key, MIXING]).permutation(turns)
    else:
        # Evenly interleaved: the k-th of n turns at (k + 1/2) / n of the block.
        spread = np.concatenate([(np.arange(quota) + 0.5) / quota for quota in quotas])
        turns = turns[np.argsort(spread, kind="stable")]
    ranks = np.empty(len(turns), int)
    ranks[np.argsort(turns, kind="stable")] = np.concatenate([np.arange(quota) for quota in quotas])
    return turns, ranks


MIXING = 2**31
"""Last number of the random key of a block's order. It is no data set's index, so no ``EpochKey`` is equal."""

EpochKey = tuple[int, int, int]
"""The run's seed, the epoch, and the data set's index."""


def shuffled(position: int, count: int, key: EpochKey) -> int:
    """Returns the index, below ``count``, of the example that an epoch reads at a position."""
    if count <= MAX_ORDER_LENGTH:
        return order_of_epoch(count, key).item(position)
    return cipher_of_epoch(count, key)[position]


def numbers_of(key: EpochKey) -> list[int]:
    """Returns an epoch's key as a NumPy seed; the first data set's key is the run's seed and the epoch alone."""
    return list(key if key[2] else key[:2])


# Keep several: a batch may span two epochs, and threads may be in different epochs.
@lru_cache(maxsize=64)
def cipher_of_epoch(count: int, key: EpochKey) -> grain.MapDataset:
    """Returns the shuffled order as a lazy sequence: Grain's index shuffle, a block cipher that needs no memory."""
    seed = int(np.random.default_rng(numbers_of(key)).integers(2**32))
    return grain.MapDataset.range(count).shuffle(seed=seed)


@lru_cache(maxsize=64)
def order_of_epoch(count: int, key: EpochKey) -> Int[np.ndarray, " count"]:
    """Returns the shuffled order in which an epoch reads ``count`` examples."""
    return np.random.default_rng(numbers_of(key)).permutation(count)
