"""Makes batches: reshuffled each epoch, split by process, and exactly resumable.

    batch number -> positions in the infinite sequence of epochs -> this process's share of them -> stored images
    -> prepare (cached if configured) -> vary (one random generator per position) -> stack -> finish -> degrade

A batch is a pure function of the seed and its number. Grain prefetches the next ones, in threads or worker processes.
The iterator's whole state is therefore the number of batches returned. No prefetched batch is lost or repeated, and a
run may resume with another number of processes or workers.

An unreadable image does not end the run: the next image in stored order replaces it, and it is logged and counted. The
run stops only if too many images are unreadable.
"""

import signal
import weakref
from dataclasses import dataclass
from typing import Any

import grain
import numpy as np
from absl import flags, logging

from imagen_jax.data.flips import choose_mirror
from imagen_jax.data.order import Order, Spot, quotas_of
from imagen_jax.data.preparation.workers import die_with_parent, ignore_ctrl_c
from imagen_jax.data.stored_images import RandomAccess, StoredImage, UnreadableError
from imagen_jax.data.transforms import PreparedImage, Transform
from imagen_jax.errors import UserError
from imagen_jax.runtime.seeds import check_seed

HostBatch = dict[str, np.ndarray]

MAX_BATCHES = 2**48
"""Number of batches of an endless data set: at 1,000 batches a second they last about 9,000 years."""


UNREADABLE = "unreadable"
"""Key of a new batch: descriptions of the images that could not be read for it. ``Batches`` removes it."""

TRIES = 100
"""Max number of images tried for one position. If all are unreadable, more than single images is damaged."""


@dataclass(frozen=True)
class Mixture:
    """Several data sets that are read as one.

    Attributes:
        sources: the stored images of each data set.
        weights: relative sampling frequency of each data set; empty: proportional to their numbers of images. See
            ``order.quotas_of``.
    """

    sources: tuple[RandomAccess[StoredImage], ...]
    weights: tuple[float, ...] = ()

    def __len__(self) -> int:
        return sum(map(len, self.sources))


