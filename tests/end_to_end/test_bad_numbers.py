"""Whole runs whose numbers go bad."""

import json
import math

import numpy as np
import pytest
from ml_collections import ConfigDict

from configs import quickstart
from imagen_jax.data.preparation.conversion import Conversion
from imagen_jax.data.preparation.preparation import Preparation, prepare
from imagen_jax.data.sources.synthetic import synthetic_parts
from imagen_jax.errors import UserError
from imagen_jax.tasks import stage as training
from imagen_jax.train import train_to_end as train
from imagen_jax.training.monitoring.metrics import read_metrics
from tests.end_to_end.smoke_runs import plain
from tests.small_networks import ONE_LEVEL

pytestmark = pytest.mark.thorough

STEPS, BAD = 12, range(7, 10)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bad_numbers") / "data"
    parts = synthetic_parts(count=60, resolution=32)
    prepare(Preparation("synthetic", {}, "Ours", parts, Conversion(), duplicates="keys"), folder, 0)
    return folder


def make_config(data, **changed):
    config = quickstart.get_config("base,smoke")
    config.network.update(ONE_LEVEL)
    config.data.source = "prepared"
    config.data.options = ConfigDict({"folder": str(data)})
    config.training.update({"steps": STEPS, "checkpoint_every": 2, "keep_checkpoints": 3, "preview_every": 1000})
    config.training.update({"max_consecutive_nonfinite": 3, **changed})
    config.optimizer.decay_steps = STEPS
    config.preview.prompts = ("square",)
    config.sampling.steps = 1
    return config


class KilledError(Exception):
    pass


def feed_bad_batches(monkeypatch, fed, done=0, killed_at=None):
    """Makes a run whose batches ``BAD`` contain a NaN; stores the keys of each."""
    make = training.make_feed

    def make_feed(*arguments):
        feed, number = make(*arguments), done

        def feed_or_spoil(examples):
            nonlocal number
            number += 1
            if number == killed_at:
                raise KilledError
            fed[number] = examples["key"].tolist()
            if number in BAD:
                examples["image"][0, 0, 0, 0] = np.nan
            return feed(examples)

        return feed_or_spoil

    monkeypatch.setattr(training, "make_feed", make_feed)


def metrics_of(workdir):
    """As text, for what is no number equals nothing."""
    names = ("step", "loss", "gradient_norm", "skipped")
    return [str({name: line[name] for name in names}) for line in read_metrics(workdir)]


def test_a_run_rewinds_and_a_killed_one_does_the_same(data, tmp_path, monkeypatch):
    config, fed = make_config(data, on_nonfinite="rewind"), {}
    with monkeypatch.context() as patch:
        feed_bad_batches(patch, fed)
        whole = train(config, tmp_path / "whole")
    lines = read_metrics(tmp_path / "whole")
    assert [line["step"] for line in lines] == list(range(1, STEPS + 1)), "the step number continues"
    assert [math.isfinite(line["loss"]) for line in lines] == [line["step"] not in BAD for line in lines]
    assert [line["skipped"] for line in lines] == [0, 0, 0, 0, 0, 0, 1, 2, 3, 3, 3, 3]
    dump = json.loads((tmp_path / "whole" / "incidents" / "0000009.json").read_text())
    assert dump["rewound_to"] == 4 and dump["updates"] == 6
    assert {one["step"]: one["keys"] for one in dump["steps"]} == {number: fed[number] for number in BAD}
    assert all(np.isfinite(leaf).all() for leaf in plain(whole))

    with monkeypatch.context() as patch:
        feed_bad_batches(patch, {}, killed_at=10)
        with pytest.raises(KilledError):
            train(config, tmp_path / "cut")
    with monkeypatch.context() as patch:
        done = max(int(path.name) for path in (tmp_path / "cut" / "checkpoints").glob("[0-9]*"))
        assert done in (6, 8), "amid the bad ones"
        feed_bad_batches(patch, {}, done=done)
        cut = train(config, tmp_path / "cut")
    assert all(np.array_equal(a, b) for a, b in zip(plain(whole), plain(cut), strict=True))
    assert metrics_of(tmp_path / "whole") == metrics_of(tmp_path / "cut")


def test_a_run_stops_and_continues_once_it_may_rewind(data, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        feed_bad_batches(patch, {})
        with pytest.raises(UserError, match="steps 7 to 9 "):
            train(make_config(data), tmp_path / "run")
    with monkeypatch.context() as patch:
        feed_bad_batches(patch, {}, done=8)
        state = train(make_config(data, on_nonfinite="rewind"), tmp_path / "run")
    assert int(state.step) == STEPS
