import re
from collections import Counter
from itertools import accumulate

import pytest

from imagen_jax.data import order as order_module
from imagen_jax.data.order import BLOCK, Order, Spot, quotas_of
from imagen_jax.errors import UserError

WEIGHTS = (460.0, 400.0)


def make_order(shuffle=True, seed=0):
    return Order((30, 7), quotas_of(WEIGHTS), seed, shuffle)


@pytest.mark.parametrize(
    ("weights", "quotas"),
    [
        ((1.0,), (4096,)),
        ((1.0, 1.0), (2048, 2048)),
        ((3.0, 1.0), (3072, 1024)),
        ((0.75, 0.25), (3072, 1024)),
        # The paper's 460M pairs of its own and 400M of LAION: 2190.9 and 1905.1 turns.
        (WEIGHTS, (2191, 1905)),
        # One with hardly any weight is still read, and the largest gives the turn up.
        ((1e6, 1.0), (4095, 1)),
    ],
)
def test_turns_follow_the_weights(weights, quotas):
    assert quotas_of(weights) == quotas


def test_turns_of_many_data_sets_fill_the_block():
    for count in (3, 7, 1000, BLOCK):
        quotas = quotas_of(tuple(float(number) for number in range(1, count + 1)))
        assert sum(quotas) == BLOCK and min(quotas) >= 1


@pytest.mark.parametrize("weights", [(1.0, 0.0), (1.0, -1.0), (float("nan"), 1.0), (float("inf"), 1.0)])
def test_weights_that_are_none_are_refused(weights):
    with pytest.raises(UserError, match=re.escape(repr(weights))):
        quotas_of(weights)


def test_more_data_sets_than_positions_are_refused():
    with pytest.raises(UserError, match=r"weights"):
        quotas_of((1.0,) * (BLOCK + 1))


@pytest.mark.parametrize("shuffle", [False, True])
def test_each_block_has_each_data_set_its_share_of_times(shuffle):
    order = make_order(shuffle)
    for block in range(3):
        turns = Counter(order.at(position).data_set for position in range(block * BLOCK, (block + 1) * BLOCK))
        assert turns == {0: 2191, 1: 1905}


def test_turns_that_are_not_shuffled_are_spread_evenly():
    order = make_order(shuffle=False)
    turns = [order.turn(position)[0] == 0 for position in range(2 * BLOCK)]
    for end, first in enumerate(accumulate(turns), start=1):
        assert abs(first - end * 2191 / BLOCK) <= 1


@pytest.mark.parametrize("shuffle", [False, True])
def test_each_data_set_is_read_once_through_before_any_of_it_is_read_again(shuffle):
    order = make_order(shuffle)
    own: dict[int, list[int]] = {0: [], 1: []}
    for position in range(2 * BLOCK):
        spot = order.at(position)
        own[spot.data_set].append(spot.example)
    for data_set, examples in own.items():
        count = order.counts[data_set]
        epochs = [examples[start : start + count] for start in range(0, len(examples) - count, count)]
        assert all(sorted(epoch) == list(range(count)) for epoch in epochs)
        assert (len({tuple(epoch) for epoch in epochs}) > len(epochs) // 2) == shuffle


def test_the_order_is_a_function_of_seed_and_position():
    forward = [make_order().at(position) for position in range(3 * BLOCK)]
    backward = [make_order().at(position) for position in reversed(range(3 * BLOCK))]
    assert forward == backward[::-1]
    assert forward != [make_order(seed=1).at(position) for position in range(3 * BLOCK)]


def test_two_data_sets_of_a_size_have_orders_of_their_own():
    order = Order((9, 9), quotas_of((1.0, 1.0)), 0, True)
    own = [[], []]
    for position in range(BLOCK):
        spot = order.at(position)
        own[spot.data_set].append(spot.example)
    assert own[0][:9] != own[1][:9]


def test_orders_that_are_not_written_down_are_permutations(monkeypatch):
    monkeypatch.setattr(order_module, "MAX_ORDER_LENGTH", 10)
    order = Order((1000,), quotas_of((1.0,)), 0, True)
    epochs = [[order.at(position) for position in range(start, start + 1000)] for start in (0, 1000)]
    assert all(sorted(epoch) == [Spot(0, example) for example in range(1000)] for epoch in epochs)
    assert epochs[0] != epochs[1]


def test_epochs_are_counted_for_each_data_set():
    order = make_order()
    assert order.epochs(BLOCK) == [2191 / 30, 1905 / 7]
    assert order.epochs(0) == [0.0, 0.0]
    assert Order((10,), quotas_of((1.0,)), 0, True).epochs(25) == [2.5]
