"""The benchmark next to other libraries, at a size that says nothing of speed: that the work is the same, and told."""

import json

import jax
import pytest

from tests.benchmarks.peers_table import format_table, write_table
from tests.benchmarks.peers_work import SKIPPED, TINY, read_facts, repeat, steady, write_work

pytestmark = pytest.mark.references


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What diffusers' side writes, and ours imports."""
    from tests.benchmarks import peers_ours, peers_torch

    folder = tmp_path_factory.mktemp("peers")
    write_work(folder, TINY)
    peers_torch.prepare_diffusers(folder, TINY)
    with jax.default_matmul_precision("highest"):
        peers_ours.prepare(folder, "deepfloyd_unet", TINY)
    return folder


def test_both_have_one_network(folder):
    facts = read_facts(folder)
    theirs, ours = facts["diffusers"], facts["deepfloyd_unet"]
    assert ours["parameters"] == theirs["parameters"]
    assert ours["difference"] < 1e-4
    # They count the taps that fall on the padding too, of which there are many on few places.
    assert 0.85 < ours["operations"] / theirs["operations"] <= 1.0


def test_both_learn_the_same_batch_and_draw(folder):
    from tests.benchmarks import peers_ours, peers_torch

    for step in (peers_torch.train_diffusers(folder, TINY), peers_ours.train(folder, "deepfloyd_unet", TINY)):
        assert all(0.01 < step() < 100 for _ in range(3))
    pictures = peers_torch.sample_diffusers(folder, TINY)().images
    (ours,) = peers_ours.sample(folder, "deepfloyd_unet", TINY)()
    assert ours.shape == pictures.shape == (TINY.pictures, TINY.resolution, TINY.resolution, 3)


def results_of(seconds_by_contender, task="train", peak=2**30):
    """Results as contenders print them."""
    return [
        {"contender": name, "task": task, "cache": cache, "round": 1, "load": 1.0, "images": 8, "peak_bytes": peak,
         "first_seconds": 30.0 if cache == "cold" else 5.0, "seconds": [9.0, 9.0, seconds] if cache == "warm" else [9.0]}
        for name, seconds in seconds_by_contender.items()
        for cache in (("warm",) if name in ("diffusers", "imagen_pytorch") else ("cold", "warm"))
    ]  # fmt: skip


FACTS = dict.fromkeys(
    ("diffusers", "deepfloyd_unet", "imagen_pytorch", "efficient_unet", "unet"),
    {"parameters": 10**6, "operations": 10**9},
)


def test_the_table_has_ratios_and_what_is_asked():
    table = format_table(TINY, results_of({"diffusers": 4.0, "deepfloyd_unet": 2.0}), FACTS)
    assert "| training, images/s | 2.000 | 4.000 | **2.00** | ≥ 1.0 |" in table
    assert "| peak memory of training, GiB | 1.00 | 1.00 | **1.00** | ≤ 1.0 |" in table
    assert "| first training step, nothing compiled, s | 5.0 | 30.0 | 6.00 |  |" in table
    # Nothing is said of what was not measured.
    assert "sampling, images/s" not in table and "imagen-pytorch's U-Net, and two" not in table


def test_a_ratio_below_what_is_asked_is_not_bold():
    table = format_table(TINY, results_of({"imagen_pytorch": 2.0, "efficient_unet": 2.0, "unet": 1.0}), FACTS)
    assert "| training, images/s | 4.000 | 4.000 | 1.00 | 8.000 | **2.00** | ≥ 1.2 |" in table


def test_what_a_person_wrote_below_the_table_stays(tmp_path):
    path = tmp_path / "peers.md"
    path.write_text("# Old\n\n## What limits it\n\nMemory.\n")
    write_table(TINY, results_of({"diffusers": 4.0, "deepfloyd_unet": 2.0}), FACTS, path)
    text = path.read_text()
    assert text.startswith("# Next to") and text.endswith("\n\n## What limits it\n\nMemory.\n")
    with pytest.raises(SystemExit, match="no results"):
        write_table(TINY, [], FACTS, None)


def test_steady_seconds_leave_out_the_first_ones():
    took = repeat(lambda: None, SKIPPED + 3, began=0.0)
    assert len(json.loads(json.dumps(took))["seconds"]) == SKIPPED + 3
    assert steady("train", [9.0, 9.0, 1.0, 3.0, 2.0]) == 2.0
    assert steady("sample", [9.0, 1.0, 3.0]) == 2.0
    assert steady("train", [9.0]) is None
