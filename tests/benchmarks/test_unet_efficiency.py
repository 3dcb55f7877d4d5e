"""The comparison of the two U-Nets: it is fair by its numbers, goes on where it was cut, and writes what it found."""

import json

import pytest

from imagen_jax.counting.parameters import count_parameters, total_of
from imagen_jax.stages import abstract_params, build_stage
from tests.benchmarks import unet_efficiency
from tests.benchmarks.unet_configs import NAMES, make_config
from tests.benchmarks.unet_report import interpolate, list_losses


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


@pytest.mark.slow
def test_it_measures_trains_in_turns_and_goes_on(tmp_path, monkeypatch):
    train, begun = unet_efficiency.train_for, []

    def cut_at_the_third(config, workdir, seconds):
        begun.append(workdir.name)
        if len(begun) == 3:
            raise KeyboardInterrupt
        train(config, workdir, seconds)

    monkeypatch.setattr(unet_efficiency, "train_for", cut_at_the_third)
    asked = (0.02, 0.01, (2, 1, 2), True)
    with pytest.raises(KeyboardInterrupt):
        unet_efficiency.compare(tmp_path, *asked)
    drawn = (tmp_path / "tiny" / "sampling.json").read_bytes()
    folder = unet_efficiency.compare(tmp_path, *asked)

    assert begun[:3] == ["efficient", "adm", "adm"]
    assert (folder / "sampling.json").read_bytes() == drawn
    results = json.loads((folder / "results.json").read_text())
    assert results["counts"]["adm"]["forward_operations"] > results["counts"]["efficient"]["forward_operations"]
    for name in NAMES:
        ends = results["held_out"][name]
        assert ends[0]["step"] < ends[-1]["step"]
        assert ends[-1]["minutes"] >= 0.02 - unet_efficiency.TOLERANCE * 0.01
    page = (folder / "unet_efficiency.md").read_text()
    assert "| sampling, s/image, 2 steps |" in page and "held-out loss after" in page
    assert (folder / "unet_efficiency.png").stat().st_size > 1000
