"""A folder that fills with pictures, and can be left and come back to.

    OUT/sampling.json      what the pictures were drawn with; other settings are refused
    OUT/*.png              one a picture, its name and its metadata say which
    OUT/pictures.npz       or all of them as one array, and until then OUT/batches/00012.npy
    OUT/grid.png           the first of them with their prompts

A batch is drawn whole or not at all, and always of the same wishes, so a run that was cut gives the same bytes as one
that was not.
"""

import io
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
from jaxtyping import UInt8

from imagen_jax.cascades import Cascade, Wish
from imagen_jax.data.pixels import decode_pixels
from imagen_jax.edits import NO_EDIT, Edit
from imagen_jax.errors import UserError, choose
from imagen_jax.sampling.pictures import encode_picture, file_name, labelled_grid, make_folder, save_png, to_pixels
from imagen_jax.storage.paths import (
    Path,
    create_folder,
    files_in,
    remove_folder,
    remove_unfinished,
    write_whole,
    writing,
)
from imagen_jax.storage.settings import keep_settings

FORMATS = ("png", "jpg", "webp", "npz")
SETTINGS = "sampling.json"
BATCHES = "batches"
MOST_IN_GRID = 64

Pixels = UInt8[np.ndarray, "batch height width 3"]


def settings_of(cascade: Cascade) -> dict[str, Any]:
    """What a cascade's pictures depend on besides their wishes and the seed, as JSON can hold it."""
    return {
        **cascade.describe(),
        "trained_steps": [one.step for one in cascade.trained],
        "dtypes": [one.config.network.dtype for one in cascade.trained],
        "overrides": dict(cascade.overrides),
    }


class PictureFolder:
    """Where the pictures of some wishes go.

    Args:
        out: the folder; made where there is none.
        wishes: all of them, in order.
        seed: of the names.
        batch_size: wishes that are drawn together.
        form: one of ``FORMATS``.
        settings: all else that the pictures depend on, as JSON can hold it.

    Raises:
        UserError: the folder can't be written to, holds pictures of other settings, or two wishes are the same.
    """

    def __init__(
        self, out: Path, wishes: Sequence[Wish], seed: int, batch_size: int, form: str, settings: Mapping[str, Any]
    ):
        choose(dict.fromkeys(FORMATS), form, "format")
        self.out, self.form = out, form
        make_folder(out)
        self.batches = [list(wishes[first : first + batch_size]) for first in range(0, len(wishes), batch_size)]
        self.names = [[file_name_of(wish, seed, form) for wish in batch] for batch in self.batches]
        flat = [name for names in self.names for name in names]
        if len(set(flat)) < len(flat):
            raise UserError("a prompt is given twice: give it once, with --samples_per_prompt for more pictures of it")
        keep_settings(
            out / SETTINGS,
            {**settings, "seed": seed, "format": form, "batch_size": batch_size},
            "pictures drawn",
            "choose another --out",
        )

    def missing(self, share: int = 0, shares: int = 1) -> list[int]:
        """The numbers of the batches that are not there yet, of every ``shares``-th from ``share`` on."""
        mine = range(share, len(self.batches), shares)
        if self.form == "npz":
            if (self.out / "pictures.npz").exists():
                return []
            folder = self.out / BATCHES
            there = {file.name for file in files_in(folder)} if folder.exists() else set()
            return [number for number in mine if batch_name(number) not in there]
        there = {file.name for file in files_in(self.out)}
        return [number for number in mine if not there.issuperset(self.names[number])]

    def write(self, number: int, pictures: Pixels, metadata: Mapping[str, str]) -> None:
        """Writes a batch.

        Args:
            number: of the batch.
            pictures: one for each of its wishes.
            metadata: of all of them, besides what each one shows.

        Raises:
            UserError: they can't be written.
        """
        try:
            if self.form == "npz":
                buffer = io.BytesIO()
                np.save(buffer, pictures)
                create_folder(self.out / BATCHES)
                write_whole(self.out / BATCHES / batch_name(number), buffer.getvalue())
                return
            for wish, name, pixels in zip(self.batches[number], self.names[number], pictures, strict=True):
                said = {"prompt": wish.prompt, "index": str(wish.index), **metadata}
                if wish.is_between:
                    said["on_the_way_to"] = f"{wish.share:g} of the way to {wish.to_prompt or wish.to_seed}"
                write_whole(self.out / name, encode_picture(pixels, self.form, said))
        except OSError as error:
            raise UserError(
                f"{self.out} can't be written to ({error.strerror or error}): make room; the same command continues"
            ) from error

    def finish(self, columns: int, grid: bool = True) -> None:
        """Puts batches together, and writes the grid of the first pictures; to be called when none is missing.

        Args:
            columns: of the grid.
            grid: whether there is to be one.
        """
        if self.form == "npz" and not (self.out / "pictures.npz").exists():
            self._put_together()
        remove_unfinished(self.out)
        if not grid:
            return
        wishes = [wish for batch in self.batches for wish in batch][:MOST_IN_GRID]
        pictures = np.stack([pixels for pixels, _ in zip(self._read(), wishes, strict=False)])
        sheet = labelled_grid(pictures, [wish.label for wish in wishes], columns)
        save_png(self.out / "grid.png", sheet, {"prompt": "; ".join(dict.fromkeys(wish.prompt for wish in wishes))})

    def _read(self) -> Iterator[UInt8[np.ndarray, "height width 3"]]:
        """The pictures as they were written, in order."""
        if self.form == "npz":
            with (self.out / "pictures.npz").open("rb") as file:
                yield from np.load(file)["arr_0"]
            return
        for names in self.names:
            for name in names:
                yield decode_pixels((self.out / name).read_bytes())

    def _put_together(self) -> None:
        """All batches as ``arr_0`` of one NPZ file, as NumPy would save it, without having all of them in memory."""
        files = [self.out / BATCHES / batch_name(number) for number in range(len(self.batches))]
        with files[0].open("rb") as stream:
            first = np.load(stream)
        count = sum(map(len, self.batches))
        header = {"descr": "|u1", "fortran_order": False, "shape": (count, *first.shape[1:])}
        with writing(self.out / "pictures.npz") as place, zipfile.ZipFile(place, "w", allowZip64=True) as archive:
            # A date of its own would make two equal runs differ.
            entry = zipfile.ZipInfo("arr_0.npy", (1980, 1, 1, 0, 0, 0))
            with archive.open(entry, "w", force_zip64=True) as stream:
                np.lib.format.write_array_header_1_0(stream, header)
                for file in files:
                    with file.open("rb") as batch:
                        stream.write(np.load(batch).tobytes())
        remove_folder(self.out / BATCHES)


