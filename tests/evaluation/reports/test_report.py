"""The report: complete or absent, plain JSON, rounded numbers."""

import errno
import json
import platform
from pathlib import Path

import jax
import pytest

from imagen_jax.errors import UserError
from imagen_jax.evaluation.reports.report import describe_machine, describe_training, write_report


def read_strictly(path):
    """Reads JSON, and refuses the words NaN and Infinity, which are not JSON."""

    def refuse(word):
        raise ValueError(word)

    return json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)


def test_a_report_is_read_back_in_its_order_with_rounded_numbers(tmp_path):
    path = tmp_path / "report.json"
    write_report(path, {"z": 1 / 3, "a": {"deep": [1234567.891, 2, "x"], "tiny": 1.23456789e-9}, "steps": 123456789})
    report = read_strictly(path)
    assert report == {"z": 0.333333, "a": {"deep": [1234570.0, 2, "x"], "tiny": 1.23457e-9}, "steps": 123456789}
    assert list(report) == ["z", "a", "steps"]


def test_non_finite_numbers_become_null(tmp_path):
    path = tmp_path / "report.json"
    write_report(path, {"loss": float("nan"), "rates": (float("inf"), 1.5)})
    assert read_strictly(path) == {"loss": None, "rates": [None, 1.5]}


def test_a_report_that_fails_leaves_the_old_one(tmp_path):
    path = tmp_path / "report.json"
    write_report(path, {"good": 1})
    with pytest.raises(TypeError):
        write_report(path, {"bad": object()})
    assert read_strictly(path) == {"good": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["report.json"]


def test_a_full_disk_leaves_the_old_report(tmp_path, monkeypatch):
    path = tmp_path / "report.json"
    write_report(path, {"good": 1})

    def write_half(self, content):
        with self.open("wb") as file:
            file.write(content[: len(content) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", write_half)
    with pytest.raises(UserError, match=r"report\.json.*No space left on device"):
        write_report(path, {"new": 2})
    assert read_strictly(path) == {"good": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["report.json"]


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(UserError, match=r"none/report\.json"):
        write_report(tmp_path / "none" / "report.json", {})


def test_the_machine_is_described():
    machine = describe_machine()
    assert machine["python"] == platform.python_version() and machine["cores"] >= 1
    assert machine["versions"]["jax"] == jax.__version__
    assert machine["devices"].startswith(f"{jax.device_count()} × ")


def test_training_is_summed_up():
    lines = [
        {
            "step": 10 * number,
            "loss": float(number),
            "images_per_second": rate,
            "seconds": 2.0 * number,
            "overhead": 0.1 * number,
            "overhead_of_loop": 0.01 * number,
            "peak_memory_gib": 3.0 - 0.1 * number,
        }
        for number, rate in enumerate([1.0, 80.0, 82.0, 81.0, 500.0] + 15 * [81.0], start=1)
    ]
    summary = describe_training(lines)
    assert summary["steps"] == 200 and summary["seconds"] == 40.0
    assert summary["loss_of_last_ten_lines"] == sum(range(11, 21)) / 10
    assert summary["images_per_second"] == 81.0
    assert summary["peak_memory_gib"] == 2.9
    assert summary["overhead_of_loop"] == pytest.approx(0.2)
    assert describe_training([]) == {}
