"""Writes the report of an evaluation: one JSON file with all facts that a reader needs to repeat the evaluation."""

import importlib.metadata
import json
import math
import os
import platform
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from imagen_jax.errors import UserError
from imagen_jax.storage.paths import Path, write_whole

VERSIONS = ("jax", "flax", "optax", "orbax-checkpoint", "numpy")


def describe_machine() -> dict[str, Any]:
    """Returns the number of cores, the devices, the platform, and the versions of Python and the main packages."""
    versions = {name: importlib.metadata.version(name) for name in VERSIONS}
    return {
        "cores": os.cpu_count(),
        "devices": f"{jax.device_count()} × {jax.devices()[0].device_kind}",
        "platform": platform.platform(),
        "python": platform.python_version(),
        "versions": versions,
    }


def describe_training(lines: Sequence[Mapping[str, int | float]]) -> dict[str, Any]:
    """Summarises a run's metrics: steps, last loss, speed, overhead, memory.

    The speed is the median over the log lines. Seconds and overhead are those of the last process of the run.
    """
    if not lines:
        return {}
    rates = sorted(line["images_per_second"] for line in lines)
    last = lines[-1]
    tail = [line["loss"] for line in lines[-10:]]
    return {
        "steps": last["step"],
        "loss_of_last_ten_lines": sum(tail) / len(tail),
        "images_per_second": rates[len(rates) // 2],
        "seconds": last["seconds"],
        "overhead_of_loop": last["overhead_of_loop"],
        "overhead_with_previews_and_checkpoints": last["overhead"],
        "peak_memory_gib": max(line["peak_memory_gib"] for line in lines),
    }


def write_report(path: Path, report: Mapping[str, Any]) -> None:
    """Writes a report as JSON. Readers never see a partial file.

    Floats are rounded to six significant digits. NaN and infinity become null, because JSON cannot represent them.

    Raises:
        UserError: the file can't be written.
    """
    text = json.dumps(round_numbers(report), indent=2, allow_nan=False, ensure_ascii=False) + "\n"
    try:
        write_whole(path, text.encode())
    except OSError as error:
        raise UserError(
            f"{path} can't be written ({error.strerror or error}): make room or choose another --out"
        ) from error


def round_numbers(value: Any) -> Any:
    """Returns the same structure with floats rounded to six significant digits, and None for NaN and infinity."""
    if isinstance(value, Mapping):
        return {key: round_numbers(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [round_numbers(item) for item in value]
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value
