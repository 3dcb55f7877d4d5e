"""Traces of some steps, and a word when one hangs."""

import re
import time

import jax
import jax.numpy as jnp
import pytest

from imagen_jax.errors import UserError
from imagen_jax.runtime import processes
from imagen_jax.training.monitoring.watchdog import Watchdog, parse_steps, trace_steps
from imagen_jax.training.state import TrainState


@pytest.mark.parametrize("text", ["5", "a,b", "1,2,3", "-1,2", "1, 2", ""])
def test_what_is_not_a_pair_of_steps_is_an_error(text):
    with pytest.raises(UserError, match=re.escape(f"--profile_steps={text} ")):
        parse_steps(text)


@pytest.mark.parametrize("text", ["5,4", "0,3"])
def test_what_is_not_a_range_of_steps_is_an_error(text):
    with pytest.raises(UserError, match=f"--profile_steps={text} "):
        parse_steps(text)


@pytest.mark.parametrize(("traced", "done"), [((10, 10), 10), ((18, 21), 10)])
def test_steps_that_the_run_does_not_do_are_named(tmp_path, traced, done):
    with pytest.raises(UserError, match="steps 11 to 20"):
        trace_steps(lambda *_: _, traced, done, 20, tmp_path)


def test_a_trace_of_the_wanted_steps_is_written(tmp_path, capsys):
    called = []

    def step(state, batch):
        called.append((int(state.step), any(tmp_path.rglob("*.xplane.pb"))))
        return state._replace(step=state.step + 1), {"loss": state.step}

    assert parse_steps(None) is None and trace_steps(step, None, 0, 9, tmp_path) is step
    traced = trace_steps(step, parse_steps("4,5"), 2, 9, tmp_path)
    state = TrainState(jnp.asarray(2), {}, {}, (), jax.random.key(0))
    for _ in range(5):
        state, _ = traced(state, {})
    assert called == [(2, False), (3, False), (4, False), (5, True), (6, True)], "written after two of them"
    assert "steps 4 to 5" in capsys.readouterr().out


def hang_here(seconds):
    time.sleep(seconds)


def test_the_watchdog_reports_where_it_hangs_and_each_hosts_last_step(capsys, monkeypatch):
    monkeypatch.setattr(processes, "last_steps", lambda: {0: 12, 1: 11})
    with Watchdog(0.4) as watchdog:
        for step in range(8):
            watchdog.note(step)
            time.sleep(0.1)
        assert "watchdog" not in capsys.readouterr().err, "steps end"
        watchdog.note(12)
        hang_here(0.7)
        watchdog.note(13)
    printed = capsys.readouterr().err
    assert printed.count("watchdog: ") == 1
    assert "process 0: 12, process 1: 11" in printed and "in hang_here" in printed


def test_the_watchdog_ends_the_process_if_configured(monkeypatch):
    ended = []
    monkeypatch.setattr(processes, "end", ended.append)
    with Watchdog(0.2, end_when_hung=True):
        hang_here(0.4)
    assert "--end_when_hung" in ended[0]


def test_no_watchdog_prints_nothing(capsys):
    with Watchdog(0.0):
        hang_here(0.1)
    assert capsys.readouterr().err == ""
