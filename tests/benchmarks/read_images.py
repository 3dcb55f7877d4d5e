"""How fast stored JPEGs become batches: against Pillow, against torch's DataLoader, and with one worker and two.

From the repository's root::

    python -m tests.benchmarks.read_images write FOLDER      # 2,000 JPEGs of 512 px, prepared as users prepare theirs
    python -m tests.benchmarks.read_images cores FOLDER      # images a second of one core: Pillow, we; in turn, medians
    python -m tests.benchmarks.read_images workers FOLDER    # the whole pipeline with one worker process and two
    python -m tests.benchmarks.read_images memory FOLDER     # peak of a process that reads a million small records

``workers`` also measures torch's DataLoader where torch is installed, doing the same by Pillow: open, resize, crop.
"""

import argparse
import io
import resource
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from imagen_jax.data.batches import make_batches
from imagen_jax.data.pixels import decode_pixels, resize_area, to_image, to_pixels
from imagen_jax.data.preparation.conversion import Conversion
from imagen_jax.data.preparation.preparation import Preparation, prepare
from imagen_jax.data.sources.records import Part, Record
from imagen_jax.data.sources.synthetic import synthetic_parts
from imagen_jax.data.stored_images import load_split
from imagen_jax.data.transforms import make_example

RESOLUTION = 64
SIDE = 512
COUNT = 2000
BATCH = 64
ROUNDS = 5
MILLION = 1_000_000


def draw_texture(number: int) -> bytes:
    """A JPEG with detail at every scale, as a photo has: about 37 kB."""
    generator = np.random.default_rng(number)
    image = np.zeros((SIDE, SIDE, 3))
    for cells in (4, 8, 16, 32, 64, 128, 256):
        noise = Image.fromarray(generator.integers(0, 256, (cells, cells, 3), np.uint8))
        image += np.asarray(noise.resize((SIDE, SIDE), Image.Resampling.BICUBIC)) / cells**0.8
    image -= image.min()
    buffer = io.BytesIO()
    Image.fromarray((255 * image / image.max()).astype(np.uint8)).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def read_textures(first: int, count: int) -> Iterator[Record]:
    """The records of a part."""
    for number in range(first, first + count):
        yield Record(f"{number:06d}", (f"texture {number}",), draw_texture(number))


def write(folder: Path) -> None:
    """Prepares the data set."""
    parts = [Part(f"{first}", "1", partial(read_textures, first, 250)) for first in range(0, COUNT, 250)]
    prepare(Preparation("textures", {}, "Drawn", parts, Conversion(validation_fraction=0.0)), folder / "images", 2)


def with_pillow(encoded: bytes) -> np.ndarray:
    """What one writes first."""
    with Image.open(io.BytesIO(encoded)) as image:
        return np.asarray(image.resize((RESOLUTION, RESOLUTION)))


def exact_means(encoded: bytes) -> np.ndarray:
    """Of the picture decoded whole: what both others come near to."""
    return to_pixels(resize_area(to_image(decode_pixels(encoded)), RESOLUTION))


def closeness(images: Iterable[np.ndarray], exact: Iterable[np.ndarray]) -> float:
    """Peak signal-to-noise ratio, in dB."""
    errors = [np.mean((one.astype(float) - other) ** 2) for one, other in zip(images, exact, strict=True)]
    return 10 * float(np.log10(255**2 / np.mean(errors)))


