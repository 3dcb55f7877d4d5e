"""The report of an evaluation: one JSON file with every fact that a reader needs to repeat it."""

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
    """Cores and devices, Python, and the versions that matter."""
    versions = {name: importlib.metadata.version(name) for name in VERSIONS}
    return {
        "cores": os.cpu_count(),
        "devices": f"{jax.device_count()} × {jax.devices()[0].device_kind}",
        "platform": platform.platform(),
        "python": platform.python_version(),
        "versions": versions,
    }


def describe_training(lines: Sequence[Mapping[str, int | float]]) -> dict[str, Any]:
    """What a run's metrics say about it as a whole: steps, last loss, speed, overhead, memory.

    Speed is the median of the log lines. Seconds and overhead are those of the last process that trained it.
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
    """Writes a report as JSON, under its name only when it is whole.

    Floats are rounded to six significant digits; what is not finite becomes null, as JSON has no word for it.

    Raises:
        UserError: it can't be written.
    """
    text = json.dumps(round_numbers(report), indent=2, allow_nan=False, ensure_ascii=False) + "\n"
    try:
        write_whole(path, text.encode())
    except OSError as error:
        raise UserError(
            f"{path} can't be written ({error.strerror or error}): make room or choose another --out"
        ) from error


def round_numbers(value: Any) -> Any:
    """The same structure with floats rounded to six significant digits, and None where they are not finite."""
    if isinstance(value, Mapping):
        return {key: round_numbers(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [round_numbers(item) for item in value]
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value
