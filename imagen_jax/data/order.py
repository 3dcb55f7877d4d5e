"""Which example stands at a place of the endless row: of one data set, or of several by their weights.

    place -> block of places, and which data set's turn it is (``Order.turn``)
          -> a place of that data set's own endless row -> its epoch, and the example of that epoch (``Order.at``)

All of it is computed from the place alone, so any process can begin anywhere, and nothing has to be kept.
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
"""Places in which each data set has its share of turns, exactly; so weights are rounded to 1/4096."""

MAX_ORDER_LENGTH = 2**18
"""Examples; the order of more is not written down, 8 bytes each, but computed place by place, in about 8 µs."""


class Spot(NamedTuple):
    """An example.

    Attributes:
        data_set: which, counted from 0.
        example: which of its examples.
    """

    data_set: int
    example: int


@dataclass(frozen=True)
class Order:
    """The endless row.

    Each data set has epochs of its own: it is read once through, in a random order, before any of it is read again,
    however often the others were.

    Attributes:
        counts: examples of each data set.
        quotas: turns of each in a block.
        seed: of all that is random.
        shuffle: whether each epoch, and each block of several data sets, has a random order.
    """

    counts: tuple[int, ...]
    quotas: tuple[int, ...]
    seed: int
    shuffle: bool

    def at(self, place: int) -> Spot:
        """The example at a place."""
        data_set, own_place = self.turn(place)
        epoch, example = divmod(own_place, self.counts[data_set])
        if self.shuffle:
            example = shuffled(example, self.counts[data_set], (self.seed, epoch, data_set))
        return Spot(data_set, example)

    def turn(self, place: int) -> tuple[int, int]:
        """Whose turn it is at a place, and how many turns that data set had before."""
        if len(self.counts) == 1:
            return 0, place
        block, slot = divmod(place, BLOCK)
        turns, ranks = turns_of_block(self.quotas, (self.seed, block) if self.shuffle else None)
        data_set = turns.item(slot)
        return data_set, block * self.quotas[data_set] + ranks.item(slot)

    def epochs(self, places: int) -> list[float]:
        """How often each data set was read through, on average, after so many places."""
        return [
            places * quota / sum(self.quotas) / count for quota, count in zip(self.quotas, self.counts, strict=True)
        ]


def quotas_of(weights: Sequence[float]) -> tuple[int, ...]:
    """Turns in a block for each weight, whose sum need not be 1; each has at least one.

    Raises:
        UserError: a weight is not positive and finite, or there are more than a block has places.
    """
    if len(weights) > BLOCK or not all(0 < weight < float("inf") for weight in weights):
        raise UserError(f"data sets can't be mixed by the weights {tuple(weights)}: give each a number above 0")
    shares = np.array(weights, np.float64) / sum(weights) * BLOCK
    quotas = np.maximum(np.floor(shares), 1).astype(int)
    # What rounding down left over goes to those that lost most by it; what the least got too much, the largest pay.
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
    """Whose turn it is at each place of a block, and which of its turns there; in turn where there is no key."""
    turns = np.repeat(np.arange(len(quotas)), quotas)
    if key is not None:
        turns = np.random.default_rng([*key, MIXING]).permutation(turns)
    else:
        # Evenly spread: the k-th of n turns at (k + 1/2) / n of the block.
        spread = np.concatenate([(np.arange(quota) + 0.5) / quota for quota in quotas])
        turns = turns[np.argsort(spread, kind="stable")]
    ranks = np.empty(len(turns), int)
    ranks[np.argsort(turns, kind="stable")] = np.concatenate([np.arange(quota) for quota in quotas])
    return turns, ranks


MIXING = 2**31
"""In the key of a block's order; no data set has this number."""

EpochKey = tuple[int, int, int]
"""The run's seed, the epoch, and which data set."""


def shuffled(place: int, count: int, key: EpochKey) -> int:
    """Which of ``count`` examples an epoch reads at a place."""
    if count <= MAX_ORDER_LENGTH:
        return order_of_epoch(count, key).item(place)
    return cipher_of_epoch(count, key)[place]


def numbers_of(key: EpochKey) -> list[int]:
    """A key as NumPy takes it: with one data set only seed and epoch."""
    return list(key if key[2] else key[:2])


# A batch may straddle two epochs, and two threads may be in different ones.
@lru_cache(maxsize=64)
def cipher_of_epoch(count: int, key: EpochKey) -> grain.MapDataset:
    """The shuffled order as a sequence that takes no memory: Grain's index shuffle, a block cipher of the place."""
    seed = int(np.random.default_rng(numbers_of(key)).integers(2**32))
    return grain.MapDataset.range(count).shuffle(seed=seed)


@lru_cache(maxsize=64)
def order_of_epoch(count: int, key: EpochKey) -> Int[np.ndarray, " count"]:
    """The shuffled order in which an epoch reads ``count`` examples."""
    return np.random.default_rng(numbers_of(key)).permutation(count)
