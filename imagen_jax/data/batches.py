"""Batches: shuffled anew each epoch, split by process, and resumed exactly.

    number of the batch -> places in the endless row of epochs -> this process's share of them -> stored images
    -> prepare (remembered if asked) -> vary (a generator for each place) -> stack -> finish

A batch is a pure function of the seed and its number, and Grain makes the coming ones ahead, in threads or worker
processes. So the whole state is the number of batches handed out: what was made ahead can be neither lost nor seen
twice, and a run may resume with another number of processes or workers.

An image that can't be read ends no run: the next in stored order takes its place, it is told and counted, and only
where they become too many the run stops.
"""

import signal
import weakref
from dataclasses import dataclass
from typing import Any

import grain
import numpy as np
from absl import flags, logging

from imagen_jax.data.flips import mirror_by_chance
from imagen_jax.data.order import Order, Spot, quotas_of
from imagen_jax.data.preparation.workers import die_with_parent, ignore_ctrl_c
from imagen_jax.data.stored_images import RandomAccess, StoredImage, UnreadableError
from imagen_jax.data.transforms import PreparedImage, Transform
from imagen_jax.errors import UserError
from imagen_jax.runtime.seeds import check_seed

HostBatch = dict[str, np.ndarray]

MAX_BATCHES = 2**48
"""Batches; at a thousand a second they last nine thousand years."""


UNREADABLE = "unreadable"
"""In a batch as it is made: what could not be read for it, until ``Batches`` has counted it."""

TRIES = 100
"""Images in a row; where none of them can be read, there is more amiss than single images."""


@dataclass(frozen=True)
class Mixture:
    """Several data sets as one.

    Attributes:
        sources: the stored images of each.
        weights: how often each is read, in any unit; empty: by their numbers of images. See ``order.quotas_of``.
    """

    sources: tuple[RandomAccess[StoredImage], ...]
    weights: tuple[float, ...] = ()

    def __len__(self) -> int:
        return sum(map(len, self.sources))


@dataclass(frozen=True)
class BatchMaker:
    """``maker(number)`` makes the batch of that number: this process's share of it.

    A global batch is ``batch_size`` places in a row, and each process takes one contiguous piece of it. So the pieces
    of all processes, in their order, are the batch that a single process would make.

    Attributes:
        sources: the stored images, of one data set or several.
        order: which of them stands at a place.
        transform: what they go through.
        batch_size: places of a global batch.
        seed: of the transform's random step.
        process_index: which piece of each batch is made.
        process_count: number of pieces.
        remembered: prepared images by their spot, filled as they come; None keeps none. Where a random square is cut
            along the longer side they are whole, so that the squares still vary.
        mirror: whether one in two pictures is mirrored, see ``flips``.
    """

    sources: tuple[RandomAccess[StoredImage], ...]
    order: Order
    transform: Transform
    batch_size: int
    seed: int
    process_index: int
    process_count: int
    remembered: dict[Spot, PreparedImage] | None
    mirror: bool = False

    def __call__(self, number: int) -> HostBatch:
        share = self.batch_size // self.process_count
        first = number * self.batch_size + self.process_index * share
        places = range(first, first + share)
        unreadable: list[str] = []
        images = [self._image_at(place, unreadable) for place in places]
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
            UNREADABLE: np.array(unreadable, dtype=np.str_),
        }

    def _caption_at(self, place: int, image: PreparedImage) -> str:
        """One of an image's captions: at each visit another, by chance."""
        if len(image.captions) == 1:
            return image.captions[0]
        return image.captions[self._generator(place, CAPTION).integers(len(image.captions))]

    def _generator(self, place: int, purpose: int = 0) -> np.random.Generator:
        """A generator for a place; another for each purpose, so that the draws for one change those of no other."""
        return np.random.Generator(np.random.Philox(key=[self.seed, place]).jumped(purpose))

    def _image_at(self, place: int, unreadable: list[str]) -> PreparedImage:
        """The image at a place, or the next in stored order that can be read; adds to what can't."""
        first = self.order.at(place)
        count = len(self.sources[first.data_set])
        for tried in range(min(TRIES, count)):
            spot = first._replace(example=(first.example + tried) % count)
            try:
                return self._prepare(spot)
            except UnreadableError as error:
                unreadable.append(f"image {spot.example} of data set {spot.data_set + 1}: {error}")
        raise UserError(
            f"{min(TRIES, count)} images in a row can't be read, {unreadable[-1]}: mend the disk, or prepare the data "
            "anew"
        )

    def _prepare(self, spot: Spot) -> PreparedImage:
        if self.remembered is not None and spot in self.remembered:
            return self.remembered[spot]
        stored = self.sources[spot.data_set][spot.example]
        try:
            prepared = self.transform.prepare(stored)
        except (UserError, MemoryError):
            raise
        except Exception as error:
            # Decoders raise what they please on bytes that nobody meant.
            raise UnreadableError(f"{stored.key}: {type(error).__name__}: {error}") from error
        if self.remembered is not None:
            # Two threads may prepare the same image; either result will do.
            self.remembered[spot] = prepared
        return prepared


CAPTION, MIRROR = 1, 2
"""Purposes of a place's generators, besides 0, the transform."""


