"""Reports the memory, costs and min time of a compiled program, as a JSON-serialisable dict and as lines of text."""

import importlib.metadata
import re
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax

from imagen_jax.errors import UserError
from imagen_jax.forecast.collectives import KINDS, Collective, find_collectives
from imagen_jax.forecast.jobs import Job
from imagen_jax.forecast.programs import (
    Costs,
    Instruction,
    count_costs,
    count_runs,
    find_loops,
    read_instructions,
)
from imagen_jax.forecast.roofline import Roofline, estimate
from imagen_jax.forecast.topologies import Pod

HEAD_ROOM = 0.1
"""Share of a chip's memory that should stay free. The runtime needs some, and small config changes often need more."""

TOO_LARGE = re.compile(r"Used ([\d.]+)([KMGT]) of ([\d.]+)([KMGT]) hbm")
UNITS = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}

WORK = {
    "attention": r"attention|text_pool",
    "convolutions": r"conv_general_dilated|/conv",
    "normalisation": r"norm",
    "conditioning": r"conditioning|embedding",
    "feed-forward": r"feed_forward",
    "network, other": r"UNet|Encoder",
    "loss and optimizer": r"",
}
"""Kinds of work, each with a pattern for the names of operations; the first kind that matches counts."""

Report = dict[str, Any]


def compile_job(job: Job, pod: Pod) -> tuple[Report, str]:
    """Compiles a job for a pod.

    Returns:
        The report, and the text of the compiled program. The text is empty if the program does not fit into memory,
        because then the compiler yields no program.
    """
    began = time.monotonic()
    try:
        compiled = job.lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        used = read_shortage(str(error))
        if used is None:
            raise
        memory = {"total": used, "available": pod.chip.memory_bytes, "free_share": 1 - used / pod.chip.memory_bytes}
        return describe_job(job, pod) | {"memory": memory, "fits": False, "advice": give_advice(job, memory)}, ""
    seconds = time.monotonic() - began
    text = compiled.as_text() or ""
    return describe_job(job, pod) | describe_program(job, pod, compiled, text) | {"compile_seconds": seconds}, text


def read_shortage(message: str) -> int | None:
    """Returns the bytes that a program needs, from the compiler's out-of-memory message; None for other messages."""
    found = TOO_LARGE.search(message)
    return found and round(float(found[1]) * UNITS[found[2]])


def describe_job(job: Job, pod: Pod) -> Report:
    """Returns the facts about a job, its pod and the versions of the compiler."""
    return {
        "program": job.name,
        "pod": pod.name,
        "chips": len(pod.devices),
        "mesh": dict(job.mesh.shape),
        "batch": job.batch,
        "unit": job.unit,
        "jax": jax.__version__,
        "libtpu": importlib.metadata.version("libtpu"),
        "peaks": pod.chip._asdict(),
    }


def describe_program(job: Job, pod: Pod, compiled: jax.stages.Compiled, text: str) -> Report:
    """Returns the compiler's analysis of a program, and the min time that follows from it."""
    instructions = list(read_instructions(text))
    loops = find_loops(instructions)
    runs = count_runs(instructions, loops)
    collectives = find_collectives(instructions, runs)
    analysis: Mapping[str, float] = compiled.cost_analysis() or {}
    flops, accessed = count_costs(Costs(analysis["flops"], analysis["bytes accessed"]), text, loops, runs)
    roofline = estimate(pod, list(job.mesh.devices.flat), flops, accessed, collectives)
    memory = describe_memory(compiled, pod)
    model_flops = job.model_flops / len(pod.devices)
    cycles = count_cycles(instructions, runs)
    report = {
        "memory": memory,
        "fits": memory["free_share"] >= 0,
        "flops_per_chip": flops,
        "model_flops_per_chip": model_flops,
        "compiled_over_model_flops": flops / model_flops,
        f"model_flops_per_{job.unit}": job.model_flops / job.batch,
        "bytes_accessed_per_chip": accessed,
        "collectives": count_collectives(collectives),
        "bytes_moved_per_chip": sum(one.moved for one in collectives),
        "roofline_seconds": roofline._asdict() | {"bound": roofline.bound},
        f"{job.unit}s_per_second_per_chip": job.batch / len(pod.devices) / roofline.seconds,
        "mfu": predict_mfu(model_flops, roofline, pod),
        "loops": [loop.trips for loop in loops],
        "work": share_work(cycles),
        "cycles_per_chip": sum(cycles.values()),
    }
    return report | {"advice": give_advice(job, memory)}


def describe_memory(compiled: jax.stages.Compiled, pod: Pod) -> dict[str, int | float]:
    """Returns a chip's used memory by kind, the total and the available memory, in bytes, and the free share.

    Raises:
        UserError: the compiler does not report memory.
    """
    analysis = compiled.memory_analysis()
    if analysis is None:
        raise UserError("this compiler does not report the memory of its program: reinstall imagen-jax[tpu]")
    kinds = {
        "arguments": analysis.argument_size_in_bytes,
        "results": analysis.output_size_in_bytes - analysis.alias_size_in_bytes,
        "temporaries": analysis.temp_size_in_bytes,
        "program": analysis.generated_code_size_in_bytes,
    }
    total, available = sum(kinds.values()), pod.chip.memory_bytes
    return kinds | {"total": total, "available": available, "free_share": 1 - total / available}


