"""Batches: shuffled anew each epoch, split by process, and resumed exactly.

    number of the batch -> places in the endless row of epochs -> this process's share of them -> stored images
    -> prepare (remembered if asked) -> vary (a generator for each place) -> stack -> finish

A batch is a pure function of the seed and its number, and Grain makes the coming ones ahead, in threads or worker
processes. So the whole state is the number of batches handed out: what was made ahead can be neither lost nor seen
twice, and a run may resume with another number of processes or workers.
"""

import weakref
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import grain
import numpy as np
from absl import flags
from jaxtyping import Int

from imagen_jax.data.flips import mirror_by_chance
from imagen_jax.data.stored_images import RandomAccess, StoredImage
from imagen_jax.data.transforms import PreparedImage, Transform
from imagen_jax.errors import UserError

HostBatch = dict[str, np.ndarray]

ENDLESS = 2**48
"""Batches; at a thousand a second they last nine thousand years."""


@dataclass(frozen=True)
class BatchMaker:
    """``maker(number)`` makes the batch of that number: this process's share of it.

    A global batch is ``batch_size`` places in a row, and each process takes one contiguous piece of it. So the pieces
    of all processes, in their order, are the batch that a single process would make.

    Attributes:
        source: the stored images.
        transform: what they go through.
        batch_size: places of a global batch.
        seed: of the order and of the transform's random step.
        shuffle: whether each epoch has its own random order.
        process_index: which piece of each batch is made.
        process_count: number of pieces.
        remembered: prepared images by their index, filled as they come; None keeps none.
        mirror: whether one in two pictures is mirrored, see ``flips``.
    """

    source: RandomAccess[StoredImage]
    transform: Transform
    batch_size: int
    seed: int
    shuffle: bool
    process_index: int
    process_count: int
    remembered: dict[int, PreparedImage] | None
    mirror: bool = False

    def __call__(self, number: int) -> HostBatch:
        share = self.batch_size // self.process_count
        first = number * self.batch_size + self.process_index * share
        places = range(first, first + share)
        images = [self._image_at(place) for place in places]
        pixels = [image.pixels for image in images]
        if self.transform.vary is not None:
            # Seeded by the place, so that a crop is the same whichever process cuts it and whatever came before.
            generators = [self._generator(place) for place in places]
            pixels = [self.transform.vary(*each) for each in zip(pixels, generators, strict=True)]
        if self.mirror:
            pixels = [
                mirror_by_chance(each, image.captions, self._generator(place, MIRROR))
                for each, image, place in zip(pixels, images, places, strict=True)
            ]
        return {
            **self.transform.finish(np.stack(pixels)),
            "caption": np.array([self._caption_at(*each) for each in zip(places, images, strict=True)]),
            "key": np.array([image.key for image in images]),
        }

    def _caption_at(self, place: int, image: PreparedImage) -> str:
        """One of an image's captions: at each visit another, by chance."""
        if len(image.captions) == 1:
            return image.captions[0]
        return image.captions[self._generator(place, CAPTION).integers(len(image.captions))]

    def _generator(self, place: int, purpose: int = 0) -> np.random.Generator:
        """A generator for a place; another for each purpose, so that the draws for one change those of no other."""
        return np.random.Generator(np.random.Philox(key=[self.seed, place]).jumped(purpose))

    def _image_at(self, place: int) -> PreparedImage:
        epoch, index = divmod(place, len(self.source))
        if self.shuffle:
            index = shuffled(index, len(self.source), self.seed, epoch)
        if self.remembered is None:
            return self.transform.prepare(self.source[index])
        # Two threads may prepare the same image; either result will do.
        if index not in self.remembered:
            self.remembered[index] = self.transform.prepare(self.source[index])
        return self.remembered[index]


CAPTION, MIRROR = 1, 2
"""Purposes of a place's generators, besides 0, the transform."""

LONGEST_ORDER = 2**21
"""Examples; the order of more is not written down, 8 bytes each, but computed place by place, in about 8 µs."""


def shuffled(place: int, count: int, seed: int, epoch: int) -> int:
    """Which of ``count`` examples an epoch reads at a place."""
    if count <= LONGEST_ORDER:
        return int(order_of_epoch(count, seed, epoch)[place])
    return cipher_of_epoch(count, seed, epoch)[place]


@lru_cache(maxsize=4)
def cipher_of_epoch(count: int, seed: int, epoch: int) -> grain.MapDataset:
    """The same as a sequence that takes no memory: Grain's index shuffle, a block cipher of the place."""
    key = int(np.random.default_rng([seed, epoch]).integers(2**32))
    return grain.MapDataset.range(count).shuffle(seed=key)


# A batch may straddle two epochs, and two threads may be in different ones.
@lru_cache(maxsize=4)
def order_of_epoch(count: int, seed: int, epoch: int) -> Int[np.ndarray, " count"]:
    """The shuffled order in which an epoch reads ``count`` examples."""
    return np.random.default_rng([seed, epoch]).permutation(count)


