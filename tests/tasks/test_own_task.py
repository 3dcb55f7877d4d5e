"""Anything trains: a task of one's own, with its data, its loss and no network of this package."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imagen_jax.config.sections import LoopConfig, MeshConfig, OptimizerConfig
from imagen_jax.errors import UserError
from imagen_jax.train import run_task
from imagen_jax.training.monitoring.metrics import read_metrics
from imagen_jax.training.task import Task, TaskData

SLOPES = np.array([[2.0], [-1.0], [0.5]], np.float32)
BATCH = 16


class Points:
    """Batches of points and their heights on a plane; the position is a number."""

    def __init__(self):
        self.number = 0

    def __next__(self):
        points = np.random.default_rng(self.number).normal(size=(BATCH, 3)).astype(np.float32)
        self.number += 1
        return {"points": points, "key": np.arange(BATCH)}

    def get_state(self):
        return {"number": self.number}

    def set_state(self, state):
        self.number = state["number"]

    def metrics(self, state):
        return {"points": float(state["number"] * BATCH)}


def make_task(steps, kind="stage"):
    """Least squares: what is trained is a matrix of three slopes."""
    settings = {"steps": steps, "batch_size": BATCH, "ema_decay": 0.5, "log_every": 1, "checkpoint_every": 5}
    shapes = (jax.ShapeDtypeStruct((BATCH, 3), jnp.float32), jax.ShapeDtypeStruct((BATCH, 1), jnp.float32))

    def open_data(workdir, batch):
        def feed(examples):
            points = examples["points"]
            return jax.device_put((points, points @ SLOPES), jax.tree.map(lambda shape: shape.sharding, batch))

        return TaskData(Points(), feed, {"data_set": "points"}, saved)

    def loss(params, batch, key):
        points, heights = batch
        return jnp.mean(jnp.square(points @ params["slopes"] - heights)), None

    training = LoopConfig(**settings)
    optimizer = OptimizerConfig(name="adam", learning_rate=0.3, warm_up_steps=0, decay_steps=1000)
    saved = {kind: {"of": "a plane"}, "training": training.to_dict(), "data": {"source": "made", "options": {}}}
    return Task(
        kind=kind,
        saved=saved,
        seed=0,
        training=training,
        optimizer=optimizer,
        mesh=MeshConfig(),
        initial_params=lambda key: {"slopes": jax.random.normal(key, (3, 1))},
        parameter_axes=lambda: {"slopes": None},
        batch=shapes,
        loss=loss,
        open_data=open_data,
    )


def test_a_task_of_ones_own_trains_and_resumes_bit_for_bit(tmp_path):
    whole = run_task(make_task(60), tmp_path / "whole")
    np.testing.assert_allclose(whole.params["slopes"], SLOPES, atol=0.05)
    run_task(make_task(10), tmp_path / "run")
    resumed = run_task(make_task(60), tmp_path / "run")
    np.testing.assert_array_equal(whole.params["slopes"], resumed.params["slopes"])
    lines = read_metrics(tmp_path / "run")
    assert [line["step"] for line in lines] == list(range(1, 61))
    assert lines[-1]["points"] == 60 * BATCH and lines[-1]["loss"] < lines[0]["loss"] / 100


def test_a_workdir_of_another_task_is_refused(tmp_path):
    run_task(make_task(5), tmp_path)
    with pytest.raises(UserError, match="stage"):
        run_task(make_task(5, "classifier"), tmp_path)
