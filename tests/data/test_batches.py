import json
from collections import Counter
from itertools import islice

import numpy as np
import pytest

from imagen_jax.data.batches import Mixture, make_batches
from imagen_jax.data.stored_images import UnreadableError
from imagen_jax.data.transforms import make_example, make_super_resolution_example
from imagen_jax.errors import UserError
from tests.tiers import thorough_except

CROPS = make_super_resolution_example(8, 16, crop=8)


def assert_equal(batches, others):
    for batch, other in zip(batches, others, strict=True):
        assert batch.keys() == other.keys()
        for name in batch:
            np.testing.assert_array_equal(batch[name], other[name])


def keys_of(batches) -> list[str]:
    return [key for batch in batches for key in batch["key"]]


def test_a_batch_holds_images_captions_and_keys(stored_images):
    batch = next(make_batches(stored_images, CROPS, 4, seed=0))
    assert batch["image"].shape == (4, 8, 8, 3) and batch["image"].dtype == np.float32
    assert batch["low_res"].shape == (4, 4, 4, 3) and batch["low_res"].dtype == np.float32
    assert [f"a {key.removeprefix('key-')}" for key in batch["key"]] == list(batch["caption"])


def test_images_belong_to_their_keys(stored_images):
    transform = make_example(16)
    images = {stored.key: transform.prepare(stored).pixels for stored in stored_images}
    batch = next(make_batches(stored_images, transform, 10, seed=3, cache=True))
    for key, image in zip(batch["key"], batch["image"], strict=True):
        np.testing.assert_allclose((image + 1) * 127.5, images[key], atol=1e-4)


