"""The learning rate: reported as each step used it, and never 0 for the rest of a run."""

import importlib
import inspect
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import optax
import pytest

import configs
from imagen_jax.errors import UserError
from imagen_jax.storage.settings import Difference
from imagen_jax.training.optimizer import (
    OPTIMIZERS,
    check_schedule,
    count_updates,
    make_optimizer,
    make_schedule,
    warm_up_then_cosine,
)
from imagen_jax.training.state import initial_state
from imagen_jax.training.step import make_train_step
from imagen_jax.training.workdir import changes_optimizer_state

SETTINGS = {"learning_rate": 0.5, "warm_up_steps": 3, "decay_steps": 9, "clip_norm": 1.0}
PARAMS = {"layer": {"kernel": jnp.ones((3, 2)), "bias": jnp.ones(2)}}


def expected_rate(updates):
    """Linear to the peak, then half a cosine."""
    peak, warm_up, decay = SETTINGS["learning_rate"], SETTINGS["warm_up_steps"], SETTINGS["decay_steps"]
    if updates < warm_up:
        return peak * updates / warm_up
    return peak * (1 + math.cos(math.pi * (updates - warm_up) / (decay - warm_up))) / 2


def loss_of(params, batch, key):
    return batch * sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(params))


def test_a_state_without_a_count_is_an_error():
    with pytest.raises(KeyError):
        count_updates(optax.sgd(0.1).init(PARAMS))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_reported_learning_rate_is_the_one_that_the_step_used(name):
    optimizer = make_optimizer(name, **SETTINGS)
    step = jax.jit(
        make_train_step(loss_of, optimizer, ema_decay=0.9, ema_warm_up=False, schedule=make_schedule(SETTINGS))
    )
    state = initial_state(PARAMS, optimizer, jax.random.key(0))
    rates = []
    for number in range(9):
        # The third step is skipped, and the fourth takes the learning rate that it would have taken.
        state, metrics = step(state, jnp.asarray(math.nan if number == 2 else 1.0))
        rates.append(float(metrics["learning_rate"]))
    assert rates == pytest.approx([expected_rate(updates) for updates in (0, 1, 2, 2, 3, 4, 5, 6, 7)])


def test_the_reported_rate_is_that_of_the_parameters():
    """Adam's first update is as long as its learning rate, in every direction."""
    settings = SETTINGS | {"warm_up_steps": 0, "decay_steps": 4, "clip_norm": None}
    optimizer = make_optimizer("adam", **settings)
    step = make_train_step(loss_of, optimizer, ema_decay=0.9, ema_warm_up=False, schedule=make_schedule(settings))
    state, metrics = step(initial_state(PARAMS, optimizer, jax.random.key(0)), jnp.asarray(1.0))
    moved = PARAMS["layer"]["bias"] - state.params["layer"]["bias"]
    assert moved == pytest.approx(float(metrics["learning_rate"]), rel=1e-5)


@pytest.mark.parametrize(
    ("warm_up", "decay", "steps"),
    [(0, 1, 1), (1, 4, 1), (1, 4, 4), (3, 9, 9), (0, 9, 2), (5, 9, 5), (10_000, 2_500_000, 2_500_000)],
)
def test_a_run_within_its_schedule_may_begin(warm_up, decay, steps):
    check_schedule(warm_up_then_cosine(1e-4, warm_up, decay), steps)


@pytest.mark.parametrize(
    ("warm_up", "decay", "steps"), [(0, 1, 2), (1, 4, 5), (1, 4, 10**9), (10_000, 2_500_000, 2_500_001), (3, 8, 16)]
)
def test_a_run_beyond_its_schedule_is_refused_with_both_fixes(warm_up, decay, steps):
    with pytest.raises(UserError) as refused:
        check_schedule(warm_up_then_cosine(1e-4, warm_up, decay), steps)
    assert f"--config.training.steps={decay} " in str(refused.value)
    assert f"--config.optimizer.decay_steps={steps} " in str(refused.value)


def test_the_end_of_a_schedule_is_found_whatever_its_form():
    check_schedule(lambda updates: jnp.where(updates < 1000, 0.1, 0.0), 1000)
    with pytest.raises(UserError, match=r"\b1000\b"):
        check_schedule(lambda updates: jnp.where(updates < 1000, 0.1, 0.0), 1500)
    check_schedule(lambda updates: 0.1 / (1 + updates), 10**9)
    with pytest.raises(UserError, match=r"--config.optimizer.learning_rate"):
        check_schedule(lambda updates: 0.0 * updates, 5)


def list_variants():
    """Every variant of every file in configs/."""
    root = Path(configs.__file__).parent
    found = []
    for file in sorted(root.rglob("*.py")):
        module = importlib.import_module(".".join(["configs", *file.relative_to(root).with_suffix("").parts]))
        if not hasattr(module, "get_config"):
            continue
        with pytest.raises(ValueError, match="known: ") as known:
            module.get_config("no such variant")
        names = str(known.value).partition("known: ")[2].partition(", each")[0].split(", ")
        found += [(module, variant) for name in names for variant in (name, f"{name},smoke")]
    return found


@pytest.mark.parametrize(("module", "variant"), list_variants(), ids=lambda one: getattr(one, "__name__", one))
def test_no_config_trains_past_its_schedule(module, variant):
    config = module.get_config(variant)
    check_schedule(make_schedule(config.optimizer.to_dict()), config.training.steps)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_key_may_change_midway_where_the_optimizer_keeps_the_same_arrays(name):
    options = {
        option: parameter.default
        for option, parameter in list(inspect.signature(OPTIMIZERS[name]).parameters.items())[1:]
    }
    settings = SETTINGS | options

    def kept(changed):
        return jax.tree.structure(jax.eval_shape(make_optimizer(name, **settings | changed).init, PARAMS))

    for key, value in settings.items():
        assert not changes_optimizer_state(Difference(f"optimizer.{key}", value, value * 2))
        assert kept({key: value * 2}) == kept({}), key
    assert changes_optimizer_state(Difference("optimizer.clip_norm", 1.0, None))
    assert kept({"clip_norm": None}) != kept({})


def test_an_option_of_another_optimizer_is_a_sentence():
    with pytest.raises(UserError, match=r"'adam'.*'adam_ratio'"):
        make_optimizer("adam", **SETTINGS, adam_ratio=0.1)
