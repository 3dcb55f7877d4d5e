"""Numbers that are not finite: what a step, a guard and a run make of them."""

import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from imagen_jax.config.sections import LoopConfig
from imagen_jax.errors import UserError
from imagen_jax.training.checkpoints.store import CheckpointStore, place_here
from imagen_jax.training.checkpoints.write_errors import NotWrittenError, Refusal
from imagen_jax.training.loop import Hook, LoopClock, run_loop
from imagen_jax.training.monitoring import incidents
from imagen_jax.training.monitoring.nonfinite import NonfiniteGuard, count_updates
from imagen_jax.training.optimizer import OPTIMIZERS, make_optimizer
from imagen_jax.training.state import initial_state
from imagen_jax.training.step import make_train_step
from tests.tiers import thorough_except

NAN, INF = float("nan"), float("inf")
BEYOND = 1e3
"""Parameters so large have no loss: no training step recovers them."""


def distance(params, batch, key):
    """Squared distance to each of a batch's numbers; none where parameters are too large."""
    far = jnp.max(jnp.abs(params["w"])) > BEYOND
    return jnp.where(far, jnp.nan, 0.5 * jnp.mean(jnp.square(params["w"][None] - batch[:, None])))


OPTIMIZER = optax.chain(optax.sgd(0.1, momentum=0.5), optax.scale_by_schedule(lambda count: 1.0 / (1.0 + count)))
STEP = jax.jit(make_train_step(distance, OPTIMIZER, ema_decay=0.75, ema_warm_up=False))


def start(optimizer=OPTIMIZER):
    return initial_state({"w": jnp.asarray([1.0, -2.0])}, optimizer, jax.random.key(0))


def plain(state):
    """All but the number of the step, on the host."""
    return [np.asarray(leaf) for leaf in jax.tree.leaves((state.params, state.ema_params, state.opt_state))]


def same(one, other):
    return all(np.array_equal(a, b) for a, b in zip(plain(one), plain(other), strict=True))


def values(number, changed):
    """The numbers of a batch: random, or what a test wants of it."""
    usual = np.random.default_rng(number).normal(size=2).astype(np.float32)
    return np.full(2, changed[number], np.float32) if number in changed else usual


def learn(numbers, changed=()):
    """What the plain step makes of these batches: the independent statement of every run here."""
    state = start()
    for number in numbers:
        state, _ = STEP(state, values(number, dict(changed)))
    return state


class Batches:
    """Batches 1, 2, 3…, so that without a rewind a batch has the number of its step."""

    def __init__(self, changed):
        self.position, self.changed = 0, changed

    def __next__(self):
        self.position += 1
        keys = np.array([f"{self.position}a", f"{self.position}b"])
        return {"key": keys, "values": values(self.position, self.changed)}

    def get_state(self):
        return {"position": self.position}

    def set_state(self, state):
        self.position = state["position"]


class KilledError(Exception):
    pass


def train(folder, changed, steps, killed_at=None, seen=None, harms=(), failed=None, **settings):
    """Trains as ``imagen_jax.train`` does, from the newest checkpoint; returns the last state."""
    training = {"max_consecutive_nonfinite": 3, "on_nonfinite": "stop", "max_rewinds": 3, "checkpoint_every": 4}
    training = LoopConfig(steps=steps, batch_size=1, **{**training, "keep_checkpoints": 2, **settings})
    folder.mkdir(exist_ok=True)
    shapes = place_here(jax.eval_shape(start))
    with CheckpointStore(folder / "checkpoints", keep=training.keep_checkpoints) as checkpoints:
        done = checkpoints.latest_step() or 0
        guard, batches, state = NonfiniteGuard(training, folder, done, checkpoints, shapes), Batches(changed), start()
        if done:
            state, data_state = checkpoints.restore(shapes)
            batches.set_state(data_state)
            guard.set_state(data_state)

        def save(number, info):
            checkpoints.save(number, info.state, info.data_state | guard.get_state())

        def look(number, info):
            try:
                checkpoints.check()
            except NotWrittenError as error:
                failed.append((number, error.what))
            if seen is not None:
                seen.append((number, float(info.metrics["skipped"]), guard.metrics["skipped"]))
            if number == killed_at:
                raise KilledError

        harm = Hook("harm", 1, lambda number, info: dict(harms).get(number, lambda: None)())
        hooks = [
            harm,
            Hook("loop", 1, guard),
            Hook("checkpoint", training.checkpoint_every, save),
            Hook("look", 1, look),
        ]
        put = lambda batch: jnp.asarray(batch["values"])  # noqa: E731
        return run_loop(state, STEP, guard.watch(batches), steps=steps, put=put, hooks=hooks, clock=LoopClock())


