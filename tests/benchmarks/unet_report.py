"""The table and the plot of ``unet_efficiency``, from its results alone."""

import os
import platform
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import matplotlib

from tests.benchmarks.unet_configs import NAMES, TITLES

matplotlib.use("Agg")
import matplotlib.pyplot as plt

Line = dict[str, Any]


def describe_machine() -> str:
    """When and where this is measured."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    processor = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    versions = f"Python {platform.python_version()}, jax {jax.__version__}"
    return f"{time.strftime('%d %B %Y')}, {os.cpu_count()} cores, {processor or platform.machine()}, {versions}"


def interpolate(lines: Sequence[Line], x: str, y: str, at: float) -> float | None:
    """``y`` where ``x`` is ``at``, on straight lines between neighbours in order; None where ``x`` never is.

    Where it is so more than once, the first counts.
    """
    for before, after in zip(lines, lines[1:], strict=False):
        if min(before[x], after[x]) <= at <= max(before[x], after[x]):
            share = 0.0 if before[x] == after[x] else (at - before[x]) / (after[x] - before[x])
            return before[y] + share * (after[y] - before[y])
    return lines[0][y] if lines and lines[0][x] == at else None


def list_rows(results: Line) -> list[tuple[str, str, str, str]]:
    """The table: what, of the Efficient U-Net, of the ADM U-Net, and how many times as good the first is."""
    counts, sampling, held_out = (results[key] for key in ("counts", "sampling", "held_out"))
    efficient, adm = (counts[name] for name in NAMES)
    rows = [("parameters", *(f"{of['parameters']:,}" for of in (efficient, adm)), "")]
    for key, what in (
        ("forward_operations", f"GFLOP of a call, an image of {adm['resolution']} px"),
        ("training_operations", f"GFLOP of a training step, a crop of {adm['crop']} px"),
    ):
        rows.append((what, *(f"{of[key] / 1e9:.2f}" for of in (efficient, adm)), times(adm[key] / efficient[key])))

    per_image = sampling["pictures"]
    for key, kind in (("seconds", "s"), ("processor_seconds", "processor's s")):
        taken = [[one / per_image for one in sampling[key][name]] for name in NAMES]
        cells = [f"{statistics.median(of):.2f} ({min(of):.2f} to {max(of):.2f})" for of in taken]
        ratio = statistics.median(slow / fast for fast, slow in zip(*taken, strict=True))
        rows.append(
            (f"sampling, {kind}/image, {sampling['steps']} steps", *cells, times(ratio, strong=key == "seconds"))
        )

    ends = [held_out[name][-1] for name in NAMES]
    rates = [
        end["step"] * of["batch_size"] / end["minutes"] / 60 for end, of in zip(ends, (efficient, adm), strict=True)
    ]
    rows.append(("training, images/s", *(f"{rate:.2f}" for rate in rates), times(rates[0] / rates[1])))
    made = [f"{end['step']:,} in {end['minutes']:.1f}" for end in ends]
    rows.append(("steps made, minutes in them", *made, ""))
    rows += list_losses(held_out)
    return rows


def list_losses(held_out: dict[str, list[Line]]) -> list[tuple[str, str, str, str]]:
    """The rows that compare held-out losses: at equal minutes, at equal steps, and the way to an equal one."""
    efficient, adm = (held_out[name] for name in NAMES)
    last = adm[-1]
    rows = []
    marks = [adm[number] for number in sorted({len(adm) // 4, len(adm) // 2, len(adm) - 1})]
    for mark in marks:
        # Both end within seconds of the same mark.
        minutes = min(mark["minutes"], efficient[-1]["minutes"])
        cells = (show(interpolate(lines, "minutes", "loss", minutes)) for lines in (efficient, adm))
        rows.append((f"held-out loss after {minutes:.1f} minutes", *cells, ""))
    same_steps = show(interpolate(efficient, "step", "loss", last["step"]))
    rows.append((f"held-out loss after {last['step']:,} steps", same_steps, show(last["loss"]), ""))
    needed = interpolate(efficient, "loss", "minutes", last["loss"])
    if needed is not None:
        cells = (f"{needed:.1f}", f"{last['minutes']:.1f}", times(last["minutes"] / needed, strong=True))
        rows.append((f"minutes to a held-out loss of {last['loss']:.4f}", *cells))
    return rows


def show(loss: float | None) -> str:
    """A loss; a dash where there is none."""
    return "–" if loss is None else f"{loss:.4f}"


def times(ratio: float, strong: bool = False) -> str:
    """A ratio as the table has it."""
    return f"**{ratio:.2f}**" if strong else f"{ratio:.2f}"


def write_table(results: Line, path: Path) -> str:
    """Writes the page with the table; returns the table."""
    rows = [("", *(TITLES[name] for name in NAMES), "ADM's over Efficient's, or rates the other way"), ("---",) * 4]
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows + list_rows(results))
    batch = results["counts"]["adm"]["batch_size"]
    page = f"""# Efficient U-Net against ADM U-Net, 64→256 px

Measured: {results["machine"]}. Each trained for {results["minutes"]:g} minutes inside its steps, in turns of
{results["slice_minutes"]:g} minutes, Adam, batches of {batch} crops; drawn in turn, in one process, the median of \
{len(results["sampling"]["seconds"]["adm"])} rounds
(slowest and fastest in brackets), without compiling. The ratio of sampling is the median of the rounds' ratios.

```sh
export GLIBC_TUNABLES=glibc.malloc.hugetlb=1
python -m tests.benchmarks.unet_efficiency FOLDER --minutes={results["minutes"]:g} --slice={results["slice_minutes"]:g}
```

{table}

The held-out loss is that of the averaged parameters, on the same crops of held-out images, with the same times and
noise. What the two networks are: `unet_configs.py`.

![Held-out loss against minutes, steps and operations](unet_efficiency.png)
"""
    path.write_text(page)
    return table


def plot(results: Line, path: Path) -> None:
    """Draws the held-out losses against minutes, steps and counted operations."""
    figure, axes = plt.subplots(1, 3, figsize=(12, 3.8), sharey=True, layout="constrained")
    for name in NAMES:
        lines, of = results["held_out"][name], results["counts"][name]
        losses = [line["loss"] for line in lines]
        a_step = of["training_operations"] * of["batch_size"] / 1e15
        for axis, x in zip(
            axes,
            (
                [line["minutes"] for line in lines],
                [line["step"] for line in lines],
                [line["step"] * a_step for line in lines],
            ),
            strict=True,
        ):
            axis.plot(x, losses, "o-", markersize=3, label=TITLES[name])
    for axis, label in zip(axes, ("minutes inside steps", "steps", "PFLOP of training, counted"), strict=True):
        axis.set(xlabel=label, yscale="log")
        axis.set_xlim(left=0)
        axis.grid(visible=True, which="both", alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("held-out loss")
    axes[0].legend(frameon=False)
    figure.suptitle("64→256 px on OpenMoji, equal parameters", fontsize=10)
    figure.savefig(path, dpi=110)
    plt.close(figure)
