"""The report of a torture, made of its log."""

from collections.abc import Sequence
from pathlib import Path

HEAD = """# Trainings that were killed

Made by

    python -m tests.torture.kill {arguments}

A start of `imagen_jax.train` is killed with SIGKILL, and the same command starts again until the run is done. Then its
parameters, averages, optimizer state, random key, position in the data, the examples of each step, metrics and previews
are compared with those of a run that was never killed, bit for bit. `mesh` starts each time on another mesh and is
compared with a run that changes its mesh at the same steps without being killed.
"""

COLUMNS = {
    "variant": "what is trained",
    "runs": "that were killed and came to their end",
    "kills": "of them",
    "cut checkpoints": "kills that left a checkpoint half written",
    "in a checkpoint": "the last that the process told was that it began to save, or had just begun",
    "in a preview": "while one was drawn or written",
    "in a line": "that left half a line of metrics",
    "before the loop": "while it started",
    "starts": "of killed runs, the first included",
    "others' seconds": "the longest that a process lived on after another one was killed",
    "wrong ends": "of those: with another status than 3, or not at all",
    "workers left": "data workers that outlived a kill",
    "unhurt": "starts that were done before their kill, and say nothing",
    "stumbles": "starts that failed without having been killed",
    "leftovers": "runs that have other files than the uninterrupted one at the end",
    "differences": "of finished runs from the uninterrupted ones",
}


def row(name: str, lines: Sequence[dict]) -> dict[str, object]:
    """What a variant's log says."""
    kills = [line for line in lines if line["kind"] == "kill"]
    runs = [line for line in lines if line["kind"] == "run"]
    last = [line["told"][-1]["at"] if line["told"] else "nothing" for line in kills]
    stumbles = [line for line in lines if line["kind"] == "stumble"]
    return {
        "variant": name,
        "runs": len(runs),
        "kills": len(kills),
        "cut checkpoints": sum(bool(line["unfinished"]) for line in kills),
        "in a checkpoint": sum(at == "checkpoint" for at in last),
        "in a preview": sum(at == "preview" for at in last),
        "in a line": sum(line["aim"]["at"] == "line" for line in kills),
        "before the loop": sum(at in ("nothing", "main", "joined") for at in last),
        "starts": len(kills) + len(stumbles) + len(runs),
        "others' seconds": max((line["others_ended_after"] for line in kills if "wrong_ends" in line), default="–"),
        "wrong ends": sum(len(line.get("wrong_ends", [])) for line in kills),
        "workers left": sum(line["orphans"] for line in lines if "orphans" in line),
        "unhurt": sum(line["kind"] == "unhurt" for line in lines),
        "stumbles": len(stumbles),
        "leftovers": sum(bool(line["leftovers"]) for line in runs),
        "differences": sum(len(line["differences"]) for line in runs),
    }


def write_report(lines: Sequence[dict], arguments: Sequence[str], path: Path) -> bool:
    """Writes the report; whether nothing was amiss.

    Args:
        lines: of the log.
        arguments: of the command.
        path: of the report.
    """
    names = dict.fromkeys(line["variant"] for line in lines)
    rows = [row(name, [line for line in lines if line["variant"] == name]) for name in names]
    sums = {key: sum(each[key] for each in rows) for key in COLUMNS if all(isinstance(each[key], int) for each in rows)}
    table = [f"| {' | '.join(COLUMNS)} |", "|---" * len(COLUMNS) + "|"]
    table += [f"| {' | '.join(str(each[key]) for key in COLUMNS)} |" for each in rows]
    table += [f"| {' | '.join(str({**sums, 'variant': 'all'}.get(key, '')) for key in COLUMNS)} |"]
    shown = [argument for argument in arguments if not argument.startswith(("--out", "--report"))]
    text = [HEAD.format(arguments=" ".join(shown)), *table, ""]
    text += [f"- {column}: {meaning}" for column, meaning in COLUMNS.items()]
    amiss = [line for line in lines if line.get("differences") or line.get("leftovers") or line.get("wrong_ends")]
    amiss += [line for line in lines if line["kind"] == "stumble" or line.get("orphans")]
    if amiss:
        text += ["", "## Amiss", ""]
    for line in amiss:
        kept = {key: value for key, value in line.items() if value and key not in ("kind", "variant", "run", "told")}
        text.append(f"- {line['variant']}, run {line['run']}: {line['kind']} {kept}")
    path.write_text("\n".join(text) + "\n")
    return not amiss
