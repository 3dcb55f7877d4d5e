"""One update and the loop around it, on a problem small enough to solve by hand."""

import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from imagen_jax.errors import UserError
from imagen_jax.sharding.mesh import make_mesh
from imagen_jax.training.loop import Hook, LoopClock, run_loop
from imagen_jax.training.optimizer import OPTIMIZERS, make_optimizer, muon, warm_up_then_cosine
from imagen_jax.training.state import initial_state, update_average
from imagen_jax.training.step import lower_train_step, make_train_step


def squared_distance(params, batch, key):
    return 0.5 * jnp.sum(jnp.square(params["w"] - batch))


def noisy_distance(params, batch, key):
    return squared_distance(params, batch + jax.random.normal(key, batch.shape), key)


def start(optimizer=None):
    return initial_state({"w": jnp.asarray([1.0, -2.0])}, optimizer or optax.sgd(0.1), jax.random.key(0))


def test_a_step_is_gradient_descent_with_an_average():
    step = make_train_step(squared_distance, optax.sgd(0.1), ema_decay=0.75, ema_warm_up=False)
    state, metrics = step(start(), jnp.asarray([0.0, 0.0]))
    np.testing.assert_allclose(state.params["w"], [0.9, -1.8], rtol=1e-6)
    np.testing.assert_allclose(state.ema_params["w"], [0.975, -1.95], rtol=1e-6)
    assert int(state.step) == 1
    assert float(metrics["loss"]) == pytest.approx(2.5) and float(metrics["gradient_norm"]) == pytest.approx(5**0.5)


@pytest.mark.parametrize("pieces", [1, 2])
def test_what_the_loss_returns_besides_its_value_is_among_the_metrics(pieces):
    def loss(params, batch, key):
        return jnp.mean(params["w"][0] * batch), {"total": batch.sum(0), "count": jnp.asarray(1.0 * len(batch))}

    settings = {"ema_decay": 0.9, "ema_warm_up": True, "gradient_accumulation": pieces}
    step = make_train_step(loss, optax.sgd(0.1), has_aux=True, **settings)
    _, metrics = step(start(), jnp.asarray([1.0, 2.0, 3.0, 6.0]))
    assert float(metrics["loss"]) == 3 and float(metrics["aux"]["total"] / metrics["aux"]["count"]) == 3


def test_randomness_follows_the_step_number():
    step = make_train_step(noisy_distance, optax.sgd(0.0), ema_decay=0.0, ema_warm_up=False)
    first, one = step(start(), jnp.zeros(2))
    _, two = step(first, jnp.zeros(2))
    _, again = step(first._replace(step=jnp.asarray(0)), jnp.zeros(2))
    assert float(one["loss"]) != float(two["loss"]) and float(one["loss"]) == float(again["loss"])


def test_the_average_of_a_short_run_forgets_its_start():
    average, params = {"w": jnp.zeros(1)}, {"w": jnp.ones(1)}
    assert float(update_average(average, params, jnp.asarray(0), 0.999, True)["w"][0]) == pytest.approx(0.9)
    assert float(update_average(average, params, jnp.asarray(0), 0.999, False)["w"][0]) == pytest.approx(
        0.001, rel=1e-3
    )
    assert float(update_average(average, params, jnp.asarray(10**6), 0.999, True)["w"][0]) == pytest.approx(
        0.001, rel=1e-3
    )


def test_learning_rate_rises_linearly_and_falls_along_a_cosine_to_zero():
    rate = warm_up_then_cosine(1e-4, 10, 110)
    assert [float(rate(step)) for step in (0, 5, 10, 60, 110)] == pytest.approx([0, 5e-5, 1e-4, 5e-5, 0], abs=1e-9)


def test_a_warm_up_longer_than_the_run_is_a_mistake():
    with pytest.raises(UserError, match="warm_up_steps=100"):
        warm_up_then_cosine(1e-4, 100, 100)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizers_descend(name):
    rate = {"muon": 0.5}.get(name, 0.05)  # vectors go by its Adam, at a tenth
    optimizer = make_optimizer(name, learning_rate=rate, warm_up_steps=0, decay_steps=200, clip_norm=1.0)
    step = jax.jit(make_train_step(squared_distance, optimizer, ema_decay=0.9, ema_warm_up=True))
    state = start(optimizer)
    for _ in range(100):
        state, metrics = step(state, jnp.asarray([0.5, 0.5]))
    assert float(metrics["loss"]) < 0.1


def test_muon_learns_every_direction_of_a_kernel_alike_and_leaves_the_rest_to_adam():
    """Of a gradient with singular values 1 and 0.01 Adam would follow the first; Muon's update has both about one."""
    rotation = np.asarray([[0.6, -0.8], [0.8, 0.6]])
    gradient = jnp.asarray(rotation @ np.diag([1.0, 0.01]) @ rotation.T, jnp.float32)
    params = {"dense": {"kernel": gradient, "bias": jnp.asarray([3.0, -5.0])}, "out": {"kernel": gradient}}
    params["convolution"] = {"kernel": jnp.tile(gradient, (3, 3, 1, 1))}
    optimizer = muon(lambda step: 1.0, adam_ratio=0.1, newton_schulz_steps=7)
    updates, _ = optimizer.update(params, optimizer.init(params), params)
    singular = np.linalg.svd(-updates["dense"]["kernel"])[1]
    assert np.all((singular > 0.6) & (singular < 1.3))
    folded = np.linalg.svd(-np.reshape(updates["convolution"]["kernel"], (18, 2)))[1]
    assert folded[1] / folded[0] > 0.5
    for update, of in ((updates["dense"]["bias"], params["dense"]["bias"]), (updates["out"]["kernel"], gradient)):
        assert np.array_equal(np.sign(update), -np.sign(of))
        np.testing.assert_allclose(np.abs(update), np.abs(update).max(), rtol=1e-3)  # Adam's first step: one size


