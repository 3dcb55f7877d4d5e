"""Samples images into a folder, and resumes there after an interruption.

    OUT/sampling.json      the settings of the images; a run with other settings is an error
    OUT/*.png              one file per image; its name and metadata identify its request
    OUT/pictures.npz       or one array of all images, and until it is complete OUT/batches/000012.npy
    OUT/grid.png           the first images with their prompts

The same command makes the same batches again, so an interrupted run writes the same bytes as an uninterrupted one. A
later command may request more images, fewer images or another batch size: existing files are kept, and only missing
ones are sampled and written. An npz array contains the images of one command only.
"""

import hashlib
import io
import json
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8

from imagen_jax.cascade.cascade import Cascade
from imagen_jax.cascade.edits import NO_EDIT, Edit
from imagen_jax.cascade.image_files import encode_picture, file_name, labelled_grid, make_folder, save_png, to_pixels
from imagen_jax.cascade.requests import ImageRequest
from imagen_jax.data.pixels import decode_pixels
from imagen_jax.errors import UserError, lookup
from imagen_jax.runtime.renamed import rename_saved_keys
from imagen_jax.storage.holders import explain_gone
from imagen_jax.storage.json_text import parse_json, read_json
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
ARRAY = "pictures.npz"
BATCHES = "batches"
MAX_IN_GRID = 64

Pixels = UInt8[np.ndarray, "batch height width 3"]


def settings_of(cascade: Cascade) -> dict[str, Any]:
    """Returns the settings and weights that a cascade's images depend on, JSON-serialisable."""
    return {
        **cascade.describe(),
        "trained_steps": [one.step for one in cascade.trained],
        "dtypes": [one.config.network.dtype for one in cascade.trained],
        "overrides": dict(cascade.overrides),
        # Identifies the stages independently of their folders' names. Folders of earlier versions lack these entries.
        "settings": [f"{stage.size}, {stage.settings.describe()}" for stage in cascade.stages],
        "weights": [one.sha256 for one in cascade.trained],
    }


def find_uncompared(file: Path, settings: Mapping[str, Any]) -> tuple[str, ...]:
    """Returns the keys to leave out of a comparison of ``settings`` with those of a file.

    These are keys that only some versions write, and the names of the stages' folders if the file has hashes of the
    weights, which identify the stages better.
    """
    try:
        existing = read_json(file)
    except (OSError, ValueError):
        existing = {}
    by_weights = isinstance(existing, dict) and "weights" in existing
    named = tuple(name for name in {**settings, **(existing if by_weights else {})} if name.startswith("stage_"))
    # Earlier versions stored a batch size for every format.
    return ("batch_size", "pictures_sha256", *(named if by_weights else ("settings", "weights")))


def with_current_names(settings: dict[str, Any]) -> dict[str, Any]:
    """Returns settings of an existing file, with the current names of the overridden keys of ``config.sampling``."""
    if not isinstance(settings.get("overrides"), dict):
        return settings
    return settings | {"overrides": rename_saved_keys({"sampling": settings["overrides"]})["sampling"]}


class Batch(NamedTuple):
    """Requests that are sampled as one batch. At least one of their images is missing.

    Attributes:
        requests: at most ``PictureFolder.batch_size`` requests.
        there: for each request, whether its image already exists; such an image is not overwritten.
        number: index of the batch in the folder; None for a batch merged from several.
    """

    requests: Sequence[ImageRequest]
    there: Sequence[bool]
    number: int | None = None


