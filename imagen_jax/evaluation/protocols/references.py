"""What drawn pictures are compared with: real pictures, their captions, and a fingerprint that tells them from others.

--dataset, --data_dir -> captions of each picture, in one order -> pictures at a resolution, when they are asked for
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from imagen_jax.array_types import HostPixels
from imagen_jax.data.data_sets import open_data_sets
from imagen_jax.data.pixels import crop_centre_square, decode_pixels
from imagen_jax.data.sources import coco
from imagen_jax.data.splits import Split
from imagen_jax.data.stored_images import StoredImage, captions_of, identify, load_split
from imagen_jax.data.transforms import make_smaller
from imagen_jax.errors import UserError, lookup
from imagen_jax.storage.paths import Path, mark_of, to_path
from imagen_jax.storage.refusals import raise_if_denied
from imagen_jax.training.workdir import read_config, require_sections

SQUARED = "the centre square of the upright picture, made smaller by area means"
"""How a picture comes to the resolution of the drawn ones, as a report says it."""


@dataclass(frozen=True)
class Reference:
    """Pictures and their captions.

    Attributes:
        name: as a report names them.
        fingerprint: changes when a picture or a caption does, as far as that can be told without reading them all.
        captions: of each picture.
        read: from a picture's number to the picture as it is stored; several threads call it at once.
    """

    name: str
    fingerprint: str
    captions: Sequence[tuple[str, ...]]
    read: Callable[[int], StoredImage]

    def picture(self, number: int, resolution: int) -> HostPixels:
        """A picture as a square of a resolution.

        Raises:
            UserError: it can't be read, or is smaller; names it.
        """
        stored = self.read(number)
        try:
            # Not decoded at half its size, as training may: that moves the centre by a fraction of a pixel.
            return make_smaller(stored, crop_centre_square(decode_pixels(stored.encoded)), resolution).pixels
        except (OSError, SyntaxError, ValueError) as error:
            raise UserError(
                f"picture {stored.key} of {self.name} can't be decoded ({error}): get it again, for a reference "
                "without it is another one"
            ) from error

    def key(self, resolution: int) -> dict[str, str | int]:
        """What numbers that are made of all pictures depend on."""
        return {
            "pictures": self.name,
            "fingerprint": self.fingerprint,
            "count": len(self.captions),
            "resolution": resolution,
            "squared": SQUARED,
        }


class CocoPictures:
    """Pictures of COCO by number. Their zip stays open: of its 6 GB the table of contents alone takes seconds to read.

    Args:
        container: a zip, or the folder of extracted pictures.
        images: all of them.

    Raises:
        UserError: the container can't be opened.
    """

    def __init__(self, container: Path, images: Sequence[coco.CocoImage]) -> None:
        self.container, self.images = container, images
        self._opened = ExitStack()
        self._read_file = self._opened.enter_context(coco.open_images(container))

    def __call__(self, number: int) -> StoredImage:
        """Reads a picture.

        Raises:
            UserError: it is gone or damaged.
        """
        image = self.images[number]
        try:
            return StoredImage(image.file, image.captions, self._read_file(image.file))
        except (KeyError, OSError, *coco.DAMAGED_MEMBER) as error:
            raise_if_denied(error, self.container)
            raise UserError(
                f"{self.container} gives no whole {image.file} ({error}): get it again, for a reference without it is "
                "another one"
            ) from error


def open_coco(folder: Path) -> Reference:
    """The whole validation split of COCO 2014, from its downloads (see ``data.sources.coco``); train2014 is not needed.

    Raises:
        UserError: a download is missing or damaged, be it in one entry: a reference without it is another one.
    """
    official = "val2014"
    place, content, images, damaged = coco.read_captions(folder, official)
    if damaged:
        first = damaged[0]
        raise UserError(
            f"{place} is not as COCO has it ({first.key}: {first.reason}, {first.detail}): put "
            f"captions_{official}.json of {coco.ANNOTATIONS_ZIP} there"
        )
    container = coco.find_images(folder, official)
    mark = mark_of(container) if container.suffix == ".zip" else ""
    fingerprint = hashlib.sha256(content + mark.encode()).hexdigest()[:16]
    captions = [image.captions for image in images]
    return Reference("COCO 2014, validation", fingerprint, captions, CocoPictures(container, images))


def open_prepared(folder: Path, split: Split = "validation") -> Reference:
    """A split of a data set that ``prepare_data`` made, or that training drew.

    Raises:
        UserError: there is none, or the split is empty.
    """
    stored = load_split(folder, split)

    name = "training" if split == "train" else split
    return Reference(
        f"{folder.name}, {name}", f"{identify(folder)}-{split}", captions_of(folder, split), stored.__getitem__
    )


def open_training_data(workdir: Path) -> Reference:
    """What a stage was trained on; of several data sets the first.

    Raises:
        UserError: the stage was imported, or its data set is gone.
    """
    config = read_config(workdir)
    require_sections(config, ("data",), workdir, "an evaluation: the stage was imported, not trained here")
    data = config.data
    opened = open_data_sets(
        data.source, data.resolution, data.data_dir, data.validation_fraction, data.options.to_dict()
    )
    return open_prepared(opened.folders[0], "train")


PREPARED_SPLITS: dict[str, Split] = {"prepared": "validation", "prepared_train": "train"}
"""Names of ``DATASETS`` that are splits of a prepared data set."""

DATASETS: dict[str, Callable[[Path], Reference]] = {
    "coco2014": open_coco,
    "prepared": open_prepared,
    "prepared_train": lambda folder: open_prepared(folder, "train"),
}
"""What ``--dataset`` may name."""


def open_reference(dataset: str, folder: str | Path) -> Reference:
    """Opens what ``--dataset`` and ``--data_dir`` name.

    Args:
        dataset: a key of ``DATASETS``.
        folder: where its files are.

    Raises:
        UserError: there is no such data set, or its files are missing or damaged.
    """
    place = check_reference(dataset, folder)
    return DATASETS[dataset](place)


def check_reference(dataset: str, folder: str | Path) -> Path:
    """Checks what ``--dataset`` and ``--data_dir`` name, without reading it; returns the folder.

    Raises:
        UserError: there is no such data set, or no folder.
    """
    lookup(DATASETS, dataset, "dataset")
    if not str(folder):
        raise UserError(f"--dataset={dataset} needs the folder of its files: name it in --data_dir")
    return to_path(folder).expanduser()


def hash_lines(lines: Sequence[str]) -> str:
    """The sha256 of texts in their order: what a report calls the hash of a list of captions."""
    return hashlib.sha256("\n".join(json.dumps(line, ensure_ascii=False) for line in lines).encode()).hexdigest()
