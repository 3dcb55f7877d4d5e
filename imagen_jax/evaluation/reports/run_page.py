"""Writes the page of a training run: one HTML file with its plots, previews, incidents and settings.

workdir (config.json, metrics.jsonl, previews/, incidents*.jsonl, evaluations.jsonl) -> WORKDIR/run.html

It reads the files of the workdir and no checkpoint. So it also works for a run that continues, for a run in a bucket,
and for runs of older versions, whose log has fewer metrics.
"""

import functools
import re
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from imagen_jax.errors import UserError
from imagen_jax.evaluation.protocols.during_training import FILE_NAME as EVALUATIONS
from imagen_jax.evaluation.reports.html_pages import data_uri, thumbnail, write_page
from imagen_jax.evaluation.reports.html_report import Grid, flatten, in_figures, in_text
from imagen_jax.evaluation.reports.run_plots import Lines, plot_run_figures, smoothing_window
from imagen_jax.evaluation.reports.run_settings import compare_with_defaults
from imagen_jax.storage.json_text import read_json
from imagen_jax.storage.paths import Path, files_in, mark_of
from imagen_jax.training.monitoring.metrics import read_metrics
from imagen_jax.training.workdir import FINGERPRINTS, read_config

PAGE_NAME = "run.html"

MAX_PREVIEWS = 24
"""Max number of previews on the page, evenly spaced, with the first and the last."""

PREVIEW_SIDE = 1100
PREVIEW_BYTES = 150_000
"""Max length of a preview's longer side in pixels, and max size of its file on the page."""

MAX_INCIDENTS = 200
"""Max number of incidents on the page, the latest."""

SHOWN_KEYS = 3
"""Number of a batch's keys that an incident shows."""


class Preview(NamedTuple):
    """A preview of the run.

    Attributes:
        step: the step.
        address: the image as a data URI.
    """

    step: int
    address: str


class Incident(NamedTuple):
    """Something unusual in the run.

    Attributes:
        step: the step.
        kind: its kind, such as ``spike`` or ``rewind``.
        facts: its other values, in text.
    """

    step: int
    kind: str
    facts: str


def write_run_page(workdir: Path, path: Path | None = None) -> Path:
    """Writes the page of a run.

    Args:
        workdir: folder of the run.
        path: the HTML file; ``run.html`` in the workdir if None.

    Returns:
        The path of the page.

    Raises:
        UserError: the folder is not a workdir, a file of the run is damaged, or the page can't be written.
    """
    path = path or workdir / PAGE_NAME
    config = read_config(workdir)
    lines, evaluations = read_metrics(workdir), read_metrics(workdir, EVALUATIONS)
    incidents = read_incidents(workdir)
    previews, count, damaged = read_previews(workdir)
    identity = config.pop(FINGERPRINTS, {})
    values = {
        "title": str(workdir),
        "written": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "is_done": is_done(config, lines),
        "cards": make_cards(config, lines, len(incidents)),
        "warnings": damaged,
        "figures": [
            {"title": one.title, "note": one.note, "address": data_uri(one.image, one.title)}
            for one in plot_run_figures(lines, [one.step for one in incidents], evaluations)
        ],
        "has_lines": bool(lines),
        "has_levels": any(name.startswith("loss_log_snr_") for line in lines for name in line),
        "previews": previews,
        "preview_count": count,
        "incidents": incidents[-MAX_INCIDENTS:],
        "incident_count": len(incidents),
        "evaluations": next((one for one in flatten("", evaluations) if isinstance(one, Grid)), None),
        "settings": compare_with_defaults(config),
        "identity": {name.replace("_", " "): in_text(value) for name, value in identity.items()},
    }
    write_page(path, "run.html.jinja", values)
    return path


