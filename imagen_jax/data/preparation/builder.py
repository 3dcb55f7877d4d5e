"""Renders a source's images once and stores them for random access: ArrayRecord files written by TFDS.

    data_dir/openmoji-64px-1f2e3d4c/
        manifest.json         what it is, where it comes from, counts; written last, so its presence means "complete"
        captions.json         the captions of each split, in stored order
        captioned_images/     the data set, in the layout of TFDS
        (files of other modules, such as the captions' embeddings)

The folder's name contains a hash of its content: keys, captions, splits and fingerprints of the images. Changed data
get another folder, so stale data are never reused. TensorFlow is never imported.
"""

import contextlib
import hashlib
import io
import json
import pathlib
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import tensorflow_datasets as tfds

from imagen_jax.data.preparation.shards import write_json
from imagen_jax.data.sources.captioned_image import CaptionedImage
from imagen_jax.data.sources.parted_sources import PARTED_SOURCES
from imagen_jax.data.sources.rendering import render_in_threads
from imagen_jax.data.sources.sources import SOURCES, list_images
from imagen_jax.data.splits import SPLITS, make_splitter
from imagen_jax.data.stored_images import CAPTIONS, DATASET, MANIFEST, PREPARED_FORMAT, read_manifest
from imagen_jax.errors import UserError, check_names, lookup
from imagen_jax.runtime.progress import tqdm
from imagen_jax.storage.local_copies import put_in_bucket, working_folder
from imagen_jax.storage.paths import Path, create_folder, in_bucket, remove_folder, size_of, to_path
from imagen_jax.storage.refusals import explaining_disk

FORMAT = 1
"""Format version of the folder, part of its hash. A new version rebuilds all data sets."""

MAX_RESOLUTION = 1024

PREPARED = "prepared"
"""The data source that is an existing prepared data set; its option ``folder`` is the path."""


class CaptionedImages(tfds.core.GeneratorBasedBuilder):
    """The TFDS builder. Unlike most builders, it receives its images instead of downloading them."""

    VERSION = tfds.core.Version("1.0.0")

    def __init__(
        self,
        examples: Mapping[str, Iterable[dict[str, Any]]],
        resolution: int,
        data_dir: pathlib.Path,
        several_captions: bool = False,
    ):
        self._examples = examples
        self._resolution = resolution
        self._captions = (
            {"captions": tfds.features.Sequence(tfds.features.Text())}
            if several_captions
            else {"caption": tfds.features.Text()}
        )
        super().__init__(data_dir=data_dir, file_format="array_record")

    def _info(self) -> tfds.core.DatasetInfo:
        shape = (self._resolution, self._resolution, 3)
        features = {
            "key": tfds.features.Text(),
            **self._captions,
            "image": tfds.features.Image(shape=shape, encoding_format="png"),
        }
        # Stored in the given order, so that captions.json needs no index.
        return tfds.core.DatasetInfo(
            builder=self, features=tfds.features.FeaturesDict(features), disable_shuffling=True
        )

    def _split_generators(self, download_manager: Any) -> dict[str, Any]:
        return {split: self._generate_examples(examples) for split, examples in self._examples.items()}

    def _generate_examples(self, examples: Iterable[dict[str, Any]]) -> Iterator[tuple[int, dict[str, Any]]]:
        yield from enumerate(examples)