def count_collectives(collectives: Sequence[Collective]) -> dict[str, dict[str, int | float]]:
    """Returns the number of collectives of each kind in a run, and the bytes that a chip sends for them."""
    counted: dict[str, dict[str, int | float]] = {kind: {"count": 0, "bytes_moved": 0.0} for kind in KINDS}
    for one in collectives:
        counted[one.kind]["count"] += one.times
        counted[one.kind]["bytes_moved"] += one.moved
    return counted


def predict_mfu(model_flops: float, roofline: Roofline, pod: Pod) -> float:
    """Returns the model FLOP utilisation in [0, 1], assuming that a step takes the roofline's time."""
    return model_flops / pod.chip.flops_per_second / roofline.seconds


def count_cycles(instructions: Iterable[Instruction], runs: Mapping[str, int]) -> Counter[str]:
    """Returns the compiler's estimate of a chip's cycles, by kind of work; empty if it gives none."""
    cycles: Counter[str] = Counter()
    for one in instructions:
        if found := re.search(r'"estimated_cycles":"(\d+)"', one.line):
            kind = next(kind for kind, pattern in WORK.items() if re.search(pattern, one.origin))
            cycles[kind] += int(found[1]) * runs[one.computation]
    return cycles


def share_work(cycles: Counter[str]) -> dict[str, float]:
    """Returns each kind's share of all cycles; empty if there are no cycles."""
    total = sum(cycles.values())
    return {kind: cycles[kind] / total for kind in WORK if total}


def give_advice(job: Job, memory: Mapping[str, int | float]) -> list[str]:
    """Returns suggestions for saving memory, most promising first; empty if ``HEAD_ROOM`` is free."""
    if memory["free_share"] >= HEAD_ROOM:
        return []
    advice = []
    state = job.state_bytes / job.mesh.shape["fsdp"]
    if state > memory["available"] / 4 and job.mesh.shape["data"] > 1:
        advice.append(
            f"raise --config.mesh.fsdp: the state takes {state / 2**30:.1f} GiB a chip, sharded over "
            f"{job.mesh.shape['fsdp']}"
        )
    if job.trains:
        advice += [
            "set --config.network.remat=elementwise or blocks: the gradient then recomputes features instead of "
            "storing them",
            "raise --config.training.gradient_accumulation: a step then processes the batch in that many parts",
        ]
    return [*advice, "use more chips, a smaller batch, or chips with more memory"]


def format_report(report: Report) -> Iterator[str]:
    """Yields the lines of a report."""
    mesh = ", ".join(f"{name}={size}" for name, size in report["mesh"].items() if size > 1) or "one device"
    work = f"{report['program']} of {report['batch']} {report['unit']}s"
    yield f"{work} on {report['pod']} ({report['chips']} chips: {mesh})"
    yield from format_memory(report["memory"], report["fits"])
    yield from (f"    {line}" for line in report["advice"])
    if "flops_per_chip" not in report:
        return
    yield (
        f"operations      {report['flops_per_chip'] / 1e12:.2f} TFLOP a chip, "
        f"{report['compiled_over_model_flops']:.3f} times the model's"
    )
    yield f"memory traffic  {report['bytes_accessed_per_chip'] / 1e9:.1f} GB a chip"
    yield f"interconnect    {report['bytes_moved_per_chip'] / 1e9:.2f} GB sent a chip"
    for kind, counted in report["collectives"].items():
        if counted["count"]:
            yield f"    {kind:<20}{counted['count']:>6}{counted['bytes_moved'] / 1e9:>10.3f} GB"
    times = report["roofline_seconds"]
    yield (
        f"at least        {1e3 * times['compute']:.1f} ms computing, {1e3 * times['memory']:.1f} ms of memory traffic, "
        f"{1e3 * times['interconnect']:.1f} ms of interconnect: bound by {times['bound']}"
    )
    unit = report["unit"]
    yield (
        f"at most         {report[f'{unit}s_per_second_per_chip']:.1f} {unit}s/s a chip, "
        f"{100 * report['mfu']:.1f}% of the peak (MFU)"
    )
    if report["work"]:
        shares = sorted(report["work"].items(), key=lambda item: -item[1])
        yield "the compiler's cycles: " + ", ".join(f"{kind} {100 * share:.0f}%" for kind, share in shares if share)
    if unknown := report["loops"].count(None):
        yield f"warning         {unknown} loops of unknown length are counted as one iteration each"
    yield f"compiled in     {report['compile_seconds']:.0f} s"


def format_memory(memory: Mapping[str, int | float], fits: bool) -> Iterator[str]:
    """Yields the line about memory."""
    kinds = ", ".join(
        f"{kind} {memory[kind] / 2**30:.1f}"
        for kind in ("arguments", "results", "temporaries", "program")
        if kind in memory
    )
    verdict = "fits" if memory["free_share"] >= HEAD_ROOM else "fits narrowly" if fits else "does not fit"
    if fits and memory.get("temporaries") == 0:
        verdict = "at least (the compiler reports no temporaries, so it is not known whether the program fits)"
    yield (
        f"memory          {memory['total'] / 2**30:.2f} of {memory['available'] / 2**30:.0f} GiB a chip: {verdict}, "
        f"{100 * memory['free_share']:.0f}% free" + (f" ({kinds} GiB)" if kinds else "")
    )