def test_an_unknown_optimizer_names_the_nearest():
    with pytest.raises(UserError, match="'adam'"):
        make_optimizer("adamm", learning_rate=1.0, warm_up_steps=0, decay_steps=1, clip_norm=None)


def test_clipping_bounds_the_update():
    optimizer = make_optimizer("adam", learning_rate=1.0, warm_up_steps=0, decay_steps=10, clip_norm=0.5)
    clipped = optimizer.update({"w": jnp.asarray([30.0, 40.0])}, optimizer.init({"w": jnp.zeros(2)}))[1]
    first_moment = optax.tree.get(clipped, "mu")["w"]
    np.testing.assert_allclose(first_moment, 0.1 * np.asarray([0.3, 0.4]), rtol=1e-5)


class CountedBatches:
    """Batches 0, 1, 2…, whose position can be read and set."""

    def __init__(self):
        self.position = 0

    def __next__(self):
        self.position += 1
        return np.full(2, float(self.position - 1), np.float32)

    def get_state(self):
        return {"position": self.position}

    def set_state(self, state):
        self.position = state["position"]


def compiled_step():
    step = make_train_step(noisy_distance, optax.adam(0.1), ema_decay=0.9, ema_warm_up=True)
    placement = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    shapes = jax.tree.map(
        lambda array: jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=placement), start(optax.adam(0.1))
    )
    batch = jax.ShapeDtypeStruct((2,), jnp.float32, sharding=placement)
    return lower_train_step(step, shapes, batch, make_mesh({}, jax.devices()[:1])).compile()


def run(state, batches, steps, hooks=(), clock=None):
    put = lambda batch: jax.device_put(batch, jax.devices()[0])  # noqa: E731
    return run_loop(state, compiled_step(), batches, steps=steps, put=put, hooks=hooks, clock=clock or LoopClock())


def test_hooks_run_when_due_and_after_the_last_step():
    seen = []
    hooks = [
        Hook("often", 2, lambda number, info: seen.append(("often", number))),
        Hook("rarely", 4, lambda number, info: seen.append(("rarely", number))),
    ]
    run(start(optax.adam(0.1)), CountedBatches(), 5, hooks)
    assert seen == [("often", 2), ("often", 4), ("rarely", 4), ("often", 5), ("rarely", 5)]


def test_a_run_that_should_leave_leaves_after_that_step_with_the_hooks_that_it_has_time_for():
    seen = []
    hooks = [
        Hook("slow", 4, lambda number, info: seen.append(("slow", number)), when_leaving=False),
        Hook("kept", 4, lambda number, info: seen.append(("kept", number, int(info.state.step)))),
    ]
    compiled, batches = compiled_step(), CountedBatches()
    arguments = {"put": lambda batch: jax.device_put(batch, jax.devices()[0]), "hooks": hooks, "clock": LoopClock()}
    state = run_loop(
        start(optax.adam(0.1)), compiled, batches, steps=9, should_leave=lambda number: number == 8, **arguments
    )
    assert int(state.step) == 8
    assert seen == [("slow", 4), ("kept", 4, 4), ("kept", 8, 8)]
    seen.clear()
    arguments["clock"] = LoopClock()
    state = run_loop(state, compiled, batches, steps=10, should_leave=lambda number: number == 9, **arguments)
    assert seen == [("kept", 9, 9)]


def test_a_run_cut_anywhere_and_resumed_equals_the_uninterrupted_one():
    """Bit for bit: parameters, average, moments and losses; the position kept is that of the step, not of the batch
    that was fetched ahead."""
    losses = {}

    def keep(kept):
        def act(number, info):
            losses.setdefault(number, []).append(float(info.metrics["loss"]))
            kept[number] = (jax.tree.map(jnp.copy, info.state), info.data_state)

        return [Hook("keep", 1, act)]

    kept = {}
    whole = run(start(optax.adam(0.1)), CountedBatches(), 6, keep(kept))
    for cut in (1, 4):
        state, data_state = kept[cut]
        batches = CountedBatches()
        batches.set_state(data_state)
        resumed = run(jax.tree.map(jnp.copy, state), batches, 6, keep({}))
        assert all(
            np.array_equal(jax.random.key_data(a) if a.dtype == state.key.dtype else a,
                           jax.random.key_data(b) if b.dtype == state.key.dtype else b)
            for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(resumed), strict=True)
        )  # fmt: skip
    assert all(len(set(values)) == 1 for values in losses.values())


def test_a_batch_that_comes_late_counts_as_waiting_for_input():
    class LateBatches(CountedBatches):
        def __next__(self):
            time.sleep(0.05)
            return super().__next__()

    clock = LoopClock()
    run(start(optax.adam(0.1)), LateBatches(), 6, clock=clock)
    assert clock.outside_seconds["input"] > 0.2 and clock.step_seconds < clock.outside_seconds["input"]
    assert clock.overhead("input") == pytest.approx(clock.outside_seconds["input"] / clock.total_seconds)


def test_a_finished_run_does_nothing():
    batches = CountedBatches()
    state = start(optax.adam(0.1))._replace(step=jnp.asarray(3, jnp.int32))
    assert int(run(state, batches, 3).step) == 3 and batches.position == 0


def test_the_clock_tells_steps_from_what_is_between_them():
    clock = LoopClock()
    clock.add_step(8.0)
    clock.add_outside("loop", 0.5)
    clock.add_outside("preview", 1.5)
    assert clock.overhead() == pytest.approx(0.2) and clock.overhead("loop") == pytest.approx(0.05)
    assert clock.total_seconds == 10 and LoopClock().overhead() == 0