def prepare_data(
    source_name: str,
    resolution: int,
    data_dir: str | Path,
    validation_fraction: float = 0.05,
    *,
    fold: int | None = None,
    folds: int = 5,
    **options: Any,
) -> Path:
    """Renders the data set of a source at a resolution, unless it exists already, and returns its folder.

    An interrupted build leaves nothing that looks complete; the next call restarts it. Several processes may call this
    at once: the first to finish wins, and the others use its data.

    Args:
        source_name: a key of ``SOURCES``, or ``PREPARED``.
        resolution: height and width of the stored images, 1 to 1024; stages may read them at a lower resolution.
        data_dir: folder of all data sets.
        validation_fraction: expected fraction of concepts in the validation split; unused with a fold.
        fold: fold that is the validation split, see ``splits.fold_of``; None to use ``validation_fraction``.
        folds: number of folds.
        **options: options of the source.

    Raises:
        UserError: the source or an option is unknown, the resolution or the fold is out of range, the folder is
            unwritable, the source has no training images, or ``PREPARED`` is combined with a fold. Also what the
            source raises, and for ``PREPARED`` what ``check_prepared`` raises.
    """
    if source_name == PREPARED:
        check_names(options, ["folder"], f"option of data source {PREPARED!r}:")
        check_no_fold(fold)
        return check_prepared(resolution, **options)
    if not 1 <= resolution <= MAX_RESOLUTION:
        raise UserError(f"images of {resolution} pixels cannot be stored: choose 1 to {MAX_RESOLUTION}")
    if source_name in PARTED_SOURCES and source_name not in SOURCES:
        raise UserError(
            f"the data source {source_name!r} is prepared before training: run imagen-jax prepare_data "
            f"--source={source_name} --out=DATA, then set data.source={PREPARED} and data.options.folder=DATA"
        )
    lookup({**SOURCES, PREPARED: None}, source_name, "data source")
    choose_split = make_splitter(validation_fraction, fold, folds)
    splits: dict[str, list[CaptionedImage]] = {split: [] for split in SPLITS}
    for image in list_images(source_name, options):
        splits[choose_split(image.concept)].append(image)
    if not splits["train"]:
        raise UserError(f"data source {source_name!r} gives no training images: add images")
    folder = to_path(data_dir).expanduser() / f"{source_name}-{resolution}px-{fingerprint(splits)}"
    if not is_complete(folder):
        manifest = {
            "format": FORMAT,
            "source": source_name,
            "options": {name: str(value) if isinstance(value, Path) else value for name, value in options.items()},
            "resolution": resolution,
            **({"validation_fraction": validation_fraction} if fold is None else {"fold": fold, "folds": folds}),
            "counts": {split: len(images) for split, images in splits.items()},
            "attribution": SOURCES[source_name].attribution,
        }
        fix = "free space or choose another data_dir, then run the same command again"
        with explaining_disk(f"cannot write the data set into {data_dir}", fix):
            build(folder, splits, manifest)
    return folder


def check_no_fold(fold: int | None) -> None:
    """Checks that no fold is chosen for prepared data, whose splits are stored.

    Raises:
        UserError: a fold is chosen.
    """
    if fold is not None:
        raise UserError(
            f"the data source {PREPARED!r} stores its splits, so fold {fold} cannot be chosen: use a source that is "
            f"rendered when training begins ({', '.join(SOURCES)}), or leave the fold out"
        )


def check_prepared(resolution: int, folder: str | Path = "") -> Path:
    """Returns the folder of a data set that ``imagen-jax prepare_data`` made, after checking it.

    Raises:
        UserError: the folder contains no such data set, it is damaged or of another format version, or some of its
            images are smaller than ``resolution``.
    """
    folder = to_path(folder).expanduser()
    manifest = read_manifest(folder)
    if "shards" not in manifest:
        raise UserError(f"{folder} was not made by prepare_data: set data.source to {manifest['source']!r}")
    if manifest.get("format") != PREPARED_FORMAT:
        raise UserError(f"{folder} was prepared by another version of imagen_jax: prepare it again")
    for shard in manifest["shards"]:
        for kind, size in (("file", "bytes"), ("captions", "captions_bytes")):
            file = folder / shard[kind]
            if not file.is_file() or size_of(file) != shard[size]:
                raise UserError(f"{file} is missing or damaged: prepare the data set again, or copy it again")
    if manifest["least_side"] < resolution:
        raise UserError(
            f"{folder} has images of only {manifest['least_side']} pixels, less than data.resolution={resolution}: "
            f"prepare it with --min_side={resolution}, or lower the resolution"
        )
    return folder


def is_complete(folder: Path) -> bool:
    """Returns whether a folder contains a complete data set: its manifest, and all listed files with their sizes."""
    try:
        sizes = read_manifest(folder)["file_sizes"]
    except UserError:
        return False
    return all((folder / name).is_file() and size_of(folder / name) == size for name, size in sizes.items())