def test_each_epoch_has_every_example_once_in_another_order(stored_images):
    # 4 does not divide 10: batches straddle the epochs.
    keys = keys_of(islice(make_batches(stored_images, make_example(8), 4, seed=0), 10))
    epochs = [keys[start : start + 10] for start in range(0, 40, 10)]
    assert all(sorted(epoch) == sorted(stored.key for stored in stored_images) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4


def test_the_seed_decides_the_order(stored_images):
    first, again, other = (
        keys_of(islice(make_batches(stored_images, make_example(8), 5, seed=seed), 4)) for seed in (0, 0, 1)
    )
    assert first == again != other


def test_unshuffled_batches_follow_the_stored_order_and_end_when_not_repeated(stored_images):
    batches = make_batches(stored_images, make_example(8), 4, seed=0, shuffle=False, repeat=False)
    assert keys_of(batches) == [stored.key for stored in stored_images[:8]]


@pytest.mark.parametrize("cache", [False, True])
@pytest.mark.parametrize("batches_read", [0, 1, 3, 7])
def test_a_restored_iterator_goes_on_exactly(stored_images, cache, batches_read):
    uninterrupted = make_batches(stored_images, CROPS, 4, seed=5, cache=cache)
    for _ in range(batches_read):
        next(uninterrupted)
    state = json.loads(json.dumps(uninterrupted.get_state()))
    resumed = make_batches(stored_images, CROPS, 4, seed=5, cache=cache)
    next(resumed)
    resumed.set_state(state)
    assert_equal(islice(resumed, 5), islice(uninterrupted, 5))
    assert resumed.get_state() == uninterrupted.get_state()


def test_taking_the_state_changes_nothing(stored_images):
    watched, free = (make_batches(stored_images, CROPS, 4, seed=0) for _ in range(2))
    for _ in range(6):
        watched.get_state()
        assert_equal([next(watched)], [next(free)])


def test_remembered_images_give_the_same_batches(stored_images):
    plain, remembered = (make_batches(stored_images, CROPS, 4, seed=2, cache=cache) for cache in (False, True))
    assert_equal(islice(remembered, 8), islice(plain, 8))


def test_each_image_is_decoded_once_when_remembered(stored_images):
    reads = []

    class Counted:
        def __len__(self):
            return len(stored_images)

        def __getitem__(self, index):
            reads.append(index)
            return stored_images[index]

    # A whole epoch in a batch, and two threads: an image may be read twice by chance, but not 100 times.
    list(islice(make_batches(Counted(), make_example(8), 10, seed=0, cache=True), 100))
    assert set(reads) == set(range(10)) and len(reads) <= 20


@pytest.mark.parametrize("shuffle", [False, True])
def test_crops_of_remembered_images_still_vary(stored_images, shuffle):
    batches = make_batches(stored_images, CROPS, 10, seed=0, cache=True, shuffle=shuffle)
    crops = {stored.key: set() for stored in stored_images}
    for batch in islice(batches, 12):
        for key, image in zip(batch["key"], batch["image"], strict=True):
            crops[key].add(image.tobytes())
    # 25 places; the chance that 12 draws hit fewer than 4 of them is below 1e-7.
    assert all(len(different) >= 4 for different in crops.values())


def test_crops_vary_within_a_batch_and_do_not_depend_on_its_size(stored_images):
    same = [stored_images[0]] * 10
    (large,) = islice(make_batches(same, CROPS, 10, seed=0), 1)
    assert len({image.tobytes() for image in large["image"]}) >= 4
    small = list(islice(make_batches(same, CROPS, 2, seed=0), 5))
    assert_equal([{name: np.concatenate([batch[name] for batch in small]) for name in large}], [large])


@pytest.mark.parametrize("process_count", [2, 4])
def test_shares_of_the_processes_are_the_global_batch(stored_images, process_count):
    alone = make_batches(stored_images, CROPS, 8, seed=1)
    shares = [
        make_batches(stored_images, CROPS, 8, seed=1, process_index=index, process_count=process_count)
        for index in range(process_count)
    ]
    for _ in range(6):
        pieces = [next(share) for share in shares]
        whole = {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}
        assert_equal([next(alone)], [whole])
    # So a state of one process is one of all.
    assert all(share.get_state() == alone.get_state() for share in shares)


def test_worker_processes_make_the_same_batches(stored_images):
    threads, workers = (make_batches(stored_images, CROPS, 4, seed=0, num_workers=number) for number in (0, 2))
    assert_equal(islice(workers, 5), islice(threads, 5))
    state = workers.get_state()
    ahead = next(workers)
    threads.set_state(state)
    assert_equal([next(threads)], [ahead])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 6, "process_count": 4}, r"batch_size 6\b.*\b4\b"),
        ({"batch_size": 0}, "batch_size 0"),
        ({"batch_size": 11}, r"batch_size 11\b.* at most 10\b"),
        ({"batch_size": 12, "process_count": 3}, r"batch_size 12\b.* at most 9\b"),
        ({"batch_size": 2, "seed": -1}, "seed.*-1"),
        ({"batch_size": 2, "cache": True, "num_workers": 1}, r"data\.cache.*data\.num_workers"),
    ],
)
def test_impossible_batches_are_refused(stored_images, options, message):
    with pytest.raises(UserError, match=message):
        make_batches(stored_images, make_example(8), **{"seed": 0, **options})


def test_a_position_in_another_order_is_refused(stored_images):
    state = make_batches(stored_images, make_example(8), 4, seed=0).get_state()
    for options, facts in (
        ({"batch_size": 5, "seed": 0}, "batch_size 4.* 5"),
        ({"batch_size": 4, "seed": 1}, "seed 0.* 1"),
    ):
        with pytest.raises(UserError, match=facts):
            make_batches(stored_images, make_example(8), **options).set_state(state)


@pytest.fixture
def mixture(stored_images):
    return Mixture((stored_images[:7], stored_images[7:]), (3.0, 1.0))


def test_a_mixture_is_read_by_its_weights(mixture, stored_images):
    batches = make_batches(mixture, make_example(8), 8, seed=0)
    keys = Counter(keys_of(islice(batches, 512)))
    first, second = ([keys[stored.key] for stored in source] for source in mixture.sources)
    assert (sum(first), sum(second)) == (3072, 1024)
    assert max(first) - min(first) <= 1 and max(second) - min(second) <= 1
    assert batches.metrics(batches.get_state()) == {
        "epochs_1": 3072 / 7,
        "epochs_2": 1024 / 3,
        "unreadable_images": 0.0,
    }


