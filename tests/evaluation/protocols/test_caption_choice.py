"""Which captions are chosen: seeded, one of each image, and the same at each call."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagen_jax.errors import UserError
from imagen_jax.evaluation.protocols.caption_choice import choose_captions, match_captions

CAPTIONS = [("a cat", "one cat"), (), ("a dog",), ("two birds", "birds", "a pair of birds"), ("grass",)]


@given(st.integers(1, 4), st.integers(0, 1000))
def test_each_image_is_chosen_once_with_a_caption_of_its_own(count, seed):
    choice = choose_captions(CAPTIONS, count, seed)
    assert len(set(choice.images)) == count
    assert all(caption in CAPTIONS[number] for caption, number in zip(*choice, strict=True))
    assert choose_captions(CAPTIONS, count, seed) == choice


def test_fewer_are_the_beginning_of_more():
    all_four = choose_captions(CAPTIONS, 4, 7)
    assert choose_captions(CAPTIONS, 2, 7).captions == all_four.captions[:2]


def test_seeds_choose_differently_and_reach_every_caption():
    seen = {caption for seed in range(60) for caption in choose_captions(CAPTIONS, 4, seed).captions}
    assert seen == {caption for captions in CAPTIONS for caption in captions}


def test_the_hash_is_that_of_the_captions_as_json_lines():
    choice = match_captions(CAPTIONS, ["a dog", "grass"])
    assert choice.sha256 == hashlib.sha256(b'"a dog"\n"grass"').hexdigest()


@pytest.mark.parametrize("count", [0, 5])
def test_more_captions_than_images_have_are_refused(count):
    with pytest.raises(UserError, match=r"--samples .*\b4\b"):
        choose_captions(CAPTIONS, count, 0)


def test_a_list_of_captions_finds_its_images():
    choice = match_captions(CAPTIONS, ["birds", "  one\tcat "])
    assert choice == (("birds", "one cat"), (3, 0))


def test_an_unknown_caption_is_named():
    with pytest.raises(UserError, match=r"1 of 2 .*'a fish'"):
        match_captions(CAPTIONS, ["grass", "a fish"])
