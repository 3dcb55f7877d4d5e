"""The kernel distance by hand, and what it is of equal sets."""

import itertools

import numpy as np
import pytest

from imagen_jax.errors import UserError
from imagen_jax.evaluation.metrics.kernel_distance import kernel_distance, squared_discrepancy


def sample(count, seed, shift=0.0, width=8):
    return (np.random.default_rng(seed).standard_normal((count, width)) + shift).astype(np.float32)


def test_two_images_a_side_by_hand():
    # k(1, 3) = 4³, k(2, 0) = 1³; k(1, 2) = 3³, k(1, 0) = 1, k(3, 2) = 7³, k(3, 0) = 1; 64 + 1 - 2·372/4 = -121.
    ours, theirs = np.array([[1.0], [3.0]]), np.array([[2.0], [0.0]])
    assert squared_discrepancy(ours, theirs) == pytest.approx(-121.0)
    measured = kernel_distance(ours, theirs)
    assert measured.as_dict() == {
        "distance": pytest.approx(-121.0),
        "standard_deviation": None,
        "subsets": 1,
        "subset_size": 2,
        "pictures": 2,
        "reference_pictures": 2,
    }


def test_it_equals_the_sums_of_the_paper():
    ours, theirs = sample(6, 0).astype(np.float64), sample(6, 1, 0.5).astype(np.float64)

    def kernel(x, y):
        return (x @ y / 8 + 1) ** 3

    within = [sum(kernel(x, y) for x, y in itertools.permutations(one, 2)) / 30 for one in (ours, theirs)]
    across = sum(kernel(x, y) for x, y in itertools.product(ours, theirs)) / 36
    assert squared_discrepancy(ours, theirs) == pytest.approx(sum(within) - 2 * across, rel=1e-12)


def test_equal_distributions_are_at_about_no_distance_and_others_are_not():
    near = kernel_distance(sample(2000, 2), sample(1500, 3), subsets=40, subset_size=200)
    apart = kernel_distance(sample(2000, 2), sample(1500, 3, 0.5), subsets=40, subset_size=200)
    assert abs(near.distance) < 0.1 * apart.distance


def test_the_mean_does_not_depend_on_the_number_of_images():
    large = squared_discrepancy(sample(2000, 4).astype(np.float64), sample(2000, 5, 0.5).astype(np.float64))
    small = kernel_distance(sample(3000, 6), sample(3000, 7, 0.5), subsets=200, subset_size=20)
    assert small.distance == pytest.approx(large, abs=5 * small.standard_deviation / 200**0.5)


def test_subsets_are_seeded_and_shrink_to_the_smaller_side():
    ours, theirs = sample(60, 8), sample(40, 9, 0.3)
    first, again = (kernel_distance(ours, theirs, subsets=5) for _ in range(2))
    assert first == again
    assert (first.subsets, first.subset_size) == (5, 40)
    assert first.distance != kernel_distance(ours, theirs, subsets=5, seed=1).distance


def test_unmeasurable_inputs_are_refused():
    with pytest.raises(UserError, match=r"\b2\b.*\b1\b"):
        kernel_distance(sample(1, 0), sample(5, 1))
    with pytest.raises(UserError, match=r"\b8\b.*\b3\b"):
        kernel_distance(sample(5, 0), sample(5, 1, width=3))
    bad = sample(5, 2)
    bad[3] = np.nan
    with pytest.raises(UserError, match="1 of 5"):
        kernel_distance(sample(5, 0), bad)