def draw_missing(
    cascade: Cascade,
    folder: PictureFolder,
    missing: Sequence[int],
    seed: int,
    negative_prompt: str | None = None,
    edit: Edit = NO_EDIT,
) -> int:
    """Draws batches and writes each, beside the next one's drawing; returns the number of pictures.

    Args:
        cascade: what draws.
        folder: where they go.
        missing: numbers of the batches.
        seed: see ``Cascade.draw``.
        negative_prompt: likewise.
        edit: likewise.

    Raises:
        UserError: what ``Cascade.draw`` and ``PictureFolder.write`` raise.
    """
    metadata = {"seed": str(seed), **cascade.describe()}
    if negative_prompt is not None:
        metadata["negative_prompt"] = negative_prompt
    drawn = 0
    with ThreadPoolExecutor(1) as writer:
        writing: Future[None] | None = None
        for number in missing:
            (stages,) = cascade.draw(folder.batches[number], seed, negative_prompt, edit)
            drawn += len(stages[-1])
            if writing is not None:
                # At most one batch waits to be written; what went wrong with it is raised here.
                writing.result()
            writing = writer.submit(folder.write, number, to_pixels(stages[-1]), metadata)
        if writing is not None:
            writing.result()
    return drawn


def batch_name(number: int) -> str:
    """The file of a batch."""
    return f"{number:06d}.npy"


def file_name_of(wish: Wish, seed: int, form: str) -> str:
    """The file of a picture; unique to its wish and seed."""
    name = file_name(wish.prompt, seed, wish.index)
    if wish.is_between:
        to = file_name(wish.to_prompt or wish.prompt, wish.to_seed if wish.to_seed is not None else seed, wish.index)
        name = f"{name}-to-{to}-{wish.share:.4f}"
    return f"{name}.{form}"