def fingerprint(splits: dict[str, list[CaptionedImage]]) -> str:
    """Returns eight hexadecimal digits: a hash of a data set's content, except its resolution."""
    rows = [
        (split, image.key, image.caption, image.fingerprint, *image.more_captions)
        for split, images in splits.items()
        for image in images
    ]
    return hashlib.sha256(json.dumps([FORMAT, rows]).encode()).hexdigest()[:8]


def build(folder: Path, splits: dict[str, list[CaptionedImage]], manifest: dict[str, Any]) -> None:
    """Builds in a temporary folder next to ``folder``, and renames it when everything is written.

    TFDS writes only local files, so a data set for a bucket is built next to its local copy.
    """
    create_folder(folder.parent)
    beside = working_folder(folder) if in_bucket(folder) else folder.parent
    with tempfile.TemporaryDirectory(prefix=f"{folder.name}.partial-", dir=beside) as temporary:
        # In a subfolder, because the temporary folder is private to its user, and is removed by its own name.
        partial = pathlib.Path(temporary) / folder.name
        partial.mkdir()
        write_examples(partial, splits, manifest["resolution"], SOURCES[manifest["source"]].activity)
        captions = {
            split: [image.captions if image.more_captions else image.caption for image in images]
            for split, images in splits.items()
        }
        write_json(partial / CAPTIONS, captions)
        files = sorted(file for file in partial.rglob("*") if file.is_file())
        sizes = {file.relative_to(partial).as_posix(): file.stat().st_size for file in files}
        write_json(partial / MANIFEST, manifest | {"file_sizes": sizes})
        put_in_place(partial, folder)


def write_examples(
    folder: pathlib.Path, splits: dict[str, list[CaptionedImage]], resolution: int, activity: str
) -> None:
    """Renders all images, with a progress bar that says ``activity``, and writes a TFDS data set into ``folder``."""
    everything = [image for images in splits.values() for image in images]
    with tqdm(total=len(everything), desc=activity.format(resolution), unit="image") as progress:
        # TFDS writes one split after the other, in this order. All of them take from one iterator, whose error names
        # the faulty images of all.
        rendered = render_in_threads(everything, resolution)
        # With one caption each, the files stay those of version 0.1, which identify the data of a run.
        several = any(image.more_captions for image in everything)
        examples = {
            split: generate_examples(images, rendered, progress, several) for split, images in splits.items() if images
        }
        tfds.disable_progress_bar()
        # TFDS prints the path of its files, which are moved below.
        with contextlib.redirect_stdout(io.StringIO()):
            builder = CaptionedImages(examples, resolution, folder / "written", several)
            builder.download_and_prepare()
    pathlib.Path(builder.data_path).rename(folder / DATASET)
    remove_folder(folder / "written")


def generate_examples(
    images: Sequence[CaptionedImage], rendered: Iterator[bytes], progress: tqdm, several_captions: bool
) -> Iterator[dict[str, Any]]:
    """Yields the features that TFDS stores of each image, in order.

    Args:
        images: the images of a split.
        rendered: yields the PNGs of these images, and may yield more, which are left to the next split.
        progress: counts the images.
        several_captions: whether images have a list of captions.
    """
    for image in images:
        png = next(rendered)
        progress.update()
        # As a file object: TFDS encodes arrays with TensorFlow, but stores encoded images unchanged.
        captions = {"captions": list(image.captions)} if several_captions else {"caption": image.caption}
        yield {"key": image.key, **captions, "image": io.BytesIO(png)}


def put_in_place(partial: pathlib.Path, folder: Path) -> None:
    """Moves a finished data set to its final folder; a complete one that another process put there first is kept."""
    if not isinstance(folder, pathlib.Path):
        # A bucket has no folders to rename. The manifest is copied last, since it marks the data set as complete.
        files = [file.relative_to(partial) for file in partial.rglob("*") if file.is_file()]
        for name in sorted(files, key=lambda name: name.name == MANIFEST):
            put_in_bucket(partial / name, folder / name)
        return
    if folder.exists() and not is_complete(folder):
        remove_folder(folder)
    try:
        partial.rename(folder)
    except OSError:
        if not is_complete(folder):
            raise
