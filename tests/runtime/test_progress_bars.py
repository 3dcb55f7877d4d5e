"""Compilation is announced with its program and its seconds, and no bar counts it."""

import io
import re
import sys
import time

import jax
import jax.numpy as jnp
import pytest

from imagen_jax.runtime import progress_bars
from imagen_jax.runtime.progress_bars import ProgressBar, announcing, compile_first, compiling
from imagen_jax.training.monitoring.metrics import Progress


@pytest.fixture
def talkative(monkeypatch):
    """Each compilation is announced, however short."""
    monkeypatch.setattr(progress_bars, "SECONDS_OF_SILENCE", 0)


class Terminal(io.StringIO):
    def isatty(self):
        return True


def use_terminal(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    return sys.stderr


def lines_of(text):
    return [line.strip() for line in re.split("[\r\n]", text) if line.strip()]


@pytest.mark.usefixtures("talkative")
def test_a_terminal_shows_the_seconds_while_they_pass_and_then_how_many(monkeypatch):
    terminal = use_terminal(monkeypatch)
    monkeypatch.setattr(progress_bars, "SECONDS_BETWEEN_UPDATES", 0.05)
    with ProgressBar("Sampling", 10, "step") as bar:
        with compiling("the base"):
            time.sleep(0.3)
        bar.update(10)
    lines = lines_of(terminal.getvalue())
    first = next(number for number, line in enumerate(lines) if line.startswith("Compiling the base: 0 s"))
    last = next(number for number, line in enumerate(lines) if re.fullmatch(r"Compiled the base in 0\.[3-9] s", line))
    assert lines[0].startswith("Sampling:   0%") and last - first >= 3
    assert all(line.startswith("Compiling the base: ") for line in lines[first:last])
    assert all(line.startswith("Sampling:") for line in lines[last + 1 :]) and "10/10" in lines[-1]


@pytest.mark.usefixtures("talkative")
def test_a_log_file_gets_a_line_before_and_one_after(capsys):
    with ProgressBar("Sampling", 10, "step"), compiling("the base"):
        time.sleep(0.2)
    lines = lines_of(capsys.readouterr().err)
    assert [line for line in lines if "ompil" in line] == ["Compiling the base", "Compiled the base in 0.2 s"]


def test_a_program_that_is_ready_at_once_is_not_announced(capsys):
    with ProgressBar("Sampling", 10, "step"), compiling("the base"):
        pass
    assert "ompil" not in capsys.readouterr().err


def test_where_no_progress_is_shown_nothing_is_printed(capsys):
    with ProgressBar("Sampling", 10, "step", disable=True), compiling("the base"):
        pass
    assert capsys.readouterr().err == "" and progress_bars._shown == []


def test_neither_the_elapsed_time_nor_the_rate_counts_a_compilation(monkeypatch):
    use_terminal(monkeypatch)
    now = [0.0]
    with ProgressBar("Sampling", 100, "step") as bar:
        bar._time = lambda: now[0]
        bar.start_t = bar.last_print_t = 0.0
        monkeypatch.setattr(time, "monotonic", lambda: now[0])
        now[0] += 30  # weights are read
        with compiling("the base"):
            now[0] += 100
        assert bar.format_dict["elapsed"] == 0
        for _ in range(2):
            for _ in range(10):
                now[0] += 1
                bar.update()
            with compiling("the super-resolution stage"):
                now[0] += 500
        assert bar.format_dict["elapsed"] == 20
        assert bar.format_dict["rate"] == pytest.approx(1)


@pytest.mark.usefixtures("talkative")
def test_the_time_left_of_a_training_in_a_log_file_leaves_it_out(monkeypatch, capsys):
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    with Progress("Training base", 0, 100) as shown:
        shown.note(1)
        now[0] += 10
        with compiling("the preview"):
            time.sleep(0.1)
            now[0] += 300
        shown.update(11, 0.5, 16.0)
    lines = lines_of(capsys.readouterr().err)
    assert lines[0] == "Training base: 1/100 steps"
    assert lines[1:3] == ["Compiling the preview", "Compiled the preview in 300.0 s"]
    assert lines[3].startswith("Training base: 11/100 steps, 01:29 left")


@pytest.mark.usefixtures("talkative")
def test_a_compilation_before_any_bar_is_announced_where_that_is_asked_for(capsys):
    with announcing(), compiling("the first parameters"):
        time.sleep(0.1)
    assert lines_of(capsys.readouterr().err)[0] == "Compiling the first parameters" and progress_bars._shown == []


@pytest.mark.usefixtures("talkative")
def test_a_compilation_that_fails_is_not_reported_as_done(capsys):
    with pytest.raises(KeyboardInterrupt), ProgressBar("Sampling", 10, "step"), compiling("the base"):
        raise KeyboardInterrupt
    assert "Compiled" not in capsys.readouterr().err and progress_bars._shown == []


@pytest.mark.usefixtures("talkative")
def test_the_first_call_compiles_once_and_announces_it(capsys):
    compiled = []

    def note(event, seconds, **_):
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append(seconds)

    def trace_slowly(x):
        time.sleep(0.2)
        return jnp.sin(x) * 3 + 17

    program = compile_first(jax.jit(trace_slowly), "sines")
    argument = jnp.arange(5.0)
    jax.monitoring.register_event_duration_secs_listener(note)
    try:
        with ProgressBar("Sampling", 2, "call"):
            first, second = program(argument), program(argument)
    finally:
        jax.monitoring.unregister_event_duration_listener(note)
    assert len(compiled) == 1
    assert jnp.array_equal(first, second) and jnp.allclose(first, jnp.sin(argument) * 3 + 17)
    assert capsys.readouterr().err.count("Compiled sines") == 1