@pytest.mark.thorough
def test_a_mixture_without_weights_is_read_as_one(mixture):
    batches = make_batches(Mixture(mixture.sources), make_example(8), 8, seed=0)
    keys = Counter(keys_of(islice(batches, 512)))
    # 4096 turns are not a multiple of 10, and each data set has whole turns.
    assert all(abs(number - 409.6) < 1.5 for number in keys.values())


def test_a_mixture_resumes_and_is_shared_among_processes(mixture):
    alone = make_batches(mixture, CROPS, 8, seed=1)
    shares = [make_batches(mixture, CROPS, 8, seed=1, process_index=index, process_count=2) for index in range(2)]
    resumed = make_batches(mixture, CROPS, 8, seed=1, num_workers=1)
    for number in range(6):
        pieces = [next(share) for share in shares]
        whole = next(alone)
        assert_equal([whole], [{name: np.concatenate([piece[name] for piece in pieces]) for name in whole}])
        if number == 2:
            resumed.set_state(alone.get_state())
    assert_equal(islice(resumed, 4), islice(make_batches(mixture, CROPS, 8, seed=1), 3, 7))


def test_a_mixture_has_no_end(mixture):
    with pytest.raises(UserError, match="repeat"):
        make_batches(mixture, make_example(8), 2, seed=0, repeat=False)


class PartlyUnreadable:
    """Images some of which raise, or are cut off."""

    def __init__(self, images, raising=(), cut=()):
        self.images, self.raising, self.cut = images, raising, cut

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        stored = self.images[index]
        if index in self.raising:
            raise UnreadableError("checksum differs")
        return stored._replace(encoded=stored.encoded[:60]) if index in self.cut else stored


@pytest.mark.parametrize("num_workers", [0, 1])
def test_the_next_image_replaces_one_that_cannot_be_read(stored_images, caplog, num_workers):
    source = PartlyUnreadable(stored_images, raising=(3, 4), cut=(9,))
    options = {"seed": 0, "shuffle": False, "num_workers": num_workers, "max_bad_fraction": 0.3}
    batches = make_batches(source, make_example(8), 5, **options)
    with caplog.at_level("WARNING", logger="absl"):
        keys = keys_of(islice(batches, 4))
    names = [stored.key for stored in stored_images]
    assert keys == 2 * [*names[:3], names[5], names[5], *names[5:9], names[0]]
    assert batches.metrics(batches.get_state()) == {"epochs": 2.0, "unreadable_images": 3.0}
    warnings = [record.message for record in caplog.records]
    assert len(warnings) == 3, "each is logged once, however often it is met"
    assert any("image 3 of data set 1: checksum differs" in line for line in warnings)
    assert any("image 9 of data set 1: key-jay: " in line for line in warnings)


def test_a_batch_is_the_same_whatever_was_left_out_before(stored_images):
    source = PartlyUnreadable(stored_images, raising=(3,))
    whole = make_batches(source, CROPS, 4, seed=2, max_bad_fraction=0.2)
    resumed = make_batches(source, CROPS, 4, seed=2, max_bad_fraction=0.2)
    for _ in range(5):
        next(whole)
    resumed.set_state(whole.get_state())
    assert_equal(islice(resumed, 5), islice(whole, 5))


@pytest.mark.parametrize("num_workers", thorough_except([0], [0, 1]))
def test_too_many_unreadable_images_end_the_run(stored_images, num_workers):
    source = PartlyUnreadable(stored_images, raising=(3, 4), cut=(9,))
    options = {"seed": 0, "num_workers": num_workers, "max_bad_fraction": 0.2}
    batches = make_batches(source, make_example(8), 5, **options)
    with pytest.raises(UserError, match=r"\b3 of 10\b.*image .*data\.max_bad_fraction"):
        list(islice(batches, 4))


@pytest.mark.parametrize("num_workers", thorough_except([0], [0, 1]))
def test_where_nothing_can_be_read_the_run_ends(stored_images, num_workers):
    source = PartlyUnreadable(stored_images, raising=range(10))
    batches = make_batches(source, make_example(8), 5, seed=0, num_workers=num_workers, max_bad_fraction=1.0)
    with pytest.raises(UserError, match=r"\b10\b.*checksum differs"):
        next(batches)
