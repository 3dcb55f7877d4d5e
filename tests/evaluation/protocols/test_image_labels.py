"""The classes of images: from folders, captions and known sets; their wordings; splits that lack some."""

import numpy as np
import pytest

from imagen_jax.data.classes import CLASSES, NO_CLASS
from imagen_jax.data.stored_images import StoredImage, UnreadableError
from imagen_jax.errors import UserError
from imagen_jax.evaluation.prompt_templates import check_words
from imagen_jax.evaluation.protocols.image_labels import (
    NAMES,
    SHORT_NAMES,
    WORDS,
    check_labels,
    choose_labeller,
    list_labels,
    load_wordings,
)
from imagen_jax.evaluation.protocols.references import Reference
from tests.evaluation.colour_clip import make_reference

GROUPS = ("Animals & Nature", "Flags")


def label(labeller, key, *captions):
    return labeller(StoredImage(key, captions, b""))


def test_folders_name_classes():
    labeller = choose_labeller("", "classes.txt", ("golden retriever", "Cat"))
    keys = {"golden_retriever/1.jpg": 0, "val/CAT/1.jpg": 1, "cat/golden retriever/1.jpg": 0, "cat.jpg": NO_CLASS,
            "cat": NO_CLASS, "dogs/1.jpg": NO_CLASS}  # fmt: skip
    assert {key: label(labeller, key) for key in keys} == keys


def test_captions_name_classes():
    labeller = choose_labeller("captions", "classes.txt", ("dog face", "cat face"))
    assert label(labeller, "1F431", "a pet", "Cat  face") == 1
    assert label(labeller, "cat face/1", "an ox") == NO_CLASS


def test_captions_contain_the_names_of_classes():
    labeller = choose_labeller("captions", "classes.txt", ("cat", "cat face", "dog", "c++"))
    captions = {"a black  Cat": 0, "cat face": 1, "a dog, asleep": 2, "a cat and a dog": NO_CLASS, "cats": NO_CLASS,
                "hotdog": NO_CLASS, "written in C++": 3, "a cat face": NO_CLASS}  # fmt: skip
    assert {caption: label(labeller, "", caption) for caption in captions} == captions
    assert label(labeller, "", "a pet", "a dog") == 2


@pytest.mark.parametrize(("labels", "classes"), [("", "openmoji_groups"), ("openmoji_groups", "classes.txt")])
def test_known_sets_name_classes(labels, classes):
    labeller = choose_labeller(labels, classes, GROUPS)
    assert label(labeller, "1F431", "cat face") == 0
    assert label(labeller, "1F1E6-1F1FA", "flag") == 1
    assert label(labeller, "1F600", "grinning face") == NO_CLASS, "its class is not asked for"
    assert label(labeller, "photo") == NO_CLASS


@pytest.mark.parametrize(("labels", "names"), [("folder", GROUPS), ("openmoji_groups", ("Animals", "Flags"))])
def test_unknown_labels_are_errors_of_the_user(labels, names):
    with pytest.raises(UserError):
        choose_labeller(labels, "classes.txt", names)


def test_a_known_set_has_three_wordings():
    for classes in CLASSES:
        found = load_wordings(classes)
        assert found.names == CLASSES[classes].names
        assert list(found.by_kind) == [NAMES, SHORT_NAMES, WORDS] and found.richest == found.by_kind[WORDS]
        for words in found.by_kind.values():
            assert tuple(words) == found.names
            check_words(words)


def test_a_file_has_the_wordings_that_differ(tmp_path):
    (tmp_path / "classes.txt").write_text("cat\n\nbig dog: dog, hound\n")
    found = load_wordings(str(tmp_path / "classes.txt"))
    assert found.names == ("cat", "big dog")
    assert found.by_kind == {
        NAMES: {"cat": ("cat",), "big dog": ("big dog",)}, WORDS: {"cat": ("cat",), "big dog": ("dog", "hound")},
    }  # fmt: skip
    (tmp_path / "names.txt").write_text("cat\nbig dog\n")
    assert list(load_wordings(str(tmp_path / "names.txt")).by_kind) == [NAMES]


@pytest.mark.parametrize("classes", ["openmoji_group", "nowhere.txt", "."])
def test_classes_that_are_nowhere_are_an_error_of_the_user(classes):
    with pytest.raises(UserError):
        load_wordings(classes)


def test_a_split_needs_images_of_each_class():
    reference = make_reference(["red", "blue", "red"], [0, 0, 0])
    labels = list_labels(reference, choose_labeller("folders", "", ("red", "blue")))
    assert labels.tolist() == [0, 1, 0]
    check_labels(labels, ("red", "blue"), reference)
    with pytest.raises(UserError, match="green"):
        check_labels(labels, ("red", "blue", "green"), reference)
    with pytest.raises(UserError, match="none of the 3 images"):
        check_labels(np.full(3, NO_CLASS), ("red", "blue"), reference)


def test_an_unreadable_image_is_an_error_of_the_user():
    def read(number):
        raise UnreadableError("damaged")

    with pytest.raises(UserError, match="image 0 of x"):
        list_labels(Reference("x", "", [("red",)], read), choose_labeller("folders", "", ("red", "blue")))
