"""Checkpoints in a bucket: as on a disk, though nothing there can be renamed."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from gcsfs.core import GCSFileSystem

from imagen_jax.errors import UserError
from imagen_jax.training.checkpoints import reading
from imagen_jax.training.checkpoints.folder import DamageError
from imagen_jax.training.checkpoints.store import CheckpointStore
from imagen_jax.training.state import initial_state


def make_state(value):
    params = {"kernel": jnp.full((16, 8), value), "bias": jnp.arange(8.0)}
    return initial_state(params, optax.adam(0.1), jax.random.key(5))


def shapes_of(state):
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), state)


def plain(state):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(state._replace(key=jax.random.key_data(state.key)))]


def save(folder, steps, keep=2):
    with CheckpointStore(folder, keep=keep) as store:
        for step in steps:
            store.save(step, make_state(step), {"batches_read": step})


def names(fake_buckets, bucket):
    return list(fake_buckets.buckets[bucket.parts[2]])


def test_a_checkpoint_comes_back_bit_for_bit_and_the_newest_are_kept(bucket, fake_buckets):
    save(bucket / "run" / "checkpoints", [1, 2, 3])
    with CheckpointStore(bucket / "run" / "checkpoints") as store:
        assert store.latest_step() == 3
        state, data_state = store.restore(shapes_of(make_state(3)))
        assert all(np.array_equal(a, b) for a, b in zip(plain(state), plain(make_state(3)), strict=True))
        assert data_state == {"batches_read": 3}
        params, step = store.restore_ema(shapes_of(make_state(2).ema_params), step=2)
        assert step == 2 and float(params["kernel"][0, 0]) == 2.0
    steps = {name.split("/")[2] for name in names(fake_buckets, bucket)}
    assert steps == {"2", "3"}


def test_a_checkpoint_without_its_mark_is_none_and_is_removed(bucket, fake_buckets):
    folder = bucket / "checkpoints"
    save(folder, [1, 2])
    objects = fake_buckets.buckets[bucket.parts[2]]
    del objects["checkpoints/2/commit_success.txt"]
    with CheckpointStore(folder) as store:
        assert store.latest_step() == 1
        with pytest.raises(UserError, match=r"step 2: .*\b1\b"):
            store.restore(shapes_of(make_state(1)), step=2)
        # What is half there is in the way of the same step, until it is removed.
        store.save(2, make_state(7), {"batches_read": 9})
    with CheckpointStore(folder) as store:
        state, data_state = store.restore(shapes_of(make_state(1)))
    assert data_state == {"batches_read": 9} and float(state.params["kernel"][0, 0]) == 7.0


def test_a_bucket_that_may_not_be_written_to_is_a_sentence(bucket, fake_buckets):
    save(bucket, [1])
    fake_buckets.denied.add("ema_params/")
    with pytest.raises(UserError, match=re.escape(str(bucket))):
        save(bucket, [2])
    fake_buckets.denied.clear()
    with CheckpointStore(bucket) as store:
        assert store.latest_step() == 1


def test_no_checkpoint_is_a_sentence(bucket):
    with CheckpointStore(bucket / "checkpoints") as store, pytest.raises(UserError, match=r"imagen_jax.train"):
        store.restore(shapes_of(make_state(1)))


def test_a_damaged_one_is_set_aside_and_the_one_before_is_used(bucket, fake_buckets, capsys):
    folder = bucket / "checkpoints"
    save(folder, [1, 2])
    objects = fake_buckets.buckets[bucket.parts[2]]
    del objects["checkpoints/2/state/manifest.ocdbt"]
    assert CheckpointStore(folder).restore_ema(shapes_of(make_state(1).ema_params))[1] == 2
    with CheckpointStore(folder) as store:
        state, data_state = store.restore(shapes_of(make_state(1)))
        assert data_state == {"batches_read": 1} and float(state.params["kernel"][0, 0]) == 1.0
        store.save(2, make_state(7), {"batches_read": 9})
    assert str(folder / "2") in capsys.readouterr().err
    assert {name.split("/")[1] for name in names(fake_buckets, bucket)} == {"1", "2", "2.damaged"}
    assert CheckpointStore(folder).restore(shapes_of(make_state(1)))[1] == {"batches_read": 9}


@pytest.mark.thorough
def test_what_is_well_the_second_time_is_not_damaged(bucket, monkeypatch, capsys):
    save(bucket, [1, 2])
    read, failing = reading.read_parts, [DamageError("as if")]

    def fail_once(path, wanted):
        if failing:
            raise failing.pop()
        return read(path, wanted)

    monkeypatch.setattr(reading, "read_parts", fail_once)
    assert CheckpointStore(bucket).restore(shapes_of(make_state(1)))[1] == {"batches_read": 2}
    assert not failing and not capsys.readouterr().err


def test_a_bucket_that_does_not_answer_is_not_taken_for_one_without_checkpoints(bucket, monkeypatch):
    async def fail(*_, **__):
        raise OSError("Cannot connect")

    save(bucket / "checkpoints", [1])
    monkeypatch.setattr(GCSFileSystem, "_call", fail)
    with pytest.raises(OSError, match="Cannot connect"):
        CheckpointStore(bucket / "checkpoints").latest_step()
