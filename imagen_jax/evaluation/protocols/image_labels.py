"""The classes of a classification: their words, and the class of each image.

--classes (a key of CLASSES, or a file) -> words of each class
--labels (a key of CLASSES, folders or captions) -> class of each stored image
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int64

from imagen_jax.data.class_files import read_class_file
from imagen_jax.data.class_words import DESCRIPTIONS
from imagen_jax.data.classes import CLASSES, NO_CLASS
from imagen_jax.data.stored_images import StoredImage, UnreadableError
from imagen_jax.errors import UserError, lookup, nearest_name
from imagen_jax.evaluation.prompt_templates import fold
from imagen_jax.evaluation.protocols.references import Reference
from imagen_jax.storage.paths import to_path

NAMES, SHORT_NAMES, WORDS = "class names", "short names", "class words"

ClassWords = Mapping[str, Sequence[str]]
"""Words of each class, by the class's name."""


class Wordings(NamedTuple):
    """Ways to put classes into words, from the simplest to the richest.

    Attributes:
        names: names of the classes.
        by_kind: words of each class, by the kind of wording: ``NAMES`` and, where they differ from the names,
            ``SHORT_NAMES`` and ``WORDS``.
    """

    names: tuple[str, ...]
    by_kind: dict[str, ClassWords]

    @property
    def richest(self) -> ClassWords:
        """The words of the last kind."""
        return list(self.by_kind.values())[-1]


Labeller = Callable[[StoredImage], int]
"""Returns the index of an image's class, or ``NO_CLASS``."""


def load_wordings(classes: str) -> Wordings:
    """Returns the wordings of the classes that ``--classes`` names.

    Args:
        classes: key of ``data.classes.CLASSES``, or a file of classes.

    Raises:
        UserError: there is neither such a key nor such a file, or the file can't be used.
    """
    if classes in CLASSES:
        names = CLASSES[classes].names
        described = DESCRIPTIONS.get(classes, {})
        short = {name: (one.short_name,) for name, one in described.items()}
        return make_wordings(names, short, {name: one.words for name, one in described.items()})
    path = to_path(classes).expanduser()
    if not path.is_file():
        raise UserError(
            f"--classes={classes} is neither a file nor a known set of classes{nearest_name(classes, CLASSES)}"
        )
    words = read_class_file(path)
    return make_wordings(tuple(words), {}, words)


def make_wordings(
    names: Sequence[str], short_names: ClassWords | None = None, words: ClassWords | None = None
) -> Wordings:
    """Returns wordings without those that are empty or equal a simpler one.

    Args:
        names: names of the classes.
        short_names: one short name of each class; empty for none.
        words: words of each class; empty for none.
    """
    by_kind: dict[str, ClassWords] = {NAMES: {name: (name,) for name in names}}
    for kind, given in ((SHORT_NAMES, short_names), (WORDS, words)):
        own = {name: tuple(given[name]) for name in names} if given else None
        if own is not None and own not in by_kind.values():
            by_kind[kind] = own
    return Wordings(tuple(names), by_kind)


def choose_labeller(labels: str, classes: str, names: Sequence[str]) -> Labeller:
    """Returns the function that finds an image's class.

    Args:
        labels: key of ``LABELLERS`` or of ``data.classes.CLASSES``; "" for that of ``classes`` if it is such a key, and
            for ``folders`` if ``classes`` is a file.
        classes: value of ``--classes``.
        names: names of the classes; an index into them is a label.

    Raises:
        UserError: the name is unknown, or the known classes lack one of the names.
    """
    name = labels or (classes if classes in CLASSES else "folders")
    if name in LABELLERS:
        return LABELLERS[name](names)
    known = lookup({**LABELLERS, **CLASSES}, name, "value of --labels:")
    numbers = {fold(one): number for number, one in enumerate(names)}
    unknown = next((one for one in names if fold(one) not in map(fold, known.names)), None)
    if unknown is not None:
        raise UserError(f"--labels={name} has no class {unknown!r}{nearest_name(unknown, known.names)}")

    def label(stored: StoredImage) -> int:
        return numbers.get(fold(known.class_of(stored.key) or ""), NO_CLASS)

    return label


def label_by_folder(names: Sequence[str]) -> Labeller:
    """Returns a function that labels an image by the innermost folder of its key whose name is that of a class.

    Underscores count as spaces, as in ``golden_retriever/1.jpg``.
    """
    numbers = {fold(name.replace("_", " ")): number for number, name in enumerate(names)}

    def label(stored: StoredImage) -> int:
        folders = stored.key.split("/")[-2::-1]
        found = (numbers.get(fold(folder.replace("_", " "))) for folder in folders)
        return next((number for number in found if number is not None), NO_CLASS)

    return label


def label_by_caption(names: Sequence[str]) -> Labeller:
    """Returns a function that labels an image by its captions.

    Its class is the first one whose name is one of its captions, or else the only one whose name is in them as whole
    words: "a red disc" is a "disc". If several are, as in "a cat and a dog", it has none.
    """
    numbers = {fold(name): number for number, name in enumerate(names)}
    patterns = {number: re.compile(rf"(?<!\w){re.escape(name)}(?!\w)") for name, number in numbers.items()}

    def label(stored: StoredImage) -> int:
        captions = [fold(caption) for caption in stored.captions]
        equal = next((numbers[caption] for caption in captions if caption in numbers), NO_CLASS)
        if equal != NO_CLASS:
            return equal
        named = [number for number, pattern in patterns.items() if any(map(pattern.search, captions))]
        return named[0] if len(named) == 1 else NO_CLASS

    return label


LABELLERS: dict[str, Callable[[Sequence[str]], Labeller]] = {"folders": label_by_folder, "captions": label_by_caption}
"""Functions that make a labeller from the names of the classes, by the values of ``--labels``."""


def read_stored(reference: Reference, number: int) -> StoredImage:
    """Reads a stored image.

    Raises:
        UserError: it can't be read.
    """
    try:
        return reference.read(number)
    except UnreadableError as error:
        raise UserError(f"image {number} of {reference.name} can't be read ({error}): restore it") from error


def list_labels(reference: Reference, labeller: Labeller) -> Int64[np.ndarray, " images"]:
    """Returns the label of each image of a split; ``NO_CLASS`` for those without a class.

    Raises:
        UserError: an image can't be read.
    """
    numbers = range(len(reference.captions))
    return np.asarray([labeller(read_stored(reference, number)) for number in numbers], np.int64)


def check_labels(
    labels: Int64[np.ndarray, " images"],
    names: Sequence[str],
    reference: Reference,
    fix: str = "choose another --split",
) -> None:
    """Checks that a split has images of each class.

    Args:
        labels: class of each image, or ``NO_CLASS``.
        names: names of the classes.
        reference: the split.
        fix: what to do if a class has no image.

    Raises:
        UserError: no image has a class, or a class has no image.
    """
    counts = np.bincount(labels[labels != NO_CLASS], minlength=len(names))
    if not counts.any():
        raise UserError(
            f"none of the {len(labels)} images of {reference.name} has one of the {len(names)} classes: put them into "
            "folders with the classes' names, or say with --labels what their classes are"
        )
    missing = [name for name, count in zip(names, counts, strict=True) if not count]
    if missing:
        others = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise UserError(
            f"{reference.name} has no image of the class {missing[0]!r}{others}: leave it out of the classes, or {fix}"
        )