def make_cards(config: Mapping[str, Any], lines: Lines, incidents: int) -> list[dict[str, str]]:
    """Returns the numbers at the top of the page: ``name``, ``value`` and ``note`` of each."""
    steps = config.get("training", {}).get("steps")
    last = lines[-1] if lines else {"step": 0}
    share = f"{last['step'] / steps:.0%} of {steps:,}" if steps else "of an unknown number"
    cards = [("step", f"{last['step']:,}", share)]
    losses = [line["loss"] for line in lines if isinstance(line.get("loss"), int | float)]
    if losses:
        tail = losses[-smoothing_window(lines) :]
        note = f"mean of the last {len(tail)} log lines" if len(tail) > 1 else "of the last log line"
        cards.append(("loss", in_figures(sum(tail) / len(tail)), note))
    rates = sorted(line["images_per_second"] for line in lines if "images_per_second" in line)
    if rates:
        cards.append(("images per second", in_figures(rates[len(rates) // 2]), "median of all log lines"))
    if "useful_seconds" in last:
        cards.append(("time in steps", in_hours(last["useful_seconds"]), f"{last['goodput']:.0%} of the wall time"))
    memory = [line["peak_memory_gib"] for line in lines if "peak_memory_gib" in line]
    if memory:
        cards.append(("peak memory", f"{max(memory):.1f} GiB", "of process 0, on the host"))
    skipped = last.get("skipped", 0)
    cards.append(("incidents", f"{incidents:,}", f"{skipped:,.0f} skipped steps"))
    return [dict(zip(("name", "value", "note"), card, strict=True)) for card in cards]


def is_done(config: Mapping[str, Any], lines: Lines) -> bool:
    """Returns whether the last log line is that of the last step."""
    steps = config.get("training", {}).get("steps")
    return bool(lines and steps) and lines[-1]["step"] >= steps


def in_hours(seconds: float) -> str:
    """Formats a duration as ``45 s``, ``12 min`` or ``3.5 h``."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:,.1f} h"


def read_previews(workdir: Path) -> tuple[list[Preview], int, list[str]]:
    """Returns the previews on the page, the number of all previews, and a warning for each unreadable one."""
    files = [file for file in files_in(workdir / "previews") if re.fullmatch(r"\d+\.png", file.name)]
    previews, warnings = [], []
    for file in choose_evenly(files, MAX_PREVIEWS):
        try:
            previews.append(Preview(int(file.name.removesuffix(".png")), encode_preview(file, mark_of(file))))
        except (UserError, OSError) as error:
            warnings.append(str(error))
    return previews, len(files), warnings


def choose_evenly(items: Sequence[Any], count: int) -> list[Any]:
    """Returns at most ``count`` items at even distances, with the first and the last."""
    if len(items) <= count:
        return list(items)
    return [items[round(number * (len(items) - 1) / (count - 1))] for number in range(count)]


@functools.lru_cache(maxsize=2 * MAX_PREVIEWS)
def encode_preview(file: Path, mark: str) -> str:
    """Returns a preview as a data URI. Cached, because training writes the page again after each preview.

    Args:
        file: the preview.
        mark: a text that changes with the file.
    """
    return data_uri(thumbnail(file, PREVIEW_SIDE, PREVIEW_BYTES), file.name)


def read_incidents(workdir: Path) -> list[Incident]:
    """Returns the incidents of all processes, in the order of their steps."""
    found = []
    for file in sorted(workdir.iterdir(), key=lambda file: file.name):
        part = re.fullmatch(r"incidents(\.\d+)?\.jsonl", file.name)
        if part:
            process = f"process {part[1][1:]}, " if part[1] else ""
            found += [make_incident(line, process) for line in read_metrics(workdir, file.name)]
    for file in files_in(workdir / "incidents"):
        if re.fullmatch(r"\d+\.json", file.name):
            found.append(make_response(int(file.name.removesuffix(".json")), read_json(file)))
    return sorted(found, key=lambda incident: incident.step)


def make_incident(line: Mapping[str, Any], process: str) -> Incident:
    """Returns the incident that a line of ``incidents.jsonl`` describes."""
    others = {name: value for name, value in line.items() if name not in ("step", "kind", "keys")}
    keys = line.get("keys", [])
    more = ", …" if len(keys) > SHOWN_KEYS else ""
    images = f"; {len(keys)} images: {', '.join(map(str, keys[:SHOWN_KEYS]))}{more}" if keys else ""
    facts = ", ".join(f"{name.replace('_', ' ')} {in_text(value)}" for name, value in others.items())
    return Incident(line["step"], str(line.get("kind", "unknown")), f"{process}{facts}{images}")


def make_response(step: int, dump: Mapping[str, Any]) -> Incident:
    """Returns the end of the run, or its rewind, after too many consecutive skipped steps."""
    back_to = dump.get("rewound_to")
    sentence = f"{dump.get('skipped_in_a_row')} consecutive steps were skipped"
    if back_to is None:
        return Incident(step, "stop", f"{sentence}, and training ended")
    return Incident(step, "rewind", f"{sentence}; training continued with the parameters of step {back_to}")
