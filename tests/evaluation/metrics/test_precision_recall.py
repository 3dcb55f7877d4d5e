"""Precision and recall of sets whose balls can be drawn, and against distances taken one by one."""

import numpy as np
import pytest

from imagen_jax.errors import UserError
from imagen_jax.evaluation.metrics.precision_recall import precision_recall


def sample(count, seed, shift=0.0, width=6):
    return (np.random.default_rng(seed).standard_normal((count, width)) + shift).astype(np.float32)


def by_definition(ours, theirs, neighbours):
    def inside(points, centres):
        radii = [np.sort(np.linalg.norm(centres - centre, axis=1))[neighbours] for centre in centres]
        return np.mean([np.any(np.linalg.norm(centres - point, axis=1) <= radii) for point in points])

    return inside(ours, theirs), inside(theirs, ours)


@pytest.mark.parametrize("neighbours", [1, 3, 5])
@pytest.mark.parametrize("block_bytes", [1, 2000, 2**28])
def test_it_is_the_definition_whatever_the_blocks(neighbours, block_bytes):
    ours, theirs = sample(70, 0).astype(np.float64), sample(90, 1, 0.7).astype(np.float64)
    measured = precision_recall(ours, theirs, neighbours, block_bytes)
    assert (measured.precision, measured.recall) == pytest.approx(by_definition(ours, theirs, neighbours))
    assert 0.1 < measured.precision < 0.99


def test_sets_far_apart_share_nothing():
    measured = precision_recall(sample(30, 2), sample(40, 3, 100.0))
    assert measured.as_dict() == {
        "precision": 0.0,
        "recall": 0.0,
        "neighbours": 3,
        "pictures": 30,
        "reference_pictures": 40,
    }


def test_a_set_is_all_of_itself():
    features = sample(50, 4)
    measured = precision_recall(features, features[::-1].copy())
    assert (measured.precision, measured.recall) == (1.0, 1.0)


def test_a_part_is_precise_and_recalls_little():
    # One of two clusters far from each other: all samples are good, and half of the reference is never sampled.
    near, far = sample(60, 5), sample(60, 6, 50.0)
    measured = precision_recall(near[:50], np.concatenate([near, far]))
    assert measured.precision == 1.0
    assert 0.4 < measured.recall <= 0.5
    swapped = precision_recall(np.concatenate([near, far]), near[:50])
    assert (swapped.precision, swapped.recall) == (measured.recall, measured.precision)


def test_copies_lie_in_balls_of_no_size():
    # Every image five times: all balls are points, and rounding must not decide who is in them.
    points = sample(20, 7, 30.0, 500)
    ours = np.repeat(points, 5, axis=0)
    measured = precision_recall(ours, np.concatenate([ours[::-1], sample(5, 8, -30.0, 500)]), block_bytes=1000)
    assert measured.precision == 1.0
    assert measured.recall == pytest.approx(100 / 105)


def test_a_large_mean_changes_nothing():
    ours, theirs = (np.round(sample(60, seed, shift), 2).astype(np.float64) for seed, shift in ((9, 0.0), (10, 0.7)))
    assert precision_recall(ours + 2.0**20, theirs + 2.0**20) == precision_recall(ours, theirs)


def test_unmeasurable_inputs_are_refused():
    with pytest.raises(UserError, match=r"3.*3"):
        precision_recall(sample(3, 0), sample(9, 1))
    with pytest.raises(UserError, match=r"\b6\b.*\b5\b"):
        precision_recall(sample(9, 0), sample(9, 1, width=5))
    bad = sample(9, 2)
    bad[0, 0] = np.nan
    with pytest.raises(UserError, match="1 of 9"):
        precision_recall(bad, sample(9, 1))
