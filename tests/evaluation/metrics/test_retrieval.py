"""Retrieval: ranks and recalls stated in loops, ties, several captions an image, and chance by enumeration."""

import itertools
import math

import numpy as np
import pytest

from imagen_jax.errors import UserError
from imagen_jax.evaluation.metrics import retrieval
from imagen_jax.evaluation.metrics.retrieval import (
    chance_of,
    measure_recalls,
    measure_retrieval,
    nearest_items,
    pair_captions,
    rank_queries,
)

CAPTIONS = [("a cat", "a black cat"), ("a dog",), ("A  Cat",), ("a bird", "a dog"), ("a fish",)]


def draw(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def on_circle(*degrees):
    angles = np.radians(degrees)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def cosine(one, other):
    return float(one @ other) / math.sqrt(float(one @ one)) / math.sqrt(float(other @ other))


def state_recall(queries, items, right, k):
    """A query is a hit if fewer than k wrong items are as near as the nearest right one."""
    hits = 0
    for query, own in zip(queries.astype(np.float64), right, strict=True):
        cosines = [cosine(query, item) for item in items.astype(np.float64)]
        best = max(cosines[index] for index in own)
        nearer = sum(1 for index, one in enumerate(cosines) if index not in own and one >= best - 1e-6)
        hits += nearer < k
    return hits / len(queries)


def test_equal_captions_are_one_of_several_images():
    pairs = pair_captions(CAPTIONS)
    assert pairs.captions == ("a cat", "a black cat", "a dog", "a bird", "a fish")
    assert pairs.captions_of == ((0, 1), (2,), (0,), (3, 2), (4,))
    assert pairs.images_of == ((0, 2), (0,), (1, 3), (3,), (4,))


def test_a_caption_that_an_image_has_twice_counts_once():
    assert pair_captions([("a cat", "A cat"), ("a dog",)]).images_of == ((0,), (1,))


@pytest.mark.parametrize("block", [1, 12, 2**24])
def test_recalls_are_as_stated_in_both_directions_and_in_blocks(block, monkeypatch):
    monkeypatch.setattr(retrieval, "BLOCK", block)
    pairs = pair_captions([*CAPTIONS, *((f"thing {number}",) for number in range(20))])
    images, captions = draw(25, 3), draw(len(pairs.captions), 3, seed=1) * np.float32(9)
    found = measure_retrieval(images, captions, pairs, ks=(1, 2, 5, 10))
    for k in (1, 2, 5, 10):
        assert found.image_to_text.recall[k] == state_recall(images, captions, pairs.captions_of, k)
        assert found.text_to_image.recall[k] == state_recall(captions, images, pairs.images_of, k)
    assert 0 < found.image_to_text.recall[5] < 1
    assert (found.image_to_text.queries, found.image_to_text.items) == (25, 25)


def test_the_nearest_right_item_counts_and_other_right_ones_are_not_before_it():
    items = on_circle(10, 20, 30, 40)
    assert rank_queries(on_circle(0, 0, 0), items, [(3,), (2, 3), (0, 1, 2)]).tolist() == [4, 3, 1]


def test_ties_count_against_a_query():
    items = on_circle(10, 10, 350, 80)
    assert rank_queries(on_circle(0, 10), items, [(0,), (1,)]).tolist() == [3, 2]
    assert rank_queries(on_circle(0), items, [(0, 1, 2)]).tolist() == [1]


def test_a_clip_that_embeds_all_alike_finds_nothing():
    pairs = pair_captions([(f"thing {number}",) for number in range(30)])
    alike = np.ones((30, 4), np.float32)
    found = measure_retrieval(alike, alike, pairs)
    assert set(found.image_to_text.recall.values()) == set(found.text_to_image.recall.values()) == {0.0}
    assert found.image_to_text.median_rank == 30


def test_a_perfect_clip_finds_all():
    pairs = pair_captions(CAPTIONS)
    captions = np.eye(5, dtype=np.float32)
    images = np.stack([captions[list(own)].sum(axis=0) for own in pairs.captions_of])
    found = measure_retrieval(images, captions, pairs)
    assert found.image_to_text.recall == found.text_to_image.recall == {1: 1.0, 5: 1.0, 10: 1.0}
    assert found.image_to_text.standard_error[1] == 0.0


@pytest.mark.parametrize(("items", "right", "k"), [(6, 1, 1), (6, 2, 3), (5, 3, 3), (4, 1, 10), (6, 6, 1)])
def test_chance_is_that_of_all_orders(items, right, k):
    orders = list(itertools.permutations(range(items)))
    hits = sum(any(item < right for item in order[:k]) for order in orders)
    assert chance_of(items, np.asarray([right]), k) == pytest.approx(hits / len(orders))


def test_chance_is_the_mean_of_the_queries():
    assert chance_of(10, np.asarray([1, 3]), 1) == pytest.approx(0.2)


def test_guesses_reach_chance():
    right = [(number % 40,) for number in range(2000)]
    found = measure_recalls(draw(2000, 8), draw(40, 8, seed=1), right)
    for k, recall in found.recall.items():
        assert abs(recall - k / 40) < 5 * found.standard_error[k] and found.chance[k] == pytest.approx(k / 40)


def test_the_standard_error_is_binomial():
    found = measure_recalls(on_circle(0, 0, 0, 0), on_circle(5, 90), [(0,), (0,), (0,), (1,)], ks=(1,))
    assert found.recall == {1: 0.75} and found.standard_error[1] == pytest.approx(math.sqrt(0.75 * 0.25 / 4))


def test_examples_are_ordered_as_ranks_count_them():
    items = on_circle(10, 350, 80, 10)
    assert nearest_items(on_circle(0)[0], items, (0,), 4).tolist() == [1, 3, 0, 2]
    images, captions = draw(12, 3), draw(12, 3, seed=1)
    ranks = rank_queries(images, captions, [(number,) for number in range(12)])
    places = [nearest_items(one, captions, (number,), 12).tolist().index(number) for number, one in enumerate(images)]
    assert (1 + np.asarray(places)).tolist() == ranks.tolist()


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: pair_captions([("a cat",), ()]),
        lambda: pair_captions([("a cat",), ("A cat",)]),
        lambda: measure_recalls(draw(2, 3), draw(2, 4), [(0,), (1,)]),
        lambda: measure_recalls(np.zeros((2, 3), np.float32), draw(2, 3), [(0,), (1,)]),
        lambda: measure_recalls(np.full((2, 3), np.nan, np.float32), draw(2, 3), [(0,), (1,)]),
    ],
)
def test_what_does_not_compare_is_an_error_of_the_user(wrong):
    with pytest.raises(UserError):
        wrong()


def test_the_fields_are_plain_numbers():
    fields = measure_recalls(draw(4, 3), draw(4, 3, seed=1), [(0,), (1,), (2,), (3,)]).as_dict()
    assert {type(value) for value in fields.values()} <= {int, float} and "recall_at_10" in fields