@dataclass(frozen=True)
class BatchMaker:
    """Makes this process's share of a batch: ``maker(number)``.

    A global batch is ``batch_size`` consecutive positions, and each process reads one contiguous slice of them.
    Concatenated in process order, the slices are the batch that a single process would make.

    Attributes:
        sources: the stored images of one data set or several.
        order: maps a position to a data set and an example.
        transform: the steps applied to each image.
        batch_size: number of examples in a global batch.
        seed: seed of the transform's random step, of mirroring, and of the choice among captions.
        process_index: index of this process's slice of each batch.
        process_count: number of slices.
        remembered: cache of prepared images by ``Spot``, filled as they are read; None disables it. Where squares are
            cropped at random along the longer side, the cached images are uncropped, so that crops still vary.
        mirror: whether images are mirrored with probability 1/2, see ``flips``.
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
        positions = range(first, first + share)
        unreadable: list[str] = []
        images = [self._image_at(position, unreadable) for position in positions]
        pixels = [image.pixels for image in images]
        if self.transform.vary is not None:
            # Seeded by the position, so a crop depends neither on the process that makes it nor on earlier batches.
            generators = [self._generator(position) for position in positions]
            pixels = [self.transform.vary(*each) for each in zip(pixels, generators, strict=True)]
        mirrored = [
            self.mirror and choose_mirror(image.captions, self._generator(position, MIRROR))
            for image, position in zip(images, positions, strict=True)
        ]
        pixels = [each[:, ::-1] if turned else each for each, turned in zip(pixels, mirrored, strict=True)]
        stacked = np.stack(pixels)
        arrays = self.transform.finish(stacked)
        if self.transform.degrade is not None:
            arrays |= self.transform.degrade(
                stacked, [self._generator(position, DEGRADATION) for position in positions]
            )
        return {
            **arrays,
            "mirrored": np.array(mirrored, dtype=bool),
            "caption": np.array([self._caption_at(*each) for each in zip(positions, images, strict=True)]),
            "key": np.array([image.key for image in images]),
            UNREADABLE: np.array(unreadable, dtype=np.str_),
        }

    def _caption_at(self, position: int, image: PreparedImage) -> str:
        """Returns one of an image's captions, chosen at random for each position."""
        if len(image.captions) == 1:
            return image.captions[0]
        return image.captions[self._generator(position, CAPTION).integers(len(image.captions))]

    def _generator(self, position: int, purpose: int = 0) -> np.random.Generator:
        """Returns the random generator of a position and a purpose; different purposes have independent streams."""
        return np.random.Generator(np.random.Philox(key=[self.seed, position]).jumped(purpose))

    def _image_at(self, position: int, unreadable: list[str]) -> PreparedImage:
        """Returns the image at a position, or the next readable one in stored order.

        Args:
            position: index in the infinite sequence of examples.
            unreadable: list that receives a description of each unreadable image.

        Raises:
            UserError: ``TRIES`` consecutive images, or all of a smaller data set, are unreadable.
        """
        first = self.order.at(position)
        count = len(self.sources[first.data_set])
        for tried in range(min(TRIES, count)):
            spot = first._replace(example=(first.example + tried) % count)
            try:
                return self._prepare(spot)
            except UnreadableError as error:
                unreadable.append(f"image {spot.example} of data set {spot.data_set + 1}: {error}")
        raise UserError(
            f"{min(TRIES, count)} consecutive images can't be read, the last: {unreadable[-1]}: fix the disk, or "
            "prepare the data again"
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
            # Decoders raise many exception types on invalid bytes.
            raise UnreadableError(f"{stored.key}: {type(error).__name__}: {error}") from error
        if self.remembered is not None:
            # Two threads may prepare the same image; both results are equal.
            self.remembered[spot] = prepared
        return prepared


CAPTION, MIRROR, DEGRADATION = 1, 2, 3
"""Purposes of a position's generators; purpose 0 is the transform."""


class Batches:
    """An iterator of batches whose state can be saved and restored.

    Args:
        dataset: data set whose element ``i`` is batch ``i``.
        order: the order of the examples.
        identity: settings that must be equal for a saved state to be valid.
        num_workers: number of worker processes.
        max_bad_fraction: max fraction of unreadable images, from 0 to 1, over all data sets.
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
        self._max_unreadable = max_bad_fraction * sum(order.counts)
        self._unreadable: set[str] = set()
        self._batches_read = 0
        self._iterator: grain.DatasetIterator | None = None

    def __iter__(self) -> "Batches":
        return self

    def __next__(self) -> HostBatch:
        if self._iterator is None:
            self._iterator = make_ahead(self._dataset, self._batches_read, self._num_workers)
            # Also closes the iterator at exit: later, modules that Grain's threads and workers need to stop are gone.
            weakref.finalize(self, self._iterator.close)
        batch = next(self._iterator)
        self._batches_read += 1
        self._count_unreadable(batch.pop(UNREADABLE))
        return batch

    def _count_unreadable(self, found: np.ndarray) -> None:
        """Logs and counts images that this process finds unreadable for the first time.

        Raises:
            UserError: the unreadable images exceed ``max_bad_fraction``.
        """
        new = sorted(set(found.tolist()) - self._unreadable)
        self._unreadable.update(new)
        for one in new:
            logging.warning("Left out: %s", one)
        if len(self._unreadable) > self._max_unreadable:
            raise UserError(
                f"{len(self._unreadable)} of {sum(self._order.counts)} images can't be read, the last: {new[-1]}: "
                "prepare the data again, or raise data.max_bad_fraction"
            )

    def metrics(self, state: dict[str, Any]) -> dict[str, float]:
        """Returns the metrics at a saved state: the epochs of each data set, and the number of unreadable images."""
        # Uses the given state: when the training loop logs a step, it has already read the next step's batch.
        epochs = self._order.epochs(state["batches_read"] * self._identity["batch_size"])
        names = ["epochs"] if len(epochs) == 1 else [f"epochs_{number}" for number in range(1, len(epochs) + 1)]
        return {**dict(zip(names, epochs, strict=True)), "unreadable_images": float(len(self._unreadable))}

    def get_state(self) -> dict[str, Any]:
        """Returns the state after the last returned batch, as a JSON-serialisable dict."""
        return {"batches_read": self._batches_read, **self._identity}

    def set_state(self, state: dict[str, Any]) -> None:
        """Restores a saved state: the next batch is the one that followed when the state was saved.

        Raises:
            UserError: the state was saved with other data, another batch size, another seed or another order.
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


def check_batch_size(batch_size: int, process_count: int, images: int) -> None:
    """Checks that a batch can be divided among the processes, and has no more than all images of the split.

    Raises:
        UserError: the batch size is not a multiple of the process count or exceeds the split.
    """
    if batch_size < 1 or batch_size % process_count:
        raise UserError(f"batch_size {batch_size} is not a positive multiple of {process_count} processes: choose one")
    if images < batch_size:
        largest = images // process_count * process_count
        fix = f"set it to at most {largest}" if largest else "add images, or use fewer processes"
        raise UserError(
            f"batch_size {batch_size} exceeds the split's {images} images: {fix}, as under 'With few images' in "
            "docs/own_images.md"
        )


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
    """Returns an iterator of dicts: ``image``, ``low_res`` for super-resolution, ``caption``, ``key`` and ``mirrored``.

    Images have the shape (share, height, width, 3), with ``share = batch_size / process_count``. Texts are str.
    ``mirrored`` is bool: which images were mirrored. Without ``mirror``, none was.
    With ``repeat`` epochs follow each other without end, and a batch may span two of them. Every ``len(source)``
    examples are one epoch, which contains each example once. Without ``repeat`` one epoch is read, and an incomplete
    last batch is dropped. With several data sets each has its own epochs, see ``order``.

    Args:
        source: a split, as ``load_split`` opens it, or a mixture of several.
        transform: a transform from ``transforms``.
        batch_size: size of the global batch, over all processes.
        seed: seed of the order and of all random choices, see ``check_seed``.
        shuffle: whether each epoch has a new random order instead of the stored order.
        repeat: whether epochs repeat without end.
        process_index: index of the share that this process reads of each batch.
        process_count: number of shares.
        cache: whether to keep prepared images in memory: 1,800 take 22 MB at 64 px and 350 MB at 256 px.
        num_workers: number of worker processes that prefetch batches; 0: two threads.
        data: identifier of the data. ``Batches.set_state`` rejects a state saved with another identifier.
        mirror: whether to mirror images with probability 1/2, where no caption forbids it.
        max_bad_fraction: max fraction of unreadable images, from 0 to 1. Above it, the iterator raises ``UserError``.

    Raises:
        UserError: the batch size is not a multiple of the process count or exceeds the split; the seed or a weight is
            invalid; several data sets are not repeated; or ``cache`` is combined with worker processes. The iterator
            raises it if too many images are unreadable, or if one of their files is missing.
    """
    mixture = source if isinstance(source, Mixture) else Mixture((source,))
    check_batch_size(batch_size, process_count, len(source))
    seed = check_seed(seed)
    if cache and num_workers:
        raise UserError("data.cache works in one process only: set data.num_workers to 0, or data.cache to False")
    if not repeat and len(mixture.sources) > 1:
        raise UserError("the epochs of several data sets have no common end: set repeat to True")
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
    """Iterates from batch ``start``, prefetching a few batches in threads or worker processes."""
    # A small buffer: Grain's default of 500 elements would hold 500 whole batches in memory. Each worker process has
    # one thread, so that ``num_workers`` alone sets the parallelism.
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
    """Initialises a worker process: it exits with its parent, and ignores Ctrl-C and SIGTERM.

    Grain's workers would otherwise outlive a killed training process.
    """
    die_with_parent()
    ignore_ctrl_c()
    # A SIGTERM to all processes of a run reaches the workers too, while the current step may still need their batches.
    # Grain ends its workers itself.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