def with_pillow_cropped(encoded: bytes) -> np.ndarray:
    """The same with the shorter side resized, and a centre square."""
    with Image.open(io.BytesIO(encoded)) as image:
        scale = RESOLUTION / min(image.size)
        image = image.resize([max(RESOLUTION, round(side * scale)) for side in image.size])
        left, top = ((side - RESOLUTION) // 2 for side in image.size)
        return np.asarray(image.crop((left, top, left + RESOLUTION, top + RESOLUTION)))


def measure_cores(folder: Path) -> None:
    """Seconds of processor time for each image, Pillow and we in turn."""
    stored = [load_split(folder / "images", "train")[index] for index in range(200)]
    transform = make_example(RESOLUTION)

    def ours() -> None:
        for one in stored:
            transform.finish(transform.prepare(one).pixels[None])

    def pillow(decode: Callable[[bytes], np.ndarray]) -> None:
        for one in stored:
            decode(one.encoded).astype(np.float32) / np.float32(127.5) - np.float32(1)

    exact = [exact_means(one.encoded) for one in stored]
    near = closeness((transform.prepare(one).pixels for one in stored), exact)
    theirs = closeness((with_pillow(one.encoded) for one in stored), exact)
    print(f"from the exact means: ours {near:.1f} dB, Pillow {theirs:.1f} dB")
    ways = {
        "ours": ours,
        "Pillow": partial(pillow, with_pillow),
        "Pillow, cropped": partial(pillow, with_pillow_cropped),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name, way in ways.items():
            began = time.process_time()
            way()
            seconds[name].append((time.process_time() - began) / len(stored))
    for name, measured in seconds.items():
        ratio = statistics.median(other / one for other, one in zip(seconds["Pillow"], measured, strict=True))
        print(f"{name:<16} {1 / statistics.median(measured):7.0f} images/s a core, {ratio:.2f} times Pillow's")


def rate_of(batches: Iterator[object]) -> float:
    """Images a second, once it is under way."""
    for _ in range(8):
        next(batches)
    began = time.perf_counter()
    for _ in range(60):
        next(batches)
    return 60 * BATCH / (time.perf_counter() - began)


def our_rate(folder: Path, workers: int) -> float:
    """Of our whole pipeline: read, decode, crop, resize, put together."""
    images = load_split(folder / "images", "train")
    return rate_of(make_batches(images, make_example(RESOLUTION), BATCH, seed=0, num_workers=workers))


class ForTorch:
    """The same stored images, as torch wants a data set."""

    def __init__(self, folder: Path) -> None:
        self._images = load_split(folder / "images", "train")

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> np.ndarray:
        pixels = with_pillow_cropped(self._images[index].encoded)
        return pixels.astype(np.float32) / np.float32(127.5) - np.float32(1)


def torch_rate(folder: Path, workers: int) -> float:
    """Of torch's DataLoader."""
    from torch.utils.data import DataLoader

    def repeat_forever() -> Iterator[object]:
        while True:
            yield from DataLoader(
                ForTorch(folder), BATCH, shuffle=True, num_workers=workers, drop_last=True, persistent_workers=False
            )

    return rate_of(repeat_forever())


def measure_workers(folder: Path) -> None:
    """One worker process and two, in turn."""
    ways: dict[str, Callable[[], float]] = {f"ours, {n} workers": partial(our_rate, folder, n) for n in (1, 2)}
    try:
        import torch

        torch.set_num_threads(1)
        ways |= {f"torch, {n} workers": partial(torch_rate, folder, n) for n in (1, 2)}
    except ImportError:
        print("torch is not installed: its DataLoader is left out")
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name, way in ways.items():
            rates[name].append(way())
    for name, measured in rates.items():
        ratio = statistics.median(one / first for one, first in zip(measured, rates["ours, 1 workers"], strict=True))
        print(f"{name:<20} {statistics.median(measured):7.0f} images/s, {ratio:.2f} times ours with one worker")


def measure_memory(folder: Path) -> None:
    """Prepares a million tiny records, if they are not there, and reads a few thousand of them in random order."""
    folder = folder / "million"
    parts = synthetic_parts(count=MILLION, resolution=8, images_per_part=25_000, encoding="png")
    prepare(Preparation("synthetic", {"count": MILLION}, "Drawn", parts, duplicates="keys"), folder, 2)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    batches = make_batches(load_split(folder, "train"), make_example(8), BATCH, seed=0)
    for _ in range(200):
        next(batches)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{len(load_split(folder, 'train')):,} records: a peak of {peak:.2f} GiB, {before:.2f} before they were read")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=["write", "cores", "workers", "memory"])
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    steps = {"write": write, "cores": measure_cores, "workers": measure_workers, "memory": measure_memory}
    steps[arguments.step](arguments.folder)
