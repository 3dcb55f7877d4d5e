"""Metrics in a bucket, where nothing can be lengthened."""

import time

import pytest

from imagen_jax.training.monitoring.metrics import MetricsWriter, read_metrics


@pytest.fixture
def now(monkeypatch):
    moment = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: moment[0])
    return moment


def uploads(fake_buckets):
    return sum(line.startswith("POST /upload") for line in fake_buckets.log)


def test_lines_come_to_a_bucket_seldom_and_none_is_lost(bucket, fake_buckets, now):
    with MetricsWriter(bucket / "run") as writer:
        fake_buckets.log.clear()
        for step in range(1, 101):
            now[0] += 1
            writer.write(step, {"loss": 1 / step})
        assert uploads(fake_buckets) == 4
        assert 70 <= len(read_metrics(bucket / "run")) <= 100
        writer.flush()
        assert len(read_metrics(bucket / "run")) == 100
        writer.flush()
        assert uploads(fake_buckets) == 5, "nothing new"
        writer.write(101, {"loss": 0.0})
    assert [line["step"] for line in read_metrics(bucket / "run")] == list(range(1, 102))


def test_a_run_that_is_killed_after_its_checkpoint_has_all_lines_before_it(bucket, now):
    writer = MetricsWriter(bucket)
    for step in (1, 2, 3):
        writer.write(step, {"loss": step / 10})
        if step == 2:
            writer.flush()  # as before a checkpoint; then the process is killed
    with MetricsWriter(bucket, first_step=2) as resumed:
        resumed.write(3, {"loss": 0.7})
    assert read_metrics(bucket) == [
        {"step": 1, "loss": 0.1},
        {"step": 2, "loss": 0.2},
        {"step": 3, "loss": 0.7},
    ]


def test_tensorboard_writes_into_the_bucket(bucket, fake_buckets):
    objects = fake_buckets.buckets[bucket.parts[2]]
    with MetricsWriter(bucket / "run", tensorboard=True) as writer:
        writer.write(1, {"loss": 0.5})
        writer.flush()
        (name,) = (name for name in objects if name.startswith("run/tensorboard/events"))
        before = len(objects[name].content)
        writer.write(2, {"another": 0.25})
    assert b"loss" in objects[name].content and before > 0
    assert b"another" in objects[name].content[before:]
