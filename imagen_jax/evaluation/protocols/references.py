"""Opens the reference of an evaluation: real images, their captions, and a fingerprint of both.

--dataset, --data_dir -> captions of each image, in a fixed order -> images at a resolution, read on demand
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from imagen_jax.array_types import HostPixels
from imagen_jax.config.reading import known_keys, read_section
from imagen_jax.config.sections import DataConfig
from imagen_jax.data.data_sets import open_data_sets
from imagen_jax.data.pixels import crop_centre_square, decode_pixels
from imagen_jax.data.sources import coco
from imagen_jax.data.splits import Split
from imagen_jax.data.stored_images import StoredImage, UnreadableError, captions_of, identify, load_split
from imagen_jax.data.transforms import make_smaller
from imagen_jax.errors import UserError, lookup
from imagen_jax.storage.paths import Path, mark_of, to_path
from imagen_jax.storage.refusals import raise_if_denied
from imagen_jax.training.workdir import read_config, require_sections

SQUARED = "the centre square of the upright picture, made smaller by area means"
"""Description for reports: how a real image gets the resolution of the sampled ones."""


@dataclass(frozen=True)
class Reference:
    """Real images and their captions.

    Attributes:
        name: name of the data set in reports.
        fingerprint: identifier that changes with the images and captions, as far as is detectable without reading all.
        captions: captions of each image.
        read: function that returns a stored image by its number; several threads call it at once.
    """

    name: str
    fingerprint: str
    captions: Sequence[tuple[str, ...]]
    read: Callable[[int], StoredImage]

    def image(self, number: int, resolution: int) -> HostPixels:
        """Returns an image as a square with sides of ``resolution`` pixels.

        Raises:
            UserError: the image can't be decoded (the message names it), or is smaller than ``resolution``.
        """
        try:
            stored = self.read(number)
        except UnreadableError as error:
            raise UserError(f"image {number} of {self.name} can't be read ({error}): restore it") from error
        try:
            # Decode at full size. Training may decode at half size, which moves the centre by a fraction of a pixel.
            return make_smaller(stored, crop_centre_square(decode_pixels(stored.encoded)), resolution).pixels
        except (OSError, SyntaxError, ValueError) as error:
            raise UserError(
                f"image {stored.key} of {self.name} can't be decoded ({error}): download it again, because the "
                "reference is incomplete without it"
            ) from error

    def key(self, resolution: int) -> dict[str, str | int]:
        """Returns the facts that statistics of all images depend on."""
        return {
            "pictures": self.name,
            "fingerprint": self.fingerprint,
            "count": len(self.captions),
            "resolution": resolution,
            "squared": SQUARED,
        }


class CocoImages:
    """Reads images of COCO by number. The 6-GB zip stays open, because reading its table of contents takes seconds.

    Args:
        container: zip, or folder of the extracted images.
        images: entries of all images.

    Raises:
        UserError: the container can't be opened.
    """

    def __init__(self, container: Path, images: Sequence[coco.CocoImage]) -> None:
        self.container, self.images = container, images
        self._opened = ExitStack()
        self._read_file = self._opened.enter_context(coco.open_images(container))

    def __call__(self, number: int) -> StoredImage:
        """Reads an image.

        Raises:
            UserError: the image is missing or damaged.
        """
        image = self.images[number]
        try:
            return StoredImage(image.file, image.captions, self._read_file(image.file))
        except (KeyError, OSError, *coco.DAMAGED_MEMBER) as error:
            raise_if_denied(error, self.container)
            raise UserError(
                f"{image.file} in {self.container} is missing or damaged ({error}): download it again, because the "
                "reference is incomplete without it"
            ) from error


def open_coco(folder: Path) -> Reference:
    """Opens the whole validation split of COCO 2014 from its downloads, see ``data.sources.coco``.

    The files of train2014 are not needed.

    Raises:
        UserError: a download is missing or damaged. A single damaged entry suffices, because a reference without it
            would be a different one.
    """
    official = "val2014"
    path, content, images, damaged = coco.read_captions(folder, official)
    if damaged:
        first = damaged[0]
        raise UserError(
            f"{path} has a damaged entry ({first.key}: {first.reason}, {first.detail}): replace it with "
            f"captions_{official}.json of {coco.ANNOTATIONS_ZIP}"
        )
    container = coco.find_images(folder, official)
    mark = mark_of(container) if container.suffix == ".zip" else ""
    fingerprint = hashlib.sha256(content + mark.encode()).hexdigest()[:16]
    captions = [image.captions for image in images]
    return Reference("COCO 2014, validation", fingerprint, captions, CocoImages(container, images))


def open_prepared(folder: Path, split: Split = "validation") -> Reference:
    """Opens a split of a prepared data set, made by ``prepare_data`` or by training.

    Raises:
        UserError: the folder holds no prepared data set, or the split is empty.
    """
    stored = load_split(folder, split)

    name = "training" if split == "train" else split
    return Reference(
        f"{folder.name}, {name}", f"{identify(folder)}-{split}", captions_of(folder, split), stored.__getitem__
    )


def open_training_data(workdir: Path) -> Reference:
    """Opens the training split of the data set that a stage was trained on; of several data sets, the first.

    Raises:
        UserError: the stage was imported, or its data set is gone.
    """
    config = read_config(workdir)
    require_sections(config, ("data",), workdir, "an evaluation: the stage was imported, not trained here")
    data = read_section(DataConfig, known_keys(DataConfig, config["data"], f"data in {workdir}"), "data")
    opened = open_data_sets(data.source, data.resolution, data.data_dir, data.validation_fraction, dict(data.options))
    return open_prepared(opened.folders[0], "train")


PREPARED_SPLITS: dict[str, Split] = {"prepared": "validation", "prepared_train": "train"}
"""Splits of a prepared data set, by their keys in ``DATASETS``."""

DATASETS: dict[str, Callable[[Path], Reference]] = {
    "coco2014": open_coco,
    "prepared": open_prepared,
    "prepared_train": lambda folder: open_prepared(folder, "train"),
}
"""Functions that open a reference from its folder, by the values of ``--dataset``."""


def open_reference(dataset: str, folder: str | Path) -> Reference:
    """Opens the data set of ``--dataset`` and ``--data_dir``.

    Args:
        dataset: key of ``DATASETS``.
        folder: folder of the data set's files.

    Raises:
        UserError: the name is unknown, or files are missing or damaged.
    """
    path = check_reference(dataset, folder)
    return DATASETS[dataset](path)


def check_reference(dataset: str, folder: str | Path) -> Path:
    """Checks ``--dataset`` and ``--data_dir`` without reading files, and returns the folder.

    Raises:
        UserError: the name is unknown, or no folder is given.
    """
    lookup(DATASETS, dataset, "dataset")
    if not str(folder):
        raise UserError(f"--dataset={dataset} needs the folder of its files: name it in --data_dir")
    return to_path(folder).expanduser()


def hash_lines(lines: Sequence[str]) -> str:
    """Returns the SHA-256 of texts in their order, each as JSON; reports use it as the hash of a list of captions."""
    return hashlib.sha256("\n".join(json.dumps(line, ensure_ascii=False) for line in lines).encode()).hexdigest()