class Batches:
    """An iterator of batches whose place can be saved and restored."""

    def __init__(self, dataset: grain.MapDataset, identity: dict[str, Any], num_workers: int):
        self._dataset = dataset
        self._identity = identity
        self._num_workers = num_workers
        self._batches_read = 0
        self._iterator: grain.DatasetIterator | None = None

    def __iter__(self) -> "Batches":
        return self

    def __next__(self) -> HostBatch:
        if self._iterator is None:
            self._iterator = make_ahead(self._dataset, self._batches_read, self._num_workers)
            # Also when the program ends: later, Grain would miss modules that its threads and workers need to stop.
            weakref.finalize(self, self._iterator.close)
        batch = next(self._iterator)
        self._batches_read += 1
        return batch

    def get_state(self) -> dict[str, Any]:
        """Returns the place after the last batch handed out, as a dict that JSON can hold."""
        return {"batches_read": self._batches_read, **self._identity}

    def set_state(self, state: dict[str, Any]) -> None:
        """Goes to a saved place: the next batch is the one that came next then.

        Raises:
            UserError: the state is from other data, another batch size or another seed, whose order is another.
        """
        for name, value in self._identity.items():
            if state.get(name) != value:
                raise UserError(
                    f"the saved data position was made with {name} {state.get(name)} and this run has {value}: "
                    "resume with the same, or start in a new workdir"
                )
        self._batches_read = state["batches_read"]
        if self._iterator is not None:
            self._iterator.close()
            self._iterator = None


def make_batches(
    source: RandomAccess[StoredImage],
    transform: Transform,
    batch_size: int,
    *,
    seed: int,
    shuffle: bool = True,
    repeat: bool = True,
    process_index: int = 0,
    process_count: int = 1,
    cache: bool = False,
    num_workers: int = 0,
    data: str | None = None,
    mirror: bool = False,
) -> Batches:
    """Makes dicts of ``image``, maybe ``low_res`` (share, height, width, 3), ``caption`` and ``key`` (arrays of str).

    With ``repeat`` epoch follows upon epoch without end, and a batch may straddle two; every ``len(source)`` examples
    are one epoch, each example once. Without, one epoch is read, bar an incomplete last batch.

    Args:
        source: a split, as ``load_split`` opens it.
        transform: from ``transforms``.
        batch_size: of the global batch, over all processes.
        seed: of the order and of random crops, at least 0.
        shuffle: a new random order each epoch, else the stored one.
        repeat: endless.
        process_index: which share of each batch this process reads.
        process_count: number of shares.
        cache: keep prepared images in memory, height × width × 3 bytes each: 1,800 take 22 MB at 64 px, 350 MB at 256.
        num_workers: worker processes that make batches ahead; 0 makes them in two threads.
        mirror: mirror one in two pictures, where no caption speaks against it.
        data: tells the data set from others, so that no run continues on another.

    Raises:
        UserError: the batch does not divide among the processes or is larger than the split, the seed is negative, or
            ``cache`` is asked of worker processes, each of which would fill the memory anew.
    """
    if batch_size < 1 or batch_size % process_count:
        raise UserError(f"a batch of {batch_size} cannot be split among {process_count} processes: choose a multiple")
    if len(source) < batch_size:
        raise UserError(f"a batch of {batch_size} is more than the split's {len(source)} images: lower batch_size")
    if seed < 0:
        raise UserError(f"the seed is {seed}: choose one of at least 0")
    if cache and num_workers:
        raise UserError("data.cache works in one process only: set data.num_workers to 0, or data.cache to False")
    remembered: dict[int, PreparedImage] | None = {} if cache else None
    maker = BatchMaker(source, transform, batch_size, seed, shuffle, process_index, process_count, remembered, mirror)
    count = ENDLESS if repeat else len(source) // batch_size
    identity: dict[str, Any] = {
        "examples": len(source),
        "batch_size": batch_size,
        "seed": seed,
        "shuffle": shuffle,
        "repeat": repeat,
    }
    if data is not None:
        identity["data"] = data
    return Batches(grain.MapDataset.range(count).map(maker), identity, num_workers)


def make_ahead(batches: grain.MapDataset, start: int, num_workers: int) -> grain.DatasetIterator:
    """Iterates from batch ``start`` on, making a few batches ahead in threads or worker processes."""
    # Few: Grain's default of 500 would hold 500 whole batches in memory.
    # One thread a worker, so that workers are what there are of; without workers two threads.
    options = grain.ReadOptions(num_threads=1 if num_workers else 2, prefetch_buffer_size=2)
    dataset = batches.slice(slice(start, None)).to_iter_dataset(options)
    if num_workers:
        # Grain hands absl's flags to its workers, and a program without an absl main has not parsed them.
        if not flags.FLAGS.is_parsed():
            flags.FLAGS.mark_as_parsed()
        dataset = dataset.mp_prefetch(grain.MultiprocessingOptions(num_workers=num_workers, per_worker_buffer_size=2))
    return iter(dataset)