class Batches:
    """An iterator of batches whose place can be saved and restored.

    Args:
        dataset: batch by number.
        order: that the batches are made in.
        identity: what must be the same for a saved place to mean the same.
        num_workers: worker processes.
        max_bad_fraction: of the images of all data sets, from 0 to 1: so many may be unreadable.
    """

    def __init__(
        self,
        dataset: grain.MapDataset,
        order: Order,
        identity: dict[str, Any],
        num_workers: int,
        max_bad_fraction: float,
    ):
        self._dataset = dataset
        self._order = order
        self._identity = identity
        self._num_workers = num_workers
        self._most_unreadable = max_bad_fraction * sum(order.counts)
        self._unreadable: set[str] = set()
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
        self._count_unreadable(batch.pop(UNREADABLE))
        return batch

    def _count_unreadable(self, found: np.ndarray) -> None:
        """Tells of what this process meets for the first time.

        Raises:
            UserError: it has met too much.
        """
        new = sorted(set(found.tolist()) - self._unreadable)
        self._unreadable.update(new)
        for one in new:
            logging.warning("Left out: %s", one)
        if len(self._unreadable) > self._most_unreadable:
            raise UserError(
                f"{len(self._unreadable)} of {sum(self._order.counts)} images can't be read, the last: {new[-1]}: "
                "prepare the data anew, or let more be left out with data.max_bad_fraction"
            )

    def metrics(self, state: dict[str, Any]) -> dict[str, float]:
        """What is to be told of the reading up to a place: how often each data set was read, and what was left out."""
        # The place, since a loop that tells of a step has read the batch of the next one.
        epochs = self._order.epochs(state["batches_read"] * self._identity["batch_size"])
        names = ["epochs"] if len(epochs) == 1 else [f"epochs_{number}" for number in range(1, len(epochs) + 1)]
        return {**dict(zip(names, epochs, strict=True)), "unreadable_images": float(len(self._unreadable))}

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
    source: RandomAccess[StoredImage] | Mixture,
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
    max_bad_fraction: float = 0.01,
) -> Batches:
    """Makes dicts of ``image``, maybe ``low_res`` (share, height, width, 3), ``caption`` and ``key`` (arrays of str).

    With ``repeat`` epoch follows upon epoch without end, and a batch may straddle two; every ``len(source)`` examples
    are one epoch, each example once. Without, one epoch is read, bar an incomplete last batch. Of several data sets
    each has epochs of its own, see ``order``.

    Args:
        source: a split, as ``load_split`` opens it, or several.
        transform: from ``transforms``.
        batch_size: of the global batch, over all processes.
        seed: of the order and of random crops, see ``check_seed``.
        shuffle: a new random order each epoch, else the stored one.
        repeat: endless.
        process_index: which share of each batch this process reads.
        process_count: number of shares.
        cache: keep prepared images in memory, height × width × 3 bytes each: 1,800 take 22 MB at 64 px, 350 MB at 256.
        num_workers: worker processes that make batches ahead; 0 makes them in two threads.
        mirror: mirror one in two pictures, where no caption speaks against it.
        data: tells the data set from others, so that no run continues on another.
        max_bad_fraction: of the images, from 0 to 1: where more can't be read, the iterator raises ``UserError``.

    Raises:
        UserError: the batch does not divide among the processes or is larger than the split, it is no seed, or
            ``cache`` is asked of worker processes, each of which would fill the memory anew. Later: too many images
            can't be read, or a file of theirs is gone.
    """
    mixture = source if isinstance(source, Mixture) else Mixture((source,))
    if batch_size < 1 or batch_size % process_count:
        raise UserError(f"a batch of {batch_size} cannot be split among {process_count} processes: choose a multiple")
    if len(source) < batch_size:
        raise UserError(f"a batch of {batch_size} is more than the split's {len(source)} images: lower batch_size")
    seed = check_seed(seed)
    if cache and num_workers:
        raise UserError("data.cache works in one process only: set data.num_workers to 0, or data.cache to False")
    if not repeat and len(mixture.sources) > 1:
        raise UserError("data sets that are read unlike often have no common end: repeat them")
    counts = tuple(map(len, mixture.sources))
    order = Order(counts, quotas_of(mixture.weights or tuple(map(float, counts))), seed, shuffle)
    remembered: dict[Spot, PreparedImage] | None = {} if cache else None
    maker = BatchMaker(
        mixture.sources, order, transform, batch_size, seed, process_index, process_count, remembered, mirror
    )
    count = MAX_BATCHES if repeat else len(mixture) // batch_size
    identity: dict[str, Any] = {
        "examples": len(source),
        "batch_size": batch_size,
        "seed": seed,
        "shuffle": shuffle,
        "repeat": repeat,
    }
    if data is not None:
        identity["data"] = data
    return Batches(grain.MapDataset.range(count).map(maker), order, identity, num_workers, max_bad_fraction)


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
        workers = grain.MultiprocessingOptions(num_workers=num_workers, per_worker_buffer_size=2)
        dataset = dataset.mp_prefetch(workers, begin_worker)
    return iter(dataset)


def begin_worker(index: int, count: int) -> None:
    """What a worker process does first; Grain's own live on when the training that started them is killed."""
    die_with_parent()
    ignore_ctrl_c()
    # Who tells all processes of a run to leave tells these too; the step at work may need their batch. Grain ends them.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