class PictureFolder:
    """The output folder of some requests.

    Args:
        out: the folder, created if missing.
        requests: all requests, in order.
        seed: random seed, for file names and settings.
        batch_size: max number of requests sampled together.
        form: one of ``FORMATS``.
        settings: everything else that the images depend on, JSON-serialisable.

    Raises:
        UserError: the folder can't be written to, it contains images of other settings or an array of other images, or
            two requests are the same.
    """

    def __init__(
        self,
        out: Path,
        requests: Sequence[ImageRequest],
        seed: int,
        batch_size: int,
        form: str,
        settings: Mapping[str, Any],
    ):
        lookup(dict.fromkeys(FORMATS), form, "format")
        self.out, self.form, self.seed, self.batch_size = out, form, seed, batch_size
        make_folder(out)
        self.requests = list(requests)
        self.batches = split_into_batches(self.requests, batch_size)
        self.names = [file_name_of(request, seed, form) for request in self.requests]
        if len(set(self.names)) < len(self.names):
            raise UserError("a prompt is given twice: give it once, and set --samples_per_prompt for more images of it")
        of_array = {}
        if form == "npz":
            digest = hashlib.sha256("\n".join(self.names).encode()).hexdigest()
            of_array = {"batch_size": batch_size, "pictures_sha256": digest}
        self._kept: Mapping[str, Any] | None = keep_settings(
            out / SETTINGS,
            {**settings, "seed": seed, "format": form, **of_array},
            "images sampled",
            "choose another --out",
            uncompared=find_uncompared(out / SETTINGS, settings),
            begun=self._has_images(),
            update=with_current_names,
        )
        if form == "npz":
            self._check_array(self._kept, of_array)

    def _has_images(self) -> bool:
        """Returns whether the folder contains images. If not, settings there are from a start that failed."""
        folder = self.out / BATCHES
        files = [*files_in(self.out), *(files_in(folder) if folder.exists() else ())]
        return any(file.suffix in (".npy", *(f".{form}" for form in FORMATS)) for file in files)

    def _check_unchanged(self) -> None:
        """Checks, before the first image is written, that no other run has since changed the folder's settings.

        Raises:
            UserError: another run has.
        """
        kept, self._kept = self._kept, None
        if kept is not None and read_json(self.out / SETTINGS) != parse_json(json.dumps(dict(kept))):
            raise UserError(f"another run has started to sample other images into {self.out}: choose another --out")

    def _check_array(self, kept: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
        """Checks that an existing array, or its existing batches, belong to these requests.

        Raises:
            UserError: it contains other images, or its batches have another size.
        """
        array = self.out / ARRAY
        is_ours = kept.get("pictures_sha256", wanted["pictures_sha256"]) == wanted["pictures_sha256"]
        if not is_ours or (array.exists() and count_images(array) != len(self.requests)):
            raise UserError(
                f"{self.out} contains an npz of other prompts than these {len(self.requests)} images, and an npz can't "
                "be extended: choose another --out. With --format=png you can add prompts later"
            )
        before, now = kept.get("batch_size"), wanted["batch_size"]
        if not array.exists() and before != now:
            raise UserError(
                f"{self.out} contains parts of an npz with {before} images each, and this run samples {now} at once: "
                f"set --batch_size={before} to finish it, or choose another --out"
            )

    def missing(self, share: int = 0, shares: int = 1) -> list[Batch]:
        """Returns the batches with missing images, among every ``shares``-th batch starting at ``share``."""
        numbers = range(share, len(self.batches), shares)
        if self.form == "npz":
            if (self.out / ARRAY).exists():
                return []
            folder = self.out / BATCHES
            parts = {file.name for file in files_in(folder)} if folder.exists() else set()
            absent = [number for number in numbers if batch_name(number) not in parts]
            return [Batch(self.batches[number], [False] * len(self.batches[number]), number) for number in absent]
        files = {file.name for file in files_in(self.out)}
        batches = []
        for number in numbers:
            names = self.names[number * self.batch_size :][: self.batch_size]
            batches.append(Batch(self.batches[number], [name in files for name in names], number))
        return merge_partial_batches([batch for batch in batches if not all(batch.there)], self.batch_size)

    def write(self, batch: Batch, images: Pixels, metadata: Mapping[str, str]) -> None:
        """Writes the missing images of a batch.

        Args:
            batch: a batch from ``missing``.
            images: one image per request, uint8, ``(batch, height, width, 3)``.
            metadata: metadata of all images, besides the prompt and index of each.

        Raises:
            UserError: an image can't be written, the folder was deleted, moved or replaced, or another run has changed
                its settings.
        """
        self._check_exists()
        self._check_unchanged()
        try:
            if self.form == "npz":
                buffer = io.BytesIO()
                np.save(buffer, images)
                create_folder(self.out / BATCHES)
                assert batch.number is not None
                write_whole(self.out / BATCHES / batch_name(batch.number), buffer.getvalue())
                return
            for request, exists, pixels in zip(batch.requests, batch.there, images, strict=True):
                if exists:
                    continue
                name = file_name_of(request, self.seed, self.form)
                about = {"prompt": request.prompt, "index": str(request.index), **metadata}
                if request.conditioning:
                    about["conditioning"] = request.conditioning
                if request.is_between:
                    about["on_the_way_to"] = f"{request.share:g} of the way to {request.to_prompt or request.to_seed}"
                write_whole(self.out / name, encode_picture(pixels, self.form, about))
        except OSError as error:
            raise UserError(
                f"{self.out} can't be written to ({error.strerror or error}): make room, then run the same command "
                "to continue"
            ) from error

    def finish(self, columns: int, grid: bool = True) -> None:
        """Merges the batches of an npz, and writes the grid of the first images. Call it when no image is missing.

        Args:
            columns: max number of images per row of the grid.
            grid: whether to write a grid.

        Raises:
            UserError: the folder was deleted, moved or replaced, or the grid can't be written.
        """
        self._check_exists()
        if self.form == "npz" and not (self.out / ARRAY).exists():
            self._write_npz()
        remove_unfinished(self.out)
        if not grid:
            return
        requests = self.requests[:MAX_IN_GRID]
        images = np.stack([pixels for pixels, _ in zip(self._read(), requests, strict=False)])
        sheet = labelled_grid(images, [request.label for request in requests], columns)
        save_png(
            self.out / "grid.png", sheet, {"prompt": "; ".join(dict.fromkeys(request.prompt for request in requests))}
        )

    def _check_exists(self) -> None:
        # Several programs may sample into one folder, so there is no lock. Its settings show that it exists.
        if not (self.out / SETTINGS).exists():
            raise explain_gone(self.out)

    def _read(self) -> Iterator[UInt8[np.ndarray, "height width 3"]]:
        """Reads the images back in order."""
        if self.form == "npz":
            with (self.out / ARRAY).open("rb") as file:
                yield from np.load(file)["arr_0"]
            return
        for name in self.names:
            yield decode_pixels((self.out / name).read_bytes())

    def _write_npz(self) -> None:
        """Merges all batches into ``arr_0`` of one NPZ file in NumPy's format, with one batch in memory at a time."""
        files = [self.out / BATCHES / batch_name(number) for number in range(len(self.batches))]
        with files[0].open("rb") as stream:
            first = np.load(stream)
        header = {"descr": "|u1", "fortran_order": False, "shape": (len(self.requests), *first.shape[1:])}
        with writing(self.out / ARRAY) as file, zipfile.ZipFile(file, "w", allowZip64=True) as archive:
            # A fixed date, so that equal runs write equal bytes.
            entry = zipfile.ZipInfo("arr_0.npy", (1980, 1, 1, 0, 0, 0))
            with archive.open(entry, "w", force_zip64=True) as stream:
                np.lib.format.write_array_header_1_0(stream, header)
                for part in files:
                    with part.open("rb") as batch:
                        stream.write(np.load(batch).tobytes())
        remove_folder(self.out / BATCHES)


def draw_missing(
    cascade: Cascade,
    folder: PictureFolder,
    missing: Sequence[Batch],
    seed: int,
    negative_prompt: str | None = None,
    edit: Edit = NO_EDIT,
) -> int:
    """Samples the missing batches and writes them; returns the number of images written.

    A thread writes each batch while the next one is sampled. Small batches are padded, so that all share one compiled
    program.

    Args:
        cascade: the cascade to sample from.
        folder: the output folder.
        missing: batches from ``PictureFolder.missing``.
        seed: random seed, from 0 to 4294967295.
        negative_prompt: text that guidance uses instead of the null prompt.
        edit: an image to start from or to keep in part.

    Raises:
        UserError: what ``Cascade.draw`` and ``PictureFolder.write`` raise.
    """
    metadata = {"seed": str(seed), **cascade.describe()}
    if negative_prompt is not None:
        metadata["negative_prompt"] = negative_prompt
    written = 0
    with ThreadPoolExecutor(1) as writer:
        writing: Future[None] | None = None
        for batch in missing:
            requests = [*batch.requests, *[batch.requests[-1]] * (folder.batch_size - len(batch.requests))]
            (stages,) = cascade.draw(requests, seed, negative_prompt, edit)
            written += batch.there.count(False)
            if writing is not None:
                # Waits for the previous batch, so that at most one is queued, and raises its error if it failed.
                writing.result()
            writing = writer.submit(folder.write, batch, to_pixels(stages[-1][: len(batch.requests)]), metadata)
        if writing is not None:
            writing.result()
    return written


def split_into_batches(requests: Sequence[ImageRequest], batch_size: int) -> list[Sequence[ImageRequest]]:
    """Splits the requests into batches; the last one may be smaller."""
    return [requests[first : first + batch_size] for first in range(0, len(requests), batch_size)]


def merge_partial_batches(missing: Sequence[Batch], batch_size: int) -> list[Batch]:
    """Merges batches with some existing images into fewer batches, if that saves any.

    An interrupted run leaves at most one such batch, which then stays unchanged.
    """
    begun = [batch for batch in missing if any(batch.there)]
    absent = [
        request for batch in begun for request, exists in zip(batch.requests, batch.there, strict=True) if not exists
    ]
    fewer = split_into_batches(absent, batch_size)
    if len(fewer) >= len(begun):
        return list(missing)
    untouched = [batch for batch in missing if not any(batch.there)]
    return [*untouched, *(Batch(requests, [False] * len(requests)) for requests in fewer)]


def count_images(array: Path) -> int:
    """Reads the number of images in an npz of ours from its header."""
    with array.open("rb") as file, zipfile.ZipFile(file) as archive, archive.open("arr_0.npy") as stream:
        np.lib.format.read_magic(stream)
        return np.lib.format.read_array_header_1_0(stream)[0][0]


def batch_name(number: int) -> str:
    """Returns the file name of a batch."""
    return f"{number:06d}.npy"


def file_name_of(request: ImageRequest, seed: int, form: str) -> str:
    """Returns the file name of an image; unique to its request and seed."""
    name = file_name(request.prompt, seed, request.index)
    if request.conditioning:
        name = f"{name}-{request.conditioning}"
    if request.is_between:
        to = file_name(
            request.to_prompt or request.prompt, request.to_seed if request.to_seed is not None else seed, request.index
        )
        name = f"{name}-to-{to}-{request.share:.4f}"
    return f"{name}.{form}"
