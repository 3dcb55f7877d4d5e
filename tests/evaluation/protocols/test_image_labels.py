"""The classes of images: from folders, captions and known sets; files of classes; splits that lack some."""

import json

import numpy as np
import pytest

from imagen_jax.data.classes import NO_CLASS
from imagen_jax.data.stored_images import StoredImage, UnreadableError
from imagen_jax.errors import UserError
from imagen_jax.evaluation.protocols.class_files import read_class_file
from imagen_jax.evaluation.protocols.image_labels import check_labels, choose_labeller, list_labels, load_words
from imagen_jax.evaluation.protocols.references import Reference
from tests.evaluation.colour_clip import make_reference

NAMES = ("Animals & Nature", "Flags")


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
    labeller = choose_labeller(labels, classes, NAMES)
    assert label(labeller, "1F431", "cat face") == 0
    assert label(labeller, "1F1E6-1F1FA", "flag") == 1
    assert label(labeller, "1F600", "grinning face") == NO_CLASS, "its class is not asked for"
    assert label(labeller, "photo") == NO_CLASS


@pytest.mark.parametrize(("labels", "names"), [("folder", NAMES), ("openmoji_groups", ("Animals", "Flags"))])
def test_unknown_labels_are_errors_of_the_user(labels, names):
    with pytest.raises(UserError):
        choose_labeller(labels, "classes.txt", names)


def test_words_of_a_known_set_and_of_a_file(tmp_path):
    assert load_words("openmoji_groups")["Flags"][0] == "flag"
    (tmp_path / "classes.txt").write_text("cat\n\nbig dog: dog, hound\n")
    assert dict(load_words(str(tmp_path / "classes.txt"))) == {"cat": ("cat",), "big dog": ("dog", "hound")}
    with pytest.raises(UserError):
        load_words("openmoji_group")


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ({"cat": [], "dog": ["dog", " hound "]}, {"cat": ("cat",), "dog": ("dog", "hound")}),
        ({"cat": "kitten"}, {"cat": ("kitten",)}),
        (["cat", "dog"], {"cat": ("cat",), "dog": ("dog",)}),
    ],
)
def test_json_files(tmp_path, document, words):
    (tmp_path / "classes.json").write_text(json.dumps(document))
    assert read_class_file(tmp_path / "classes.json") == words


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.txt", b""),
        ("a.txt", b"cat\ndog\ncat\n"),
        ("a.txt", b": cat\n"),
        ("a.txt", b"\xff\xfe\x00"),
        ("a.json", b"{"),
        ("a.json", b"3"),
        ("a.json", b'["cat", "cat"]'),
        ("a.json", b'{"cat": {"a": 1}}'),
        ("a.json", b'{"": ["a"]}'),
        ("missing.txt", None),
    ],
)
def test_files_that_name_no_classes_are_errors_of_the_user(tmp_path, name, content):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError) as caught:
        read_class_file(tmp_path / name)
    assert "\n" not in str(caught.value)


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
