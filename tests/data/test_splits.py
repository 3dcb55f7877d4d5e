import os
import subprocess
import sys
from collections import Counter

import pytest

from imagen_jax.data.sources.openmoji import openmoji_images
from imagen_jax.data.splits import fold_of, make_splitter, split_of
from imagen_jax.errors import UserError

# Kept from the first release: these must never change, or a trained model would have seen what validates it.
VALIDATION = ("violin", "volcano", "penguin", "broccoli", "hedgehog", "sloth", "flamingo", "axe", "fire engine")
TRAINING = ("red apple", "panda", "waving hand", "fire", "rocket", "pizza", "umbrella", "Åland Islands", "")


def test_known_concepts_stay_in_their_splits():
    assert [split_of(concept) for concept in VALIDATION] == ["validation"] * len(VALIDATION)
    assert [split_of(concept) for concept in TRAINING] == ["train"] * len(TRAINING)


def test_the_split_does_not_depend_on_the_hash_seed_of_python():
    program = (
        f"from imagen_jax.data.splits import split_of; print([split_of(name) for name in {VALIDATION + TRAINING}])"
    )
    answers = {
        subprocess.run(
            [sys.executable, "-c", program],
            env=os.environ | {"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert answers == {f"{[split_of(name) for name in VALIDATION + TRAINING]}\n"}


@pytest.mark.parametrize("fraction", [0.05, 0.3])
def test_about_the_requested_share_validates(fraction):
    count = sum(split_of(f"concept {number}", fraction) == "validation" for number in range(4000))
    # Six standard deviations.
    assert abs(count - 4000 * fraction) < 6 * (4000 * fraction * (1 - fraction)) ** 0.5


def test_a_larger_fraction_only_adds():
    names = [f"concept {number}" for number in range(500)]
    small, large = ({name for name in names if split_of(name, share) == "validation"} for share in (0.05, 0.2))
    assert small < large


def test_nothing_validates_at_fraction_zero():
    assert {split_of(concept, 0.0) for concept in VALIDATION} == {"train"}


def test_no_concept_of_openmoji_is_in_both_splits():
    splits: dict[str, set[str]] = {}
    for image in openmoji_images(skin_tones=True):
        base = image.key.split("-")[0]
        splits.setdefault(f"{base} {image.concept}", set()).add(split_of(image.concept))
    assert all(len(where) == 1 for where in splits.values())


NAMES = [f"concept {number}" for number in range(2000)]
FOLDS = {"violin": 0, "red apple": 1, "panda": 3, "waving hand": 1, "fire": 4, "rocket": 3, "": 4}
"""These must never change, or a fold would measure a model that was trained on it."""


def test_known_concepts_stay_in_their_folds():
    assert {concept: fold_of(concept) for concept in FOLDS} == FOLDS


@pytest.mark.parametrize("folds", [2, 3, 5, 10])
def test_every_concept_is_in_one_of_equally_large_folds(folds):
    counts = Counter(fold_of(name, folds) for name in NAMES)
    assert counts.keys() == set(range(folds))
    # Six standard deviations.
    spread = 6 * (len(NAMES) * (folds - 1)) ** 0.5 / folds
    assert all(abs(count - len(NAMES) / folds) < spread for count in counts.values())


@pytest.mark.parametrize("folds", [2, 4, 5, 8])
def test_the_first_fold_validates_at_its_fraction(folds):
    assert all((fold_of(name, folds) == 0) == (split_of(name, 1 / folds) == "validation") for name in NAMES)


def test_each_fold_validates_once():
    splitters = [make_splitter(fold=fold, folds=3) for fold in range(3)]
    for name in NAMES[:100]:
        assert [split(name) for split in splitters].count("validation") == 1
    usual = make_splitter(0.3)
    assert [usual(name) for name in NAMES] == [split_of(name, 0.3) for name in NAMES]


@pytest.mark.parametrize(("fold", "folds"), [(-1, 5), (5, 5), (0, 1), (0, 0), (2, -3)])
def test_an_impossible_fold_is_refused(fold, folds):
    with pytest.raises(UserError, match=rf"{fold if folds > 1 else folds}\b"):
        make_splitter(fold=fold, folds=folds)


@pytest.mark.parametrize("fraction", [-0.1, 1.0])
def test_an_impossible_fraction_is_refused(fraction):
    with pytest.raises(UserError, match=str(fraction)):
        split_of("panda", fraction)
