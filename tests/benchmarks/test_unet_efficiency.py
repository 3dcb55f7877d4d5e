"""The comparison of the two U-Nets: it is fair by its numbers, goes on where it was cut, and writes what it found."""

import itertools
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
from ml_collections import ConfigDict
from PIL import Image

from imagen_jax.cascade.stage import abstract_params, build_stage
from imagen_jax.errors import LeavingError
from imagen_jax.forecast.parameter_count import count_parameters, total_of
from imagen_jax.training.monitoring.metrics import MetricsWriter, read_metrics
from tests.benchmarks import unet_efficiency
from tests.benchmarks.unet_configs import NAMES, make_config
from tests.benchmarks.unet_report import describe_machine, interpolate, list_losses, plot, write_table


@pytest.mark.thorough
def test_the_networks_have_equal_parameters_and_all_else_in_common(tmp_path):
    configs = [make_config(name, str(tmp_path)) for name in NAMES]
    counts = [total_of(count_parameters(abstract_params(build_stage(config)))) for config in configs]
    assert counts[0] == pytest.approx(counts[1], rel=0.02)
    for config in configs:
        del config.network
    assert configs[0].to_dict() == configs[1].to_dict()
    assert (configs[0].stage.low_resolution, configs[0].stage.resolution) == (64, 256)


def test_marks_are_even_and_end_where_it_was_asked():
    assert unet_efficiency.list_marks(25.0, 10.0) == [750.0, 1500.0]
    assert unet_efficiency.list_marks(6.0, 2.0) == [120.0, 240.0, 360.0]
    assert unet_efficiency.list_marks(1.0, 2.0) == [60.0]


def lines(*points):
    return [{"step": step, "minutes": minutes, "loss": loss} for step, minutes, loss in points]


def test_losses_between_two_marks_lie_on_the_line_between_them():
    falling = lines((10, 1.0, 0.8), (30, 2.0, 0.4), (50, 3.0, 0.2))
    assert interpolate(falling, "step", "loss", 20) == pytest.approx(0.6)
    assert interpolate(falling, "loss", "minutes", 0.3) == pytest.approx(2.5)
    assert interpolate(falling, "minutes", "loss", 3.0) == pytest.approx(0.2)
    assert interpolate(falling, "loss", "minutes", 0.1) is None
    assert interpolate(falling[:1], "step", "loss", 10) == 0.8


def test_the_way_to_an_equal_loss_is_a_row_where_both_reach_it():
    efficient = lines((40, 2.0, 0.4), (80, 4.0, 0.2))
    adm = lines((10, 2.0, 0.6), (20, 4.0, 0.3))
    assert list_losses({"efficient": efficient, "adm": adm})[-1] == (
        "minutes to a held-out loss of 0.3000", "3.0", "4.0", "**1.33**"
    )  # fmt: skip
    assert list_losses({"efficient": adm, "adm": efficient})[-1][0] == "held-out loss after 80 steps"


def make_lines(folder, name, *points):
    with MetricsWriter(folder / name, 0, name=unet_efficiency.HELD_OUT) as writer:
        for step, minutes, loss in points:
            writer.write(step, {"minutes": minutes, "loss": loss})


class PretendedTraining:
    """Steps of half a second; the fifth start is cut before anything is kept."""

    def __init__(self):
        self.steps = dict.fromkeys(NAMES, 0)
        self.starts = []

    def train_for(self, config, workdir, seconds):
        self.starts.append(workdir.name)
        if len(self.starts) == 5:
            raise KeyboardInterrupt
        self.steps[workdir.name] += round(seconds / 0.5)

    def read_progress(self, workdir):
        return self.steps[workdir.name], self.steps[workdir.name] * 0.5

    def measure(self, config):
        return lambda workdir: (self.steps[workdir.name], 1 / self.steps[workdir.name])


def test_trainings_take_turns_and_go_on_where_they_were_cut(tmp_path, monkeypatch):
    pretended = PretendedTraining()
    monkeypatch.setattr(unet_efficiency, "train_for", pretended.train_for)
    monkeypatch.setattr(unet_efficiency, "read_progress", pretended.read_progress)
    monkeypatch.setattr(unet_efficiency, "HeldOutLoss", pretended.measure)
    arguments = (dict.fromkeys(NAMES), tmp_path, [60.0, 120.0, 180.0])
    with pytest.raises(KeyboardInterrupt):
        unet_efficiency.train_in_turns(*arguments)
    unet_efficiency.train_in_turns(*arguments)
    assert pretended.starts == ["efficient", "adm", "adm", "efficient", "efficient", "efficient", "adm"]
    for name in NAMES:
        found = read_metrics(tmp_path / name, unet_efficiency.HELD_OUT)
        assert [(line["step"], line["minutes"]) for line in found] == [(120, 1.0), (240, 2.0), (360, 3.0)]


@pytest.mark.parametrize("hears", [False, True])
def test_a_turn_ends_after_its_time_and_a_signal_ends_all(hears, monkeypatch, tmp_path):
    steps = []

    def train(config, workdir):
        with unet_efficiency.training.watching_for_exit() as should_leave:
            while not should_leave(len(steps)):
                steps.append(len(steps))
        raise LeavingError("the checkpoint is written")

    @contextmanager
    def listening():
        yield lambda number: hears and number == 3

    monkeypatch.setattr(unet_efficiency.training, "train", train)
    monkeypatch.setattr(unet_efficiency, "watching_for_exit", listening)
    if hears:
        with pytest.raises(LeavingError):
            unet_efficiency.train_for(ConfigDict(), tmp_path, 60.0)
        assert len(steps) == 3
    else:
        seconds = itertools.count()
        monkeypatch.setattr(unet_efficiency, "time", SimpleNamespace(perf_counter=lambda: next(seconds)))
        unet_efficiency.train_for(ConfigDict(), tmp_path, 5.0)
        assert len(steps) == 4


def test_the_page_has_the_table_and_the_plot(tmp_path):
    count = {"parameters": 10, "resolution": 256, "crop": 128, "batch_size": 4}
    make_lines(tmp_path, "efficient", (40, 2.0, 0.4), (80, 4.0, 0.2))
    make_lines(tmp_path, "adm", (10, 2.0, 0.6), (20, 4.0, 0.3))
    taken = {"efficient": [1.0, 2.0, 1.0], "adm": [3.0, 5.0, 4.0]}
    results = {
        "machine": describe_machine(),
        "minutes": 4.0,
        "slice_minutes": 2.0,
        "counts": {
            "efficient": count | {"forward_operations": 10**9, "training_operations": 2 * 10**9},
            "adm": count | {"forward_operations": 4 * 10**9, "training_operations": 6 * 10**9},
        },
        "sampling": {"steps": 16, "pictures": 1, "seconds": taken, "processor_seconds": taken},
        "held_out": {name: read_metrics(tmp_path / name, unet_efficiency.HELD_OUT) for name in NAMES},
    }
    table = write_table(results, tmp_path / "page.md").splitlines()
    assert table[3].endswith("| 1.00 | 4.00 | 4.00 |")
    assert table[5] == "| sampling, s/image, 16 steps | 1.00 (1.00 to 2.00) | 4.00 (3.00 to 5.00) | **3.00** |"
    assert table[7] == "| training, images/s | 1.33 | 0.33 | 4.00 |"
    assert table[8] == "| steps made, minutes in them | 80 in 4.0 | 20 in 4.0 |  |"
    plot(results, tmp_path / "plot.png")
    with Image.open(tmp_path / "plot.png") as image:
        assert image.size[0] > image.size[1]
