"""Samples the images of an evaluation into a folder, resumably, and reads them back as stored.

The metrics use the 8-bit pixels of the files. So a resumed run, or another user with only the files, gets exactly
the same values.
"""

import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
from tqdm import tqdm

from imagen_jax.array_types import HostPixels
from imagen_jax.cascade.cascade import Cascade
from imagen_jax.cascade.image_folder import PictureFolder, draw_missing, settings_of
from imagen_jax.cascade.requests import ImageRequest
from imagen_jax.data.opened_images import DamagedImageError
from imagen_jax.data.pixels import decode_pixels
from imagen_jax.errors import UserError
from imagen_jax.runtime import processes
from imagen_jax.storage.paths import Path
from imagen_jax.storage.refusals import raise_if_denied


class StepBar:
    """A progress bar of denoising steps. A cascade receives it before the total number of steps is known.

    Attributes:
        bar: the current bar; None when no sampling is in progress.
    """

    def __init__(self) -> None:
        self.bar: tqdm | None = None

    def __call__(self, step: Any) -> None:
        """Counts a step."""
        if self.bar is not None:
            self.bar.update()


class SampledImages(NamedTuple):
    """Sampled images in a folder.

    Attributes:
        files: image file of each request, in order.
        seconds: time in seconds that sampling took in this process.
        num_sampled: number of missing images that this process sampled.
    """

    files: tuple[Path, ...]
    seconds: float
    num_sampled: int

    def image(self, number: int) -> HostPixels:
        """Returns an image as stored.

        Raises:
            UserError: the file is missing or damaged.
        """
        return read_image(self.files[number])


def read_image(file: Path) -> HostPixels:
    """Reads an image file.

    Raises:
        UserError: the file is missing or damaged.
    """
    try:
        return decode_pixels(file.read_bytes())
    except (OSError, DamagedImageError) as error:
        raise_if_denied(error, file)
        raise UserError(
            f"the image {file} can't be read ({error}): delete it, and run the same command again"
        ) from error


def sample_images(
    cascade: Cascade,
    steps: StepBar,
    requests: Sequence[ImageRequest],
    folder: Path,
    seed: int,
    facts: Mapping[str, Any],
) -> SampledImages:
    """Samples the missing images of a folder. Every process must call it, and samples its share.

    Args:
        cascade: the cascade; its ``on_step`` is ``steps``.
        steps: progress bar of the denoising steps.
        requests: requests of all images.
        folder: folder of the images.
        seed: seed of the noise.
        facts: further facts that the images or their choice depend on, JSON-serialisable.

    Raises:
        UserError: the folder holds other images, or ``draw_missing`` raises the error.
    """
    settings = {**settings_of(cascade), **facts}
    size = cascade.batch_size_for(len(requests))
    images = processes.run_on_process_zero_first(lambda: PictureFolder(folder, requests, seed, size, "png", settings))
    missing = images.missing(jax.process_index(), jax.process_count())
    started = time.perf_counter()
    num_sampled = 0
    if missing:
        total = cascade.count_steps() * len(missing)
        with tqdm(
            desc="Sampling", total=total, unit="step", dynamic_ncols=True, disable=not processes.is_process_zero()
        ) as bar:
            steps.bar = bar
            num_sampled = draw_missing(cascade, images, missing, seed)
        steps.bar = None
    seconds = time.perf_counter() - started
    processes.barrier("all images are sampled")
    files = tuple(folder / name for name in images.names)
    return SampledImages(files, seconds, num_sampled)
