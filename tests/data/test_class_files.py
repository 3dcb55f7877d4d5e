import json

import pytest

from imagen_jax.data.class_files import read_class_file
from imagen_jax.data.class_words import DESCRIPTIONS
from imagen_jax.data.classes import CLASSES
from imagen_jax.errors import UserError

EXPECTED = {"animals": ("animal", "bird of prey", "plant"), "flag": ("flag",), "Äpfel": ("Apfel",)}


def write(folder, content, name="classes.txt"):
    file = folder / name
    file.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
    return file


@pytest.mark.parametrize(
    "text",
    [
        "animals: animal, bird of prey, plant\nflag\nÄpfel: Apfel\n",
        "\ufeffanimals :animal,bird  of prey ,plant\r\n\r\n  flag\r\nÄpfel:Apfel",
    ],
)
def test_a_text_has_one_class_a_line(tmp_path, text):
    found = read_class_file(write(tmp_path, text))
    assert found == EXPECTED and list(found) == list(EXPECTED), "in the file's order"


@pytest.mark.parametrize("ascii_only", [False, True])
def test_an_object_of_json_says_the_same(tmp_path, ascii_only):
    file = write(tmp_path, json.dumps(EXPECTED, ensure_ascii=ascii_only), "classes.JSON")
    assert read_class_file(str(file)) == EXPECTED


def test_a_name_with_colons_and_commas_is_written_as_json(tmp_path):
    classes = {"time: noon": ["noon, in summer"], "night": ["night"]}
    file = write(tmp_path, json.dumps(classes), "classes.json")
    assert read_class_file(file) == {name: tuple(words) for name, words in classes.items()}


def test_two_classes_may_share_a_word(tmp_path):
    assert read_class_file(write(tmp_path, "bird: crane\nmachine: crane")) == {
        "bird": ("crane",),
        "machine": ("crane",),
    }


@pytest.mark.parametrize(
    ("content", "name"),
    [
        ("", "a.txt"),
        (" \n\n", "a.txt"),
        ("\ufeff", "a.txt"),
        ("cat", "a.txt"),
        ("cat\ndog\nCat", "a.txt"),
        ("cat: kitten, kitten\ndog", "a.txt"),
        ("cat:\ndog", "a.txt"),
        ("cat: kitten,,tom\ndog", "a.txt"),
        (": kitten\ndog", "a.txt"),
        (b"cat\nd\xf6g\n", "a.txt"),
        ("cat\ndog".encode("utf-16"), "a.txt"),
        ("", "a.json"),
        ("{}", "a.json"),
        ('["cat", "dog"]', "a.json"),
        ('"cat"', "a.json"),
        ('{"cat": ["cat"], "cat": ["kitten"], "dog": ["dog"]}', "a.json"),
        ('{"cat": "cat", "dog": ["dog"]}', "a.json"),
        ('{"cat": [1], "dog": ["dog"]}', "a.json"),
        ('{"cat": {}, "dog": ["dog"]}', "a.json"),
        ('{"cat": {"a": "b"}, "dog": ["dog"]}', "a.json"),
        ('{"cat": [], "dog": ["dog"]}', "a.json"),
        ('{"cat": [""], "dog": ["dog"]}', "a.json"),
        ('{"cat": ["cat"], "dog": ["dog"]', "a.json"),
        ("[" * 100_000, "a.json"),
        ('{"cat": ' * 5000, "a.json"),
        (b'{"cat": ["\xff"]}', "a.json"),
    ],
)
def test_files_of_another_form_are_refused_by_name(tmp_path, content, name):
    with pytest.raises(UserError, match=rf"{tmp_path}/{name}"):
        read_class_file(write(tmp_path, content, name))


def test_a_file_that_is_not_there_or_is_too_large_is_refused(tmp_path):
    for path in (tmp_path / "nowhere.txt", tmp_path):
        with pytest.raises(UserError, match=str(path)):
            read_class_file(path)
    with (tmp_path / "large.txt").open("wb") as file:
        file.truncate(2**24 + 1)
    with pytest.raises(UserError, match=r"large\.txt"):
        read_class_file(tmp_path / "large.txt")


def test_every_bundled_class_has_a_short_name_and_five_words():
    assert DESCRIPTIONS.keys() == CLASSES.keys()
    for name, descriptions in DESCRIPTIONS.items():
        assert tuple(descriptions) == CLASSES[name].names
        words = [word for description in descriptions.values() for word in description.words]
        assert len(words) == len(set(words)) == 5 * len(descriptions), "no word stands for two classes"
        assert len({description.short_name for description in descriptions.values()}) == len(descriptions)
