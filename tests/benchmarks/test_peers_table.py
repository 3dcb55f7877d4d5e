"""The table of the benchmark next to other libraries: what it says of results, and what it does not."""

import json

import pytest

from tests.benchmarks.peers_table import format_table, write_table
from tests.benchmarks.peers_work import SKIPPED, TINY, repeat, steady

NAMES = ("diffusers", "deepfloyd_unet", "imagen_pytorch", "efficient_unet", "unet")
FACTS = {name: {"parameters": 10**6, "operations": 10**9} for name in NAMES}


def results_of(seconds_by_contender):
    """Results of training as contenders print them."""
    results = []
    for name, seconds in seconds_by_contender.items():
        shared = {"contender": name, "task": "train", "round": 1, "load": 1.0, "images": 8, "peak_bytes": 2**30}
        results.append(shared | {"cache": "warm", "first_seconds": 5.0, "seconds": [9.0, 9.0, seconds]})
        if name not in ("diffusers", "imagen_pytorch"):
            results.append(shared | {"cache": "cold", "first_seconds": 30.0, "seconds": [9.0]})
    return results


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
    assert text.startswith("# Next to") and "# Old" not in text and text.endswith("\n\n## What limits it\n\nMemory.\n")
    with pytest.raises(SystemExit, match="no results"):
        write_table(TINY, [], FACTS, None)


def test_steady_seconds_leave_out_the_first_ones():
    took = repeat(lambda: None, SKIPPED + 3, began=0.0)
    assert len(json.loads(json.dumps(took))["seconds"]) == SKIPPED + 3
    assert steady("train", [9.0, 9.0, 1.0, 3.0, 2.0]) == 2.0
    assert steady("sample", [9.0, 1.0, 3.0]) == 2.0
    assert steady("train", [9.0]) is None
