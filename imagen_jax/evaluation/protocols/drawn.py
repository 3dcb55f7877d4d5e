"""The pictures of an evaluation: drawn into a folder that can be left and come back to, and read as they were stored.

What is measured are the 8 bits of the files, so that a run that was cut, or somebody with the files alone, gets the
same digits.
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
    """A progress bar of denoising steps that a cascade is given before it is known how many there are."""

    def __init__(self) -> None:
        self.bar: tqdm | None = None

    def __call__(self, step: Any) -> None:
        """Counts a step."""
        if self.bar is not None:
            self.bar.update()


class Drawn(NamedTuple):
    """Pictures in a folder.

    Attributes:
        files: of each request, in order.
        seconds: that drawing what was missing took.
        drawn: how many were missing.
    """

    files: tuple[Path, ...]
    seconds: float
    drawn: int

    def picture(self, number: int) -> HostPixels:
        """A picture as it was stored.

        Raises:
            UserError: it is gone or damaged.
        """
        return read_picture(self.files[number])


def read_picture(file: Path) -> HostPixels:
    """Reads a picture.

    Raises:
        UserError: it is gone or damaged.
    """
    try:
        return decode_pixels(file.read_bytes())
    except (OSError, DamagedImageError) as error:
        raise_if_denied(error, file)
        raise UserError(
            f"{file} is no whole picture ({error}): delete it, and the same command draws it again"
        ) from error


def draw_pictures(
    cascade: Cascade,
    steps: StepBar,
    requests: Sequence[ImageRequest],
    folder: Path,
    seed: int,
    facts: Mapping[str, Any],
) -> Drawn:
    """Draws what is missing in a folder; every process of the run calls it, and draws its share.

    Args:
        cascade: what draws; it calls ``steps``.
        steps: shows how far it is.
        requests: the pictures.
        folder: where they go.
        seed: of their noise.
        facts: what else the pictures depend on, or are chosen by.

    Raises:
        UserError: the folder is of other pictures, or what ``draw_missing`` raises.
    """
    settings = {**settings_of(cascade), **facts}
    size = cascade.batch_size_for(len(requests))
    pictures = processes.run_on_process_zero_first(lambda: PictureFolder(folder, requests, seed, size, "png", settings))
    missing = pictures.missing(jax.process_index(), jax.process_count())
    started = time.perf_counter()
    drawn = 0
    if missing:
        total = cascade.count_steps() * len(missing)
        with tqdm(
            desc="Sampling", total=total, unit="step", dynamic_ncols=True, disable=not processes.is_process_zero()
        ) as bar:
            steps.bar = bar
            drawn = draw_missing(cascade, pictures, missing, seed)
        steps.bar = None
    seconds = time.perf_counter() - started
    processes.barrier("all pictures are drawn")
    files = tuple(folder / name for name in pictures.names)
    return Drawn(files, seconds, drawn)