def train_killed(folder, changed, steps, moments, **settings):
    for step in moments:
        with pytest.raises(KilledError):
            train(folder, changed, steps, killed_at=step, **settings)
    return train(folder, changed, steps, **settings)


def lines_of(folder):
    return [json.loads(line) for line in (folder / "incidents.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("pieces", [1, 2])
@pytest.mark.parametrize("bad", [NAN, INF, 1e30])
def test_a_step_without_finite_numbers_changes_nothing_but_its_number(bad, pieces):
    """In one piece of the batch only; of 1e30 the loss's square is infinite."""
    optimizer = optax.adam(0.1)
    step = jax.jit(make_train_step(distance, optimizer, ema_decay=0.9, ema_warm_up=True, gradient_accumulation=pieces))
    before, metrics = step(start(optimizer), jnp.asarray([0.5, 0.25]))
    assert float(metrics["skipped"]) == 0 and not same(before, start(optimizer))
    after, metrics = step(before, jnp.asarray([0.5, bad]))
    assert float(metrics["skipped"]) == 1 and not np.isfinite(float(metrics["loss"]))
    assert same(before, after) and int(after.step) == 2


def test_a_gradient_without_finite_numbers_is_enough():
    step = make_train_step(
        lambda params, batch, key: jnp.sum(jnp.sqrt(params["w"] - params["w"])),
        OPTIMIZER,
        ema_decay=0.9,
        ema_warm_up=True,
    )
    state, metrics = step(start(), jnp.zeros(2))
    assert float(metrics["loss"]) == 0 and float(metrics["skipped"]) == 1 and same(state, start())


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_no_optimizers_state_sees_a_skipped_step(name):
    """Each keeps other things: counts, factored moments, moments by the kind of parameter."""
    optimizer = make_optimizer(name, learning_rate=0.1, warm_up_steps=1, decay_steps=40, clip_norm=1.0)
    params = {"layer": {"kernel": jnp.ones((128, 128)), "bias": jnp.ones(128)}}

    def loss(params, batch, key):
        return jnp.sum(jnp.square(params["layer"]["kernel"] @ batch)) + jnp.sum(params["layer"]["bias"])

    step = jax.jit(make_train_step(loss, optimizer, ema_decay=0.9, ema_warm_up=True))
    first, _ = step(initial_state(params, optimizer, jax.random.key(0)), jnp.linspace(-1, 1, 128))
    skipped, metrics = step(first, jnp.full(128, jnp.nan))
    assert float(metrics["skipped"]) == 1 and same(first, skipped)
    assert count_updates(first.opt_state) == count_updates(skipped.opt_state) == 1


@pytest.mark.thorough
def test_a_run_learns_as_if_it_had_never_had_the_batches_it_skips(tmp_path):
    changed, seen = {3: NAN, 6: INF, 7: NAN}, []
    state = train(tmp_path / "whole", changed, 10, seen=seen)
    assert same(state, learn([1, 2, 4, 5, 8, 9, 10])) and int(state.step) == 10
    assert [number for number, skipped, _ in seen if skipped] == [3, 6, 7]
    assert [total for *_, total in seen] == [0, 0, 1, 1, 1, 2, 3, 3, 3, 3]
    assert same(state, train_killed(tmp_path / "cut", changed, 10, [3, 6, 7]))
    assert count_updates(state.opt_state) == 7


def test_too_many_in_a_row_stop_the_run_and_the_dump_names_their_batches(tmp_path):
    """The loop has fetched the next batch by then, whose keys are not among them."""
    changed = {3: NAN, 6: NAN, 7: INF, 8: NAN}
    with pytest.raises(UserError, match=r"steps 6 to 8 .*on_nonfinite=rewind.*0000008\.json") as error:
        train(tmp_path, changed, 20)
    dump = json.loads((tmp_path / "incidents" / "0000008.json").read_text(), parse_constant=lambda name: 1 / 0)
    assert str(tmp_path / "incidents" / "0000008.json") in str(error.value)
    assert [one["step"] for one in dump["steps"]] == [6, 7, 8]
    assert [one["keys"] for one in dump["steps"]] == [["6a", "6b"], ["7a", "7b"], ["8a", "8b"]]
    assert [one["loss"] for one in dump["steps"]] == ["nan", "inf", "nan"]
    assert dump["updates"] == 4 and dump["skipped_in_a_row"] == 3 and dump["rewound_to"] is None

    (line,) = lines_of(tmp_path)
    assert (line["step"], line["kind"], line["keys"]) == (3, "skipped", ["3a", "3b"]), "one of a kind for a while"
    with pytest.raises(UserError, match="steps 6 to 8"):
        train(tmp_path, changed, 20)  # from the checkpoint of step 4


def test_a_run_killed_amid_skipped_steps_counts_on(tmp_path):
    with pytest.raises(KilledError):
        train(tmp_path, {3: NAN, 4: NAN, 5: NAN}, 20, killed_at=4)
    with pytest.raises(UserError, match="steps 3 to 5"):
        train(tmp_path, {3: NAN, 4: NAN, 5: NAN}, 20)
    dump = json.loads((tmp_path / "incidents" / "0000005.json").read_text())
    assert dump["skipped_in_a_row"] == 3 and [one["step"] for one in dump["steps"]] == [5], "those of this start"


REWIND = {"on_nonfinite": "rewind"}


@pytest.mark.parametrize("killed", thorough_except([[], [11]], [[], [9], [11], [13], [14, 17], [18]]))
def test_a_rewind_takes_good_parameters_and_continues_with_the_data_after_the_bad_ones(tmp_path, capsys, killed):
    """Batch 11 throws the parameters out, so that 12, 13 and 14 are skipped; checkpoints are those of 4, 8, 12, 16.

    That of 8 is the newest with a good step after it. Killed anywhere, the run does the same.
    """
    state = train_killed(tmp_path, {11: 1e9}, 20, killed, **REWIND)
    assert same(state, learn([*range(1, 9), *range(15, 21)])) and int(state.step) == 20
    dump = json.loads((tmp_path / "incidents" / "0000014.json").read_text())
    assert dump["rewound_to"] == 8 and dump["updates"] == 11
    if not killed:
        printed = capsys.readouterr().err
        assert re.search(r"steps 12 to 14 .* step 8 .*\b1 of at most 3\b", printed)


def test_a_checkpoint_of_bad_parameters_is_not_gone_back_to(tmp_path):
    """Batch 8 throws the parameters out: those that step 8 saves are bad already, and the first good ones are of 4."""
    state = train(tmp_path, {8: 1e9}, 15, **REWIND)
    assert same(state, learn([*range(1, 5), *range(12, 16)]))


def test_where_the_step_after_a_rewind_is_skipped_the_next_goes_further_back(tmp_path):
    changed = {11: 1e9, **dict.fromkeys(range(15, 18), NAN)}
    state = train(tmp_path, changed, 22, keep_checkpoints=5, **REWIND)
    assert same(state, learn([*range(1, 5), *range(18, 23)]))
    rewound = [json.loads(path.read_text())["rewound_to"] for path in sorted((tmp_path / "incidents").iterdir())]
    assert rewound == [8, 4]


@pytest.mark.parametrize("killed", thorough_except([[16]], [[], [16], [25]]))
def test_after_the_max_number_of_rewinds_the_run_stops(tmp_path, killed):
    changed = {11: 1e9, 18: 1e9, 25: 1e9}
    with pytest.raises(UserError, match=r"steps 26 to 28 .* 2 rewinds .*training\.max_rewinds"):
        train_killed(tmp_path, changed, 40, killed, max_rewinds=2, **REWIND)
    assert sorted(path.name for path in (tmp_path / "incidents").iterdir()) == [
        "0000014.json", "0000021.json", "0000028.json"
    ]  # fmt: skip


@pytest.mark.parametrize("killed", thorough_except([[11]], [[], [8], [11], [13]]))
def test_a_rewind_passes_over_a_damaged_checkpoint(tmp_path, capsys, killed):
    """Batch 11 throws the parameters out, and that of step 8 is damaged before it is gone back to."""
    folder = tmp_path / "checkpoints"

    def harm():
        if (folder / "8").exists():
            for file in [path for path in (folder / "8" / "state").rglob("*") if path.is_file()]:
                file.write_bytes(b"")

    state = train_killed(tmp_path, {11: 1e9}, 16, killed, harms={14: harm}, **REWIND)
    assert same(state, learn([*range(1, 5), *range(15, 17)])) and int(state.step) == 16
    assert re.search(r"checkpoints/8 .* 8\.damaged\b", capsys.readouterr().err)
    assert json.loads((tmp_path / "incidents" / "0000014.json").read_text())["rewound_to"] == 4


def test_where_all_good_ones_are_damaged_the_run_stops_with_an_error(tmp_path, capsys):
    def harm():
        for file in [path for path in tmp_path.glob("checkpoints/[48]/state/**/*") if path.is_file()]:
            file.write_bytes(b"")

    with pytest.raises(UserError, match=r"steps 12 to 14 "):
        train(tmp_path, {11: 1e9}, 16, harms={14: harm}, **REWIND)
    printed = capsys.readouterr().err
    assert all(f"{tmp_path / 'checkpoints' / str(step)} " in printed for step in (4, 8))


def test_a_write_that_fails_during_a_rewind_is_reported_after_it(tmp_path, monkeypatch):
    """The checkpoint of step 12 can't be written, and the rewind of step 14 has to wait for it."""
    seen, wait = [], CheckpointStore.wait

    def fail_once(store):
        wait(store)
        if (store.folder / "12").exists() and not seen:
            seen.append(store.folder)
            raise NotWrittenError(Refusal("as if it had failed", passing=True))

    monkeypatch.setattr(CheckpointStore, "wait", fail_once)
    failed = []
    state = train(tmp_path, {11: 1e9}, 15, failed=failed, **REWIND)
    assert same(state, learn([*range(1, 9), 15])) and seen
    assert failed == [(14, "as if it had failed")]


def test_passed_over_checkpoints_push_out_no_good_one(tmp_path):
    """Of the checkpoints 4, 8 and 12 that of 8 is the newest good one when 13 to 15 are skipped; then 17 to 19 are."""
    changed = {12: 1e9, 16: 1e9}
    state = train(tmp_path, changed, 24, **REWIND)
    rewound = [json.loads(path.read_text())["rewound_to"] for path in sorted((tmp_path / "incidents").iterdir())]
    assert rewound == [8, 8]
    assert same(state, learn([*range(1, 9), *range(20, 25)]))


def test_checkpoints_made_while_steps_are_skipped_push_out_no_good_one(tmp_path):
    """One after each step, of which two are kept."""
    state = train(tmp_path, {6: 1e9}, 12, checkpoint_every=1, **REWIND)
    assert same(state, learn([*range(1, 6), *range(10, 13)]))


def test_without_a_good_checkpoint_the_run_stops(tmp_path):
    with pytest.raises(UserError, match=r"incidents/\d+\.json"):
        train(tmp_path, {2: 1e9}, 20, **REWIND)


def test_a_spike_is_reported_with_its_keys_and_changes_nothing(tmp_path, capsys):
    changed = {80: 100.0, 90: 100.0}
    state = train(tmp_path, changed, 100, checkpoint_every=100)
    assert same(state, learn(range(1, 101), changed.items()))
    (line,) = lines_of(tmp_path)
    assert (line["kind"], line["step"], line["keys"]) == ("spike", 80, ["80a", "80b"])
    assert line["loss"] > 1000 and line["median"] < 5 and line["gradient_norm"] > 10
    spikes = [line for line in capsys.readouterr().err.splitlines() if "spike" in line]
    assert len(spikes) == 1 and "step 80 " in spikes[0]


def test_a_continued_run_drops_the_reports_of_steps_that_it_repeats(tmp_path, monkeypatch):
    monkeypatch.setattr(incidents, "STEPS_BETWEEN_REPORTS", 1)
    changed = {3: NAN, 6: NAN}
    with pytest.raises(KilledError):
        train(tmp_path, changed, 10, killed_at=7)
    assert [line["step"] for line in lines_of(tmp_path)] == [3, 6]
    train(tmp_path, changed, 10)
    assert [line["step"] for line in lines_of(tmp_path)] == [3, 6]


@pytest.mark.parametrize(
    ("settings", "fact"),
    [
        ({"on_nonfinite": "rewnd"}, "'rewind'"),
        ({"max_consecutive_nonfinite": 0}, "max_consecutive_nonfinite=0 "),
        ({"on_nonfinite": "rewind", "keep_checkpoints": 1}, "keep_checkpoints=1 .* 2"),
        ({"checkpoint_every": 0}, "checkpoint_every=0 .* 1"),
        ({"checkpoint_every": -3}, "checkpoint_every=-3 .* 1"),
        ({"keep_checkpoints": 0}, "keep_checkpoints=0 .* 1"),
    ],
)
def test_settings_that_can_not_work_are_refused(tmp_path, settings, fact):
    with pytest.raises(UserError, match=fact):
        train(tmp_path, {}, 1, **settings)


def test_a_checkpoint_of_an_older_version_has_nothing_for_the_guard(tmp_path):
    training = LoopConfig(steps=9, batch_size=1, max_consecutive_nonfinite=3, checkpoint_every=4)
    guard = NonfiniteGuard(training, tmp_path, 8, CheckpointStore(tmp_path / "checkpoints"), jax.eval_shape(start))
    guard.set_state({"batches_read": 8})
    assert guard.metrics == {"skipped": 0}
