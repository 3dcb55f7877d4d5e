"""Kills trainings at random moments, starts them again until they are done, and compares them with uninterrupted ones.

    python -m tests.torture.kill --kills=200 --seed=0 [--variant=one,mesh] [--out=runs/torture] [--report=FILE]

``VARIANTS`` in ``runs.py`` says what is trained, ``SHARES`` in ``aims.py`` where the kills aim. A run is started with
the same command again and again until it is done; then its parameters, averages, optimizer state, random key, position
in the data, the examples of each step, metrics and previews must be those of the uninterrupted run, bit for bit. Other
runs follow until all kills are spent.

The variant ``mesh`` has another mesh at each start. Sums are made in another order there, so it is compared with a run
that is never killed and changes its mesh at the same steps.

Each kill is a line of ``OUT/log.jsonl``. After an interruption, the same command continues. The report is made of the
log.
"""

import argparse
import json
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")

from imagen_jax.data.preparation.conversion import Conversion
from imagen_jax.data.preparation.preparation import Preparation, prepare
from imagen_jax.data.sources.synthetic import synthetic_parts
from imagen_jax.runtime.exit_status import ExitStatus
from tests.torture.aims import MAX_SECONDS, Durations, choose_aim, generator_of, line_to_cut, measure, strike
from tests.torture.comparison import differences, leftovers
from tests.torture.report import write_report
from tests.torture.runs import (
    SECONDS_TO_END,
    VARIANTS,
    RunPaths,
    Start,
    effective_meshes,
    newest_checkpoint,
)

FEW = 4
"""Kills for which it does not pay to measure how long things take once all is compiled."""

MAX_STUMBLES = 3
"""Max number of consecutive starts that fail without having been killed."""


class Torture:
    """All runs of one variant.

    Args:
        name: a name in VARIANTS.
        out: folder of all variants.
        seed: of the kills.
    """

    def __init__(self, name: str, out: Path, seed: int) -> None:
        self.name, self.variant, self.out, self.seed = name, VARIANTS[name], out, seed
        self.lines = [line for line in read_log(out) if line["variant"] == name]

    def log(self, kind: str, **facts: object) -> None:
        """Adds a line, for good."""
        line = {"kind": kind, "variant": self.name, "run": self.run, **facts}
        self.lines.append(line)
        with (self.out / "log.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")
        print(json.dumps(line), flush=True)

    def of_kind(self, kind: str) -> list[dict]:
        """The lines of a kind."""
        return [line for line in self.lines if line["kind"] == kind]

    @property
    def run(self) -> int:
        """Number of the present run, from 1."""
        return len(self.of_kind("run")) + 1

    @property
    def kills(self) -> int:
        """How many there were."""
        return len(self.of_kind("kill"))

    def paths(self, name: str) -> RunPaths:
        """The paths of a run."""
        return RunPaths(self.out / self.name / name, self.out / "data", self.out / "cache")

    def torture(self, kills: int) -> None:
        """Spends kills, and lets the run that is then at work end."""
        durations = self.measure_whole(warm=kills > FEW)
        while self.kills < kills or (self.lines[-1]["kind"] in ("kill", "stumble")):
            unhurt = [line["after"] for line in self.of_kind("unhurt")]
            ended = self.start_once(durations._replace(whole=min([durations.whole, *unhurt])), self.kills < kills)
            self.check_stumbles()
            if ended:
                self.compare()

    def measure_whole(self, warm: bool) -> Durations:
        """Trains without a kill, unless that was done; if asked, when all is compiled already, as for later starts."""
        if earlier := self.of_kind("whole"):
            return Durations(**earlier[0]["seconds"])
        paths = self.paths("whole")
        clear(paths)
        if warm:
            self.compile()
        durations = measure(Start(paths, self.variant, self.variant.meshes[0]))
        self.log("whole", seconds=durations._asdict())
        return durations

    def compile(self) -> None:
        """Trains a few steps on each mesh, which fills the cache.

        Raises:
            RuntimeError: that failed.
        """
        for number, mesh in enumerate(self.variant.meshes):
            paths = self.paths(f"compiled_{number}")
            clear(paths)
            start = Start(paths, self.variant, mesh, steps=2)
            if not start.wait(MAX_SECONDS) or any(start.statuses()):
                raise RuntimeError(f"the run that fills the cache failed: {paths.output(0).read_text()}")
            clear(paths)

    def start_once(self, durations: Durations, with_kill: bool) -> bool:
        """Starts the run, and kills it if it lives long enough; whether it is done."""
        paths, number = self.paths(f"run_{self.run}"), len(self.lines)
        is_first = self.lines[-1]["kind"] in ("whole", "run", "unhurt")
        if is_first:
            clear(paths)
        from_step = newest_checkpoint(paths)
        mesh = self.choose_mesh(number)
        aim = choose_aim(self.seed, self.name, self.variant, number)
        cut_line = line_to_cut(aim, from_step) if with_kill else 0
        start = Start(paths, self.variant, mesh, cut_line=cut_line)
        facts: dict[str, object] = {"mesh": mesh, "from": from_step}
        if with_kill and strike(start, aim, durations):
            facts |= {
                "aim": aim._asdict(),
                "after": round(start.seconds, 2),
                "told": [{key: event[key] for key in ("at", "step") if key in event} for event in start.events()[-1:]],
            }
            facts |= self.watch_end(start)
            self.log("kill", **facts, unfinished=start.unfinished(), newest=newest_checkpoint(paths))
            return False
        if not start.wait(MAX_SECONDS):
            start.kill(None)
        facts["orphans"] = start.orphans()
        if any(start.statuses()):
            tails = [paths.output(index).read_text()[-2000:] for index in range(self.variant.processes)]
            self.log("stumble", **facts, statuses=start.statuses(), after=round(start.seconds, 2), told=tails)
            return False
        if is_first:
            # The machine was less busy than it had been; the next kill comes sooner.
            self.log("unhurt", mesh=mesh, after=round(start.seconds, 2))
        return not is_first

    def choose_mesh(self, number: int) -> str:
        """The mesh of the next start: another than before."""
        before = self.lines[-1].get("mesh")
        others = [mesh for mesh in self.variant.meshes if mesh != before] or list(self.variant.meshes)
        return others[generator_of(self.seed, self.name, "mesh", number).integers(len(others))]

    def watch_end(self, start: Start) -> dict[str, object]:
        """After a kill: how long the others took to end by themselves, how all ended, and the workers they left."""
        killed_at = start.seconds
        survivors = start.living()
        ended = start.wait(SECONDS_TO_END)
        seconds = round(start.seconds - killed_at, 2)
        statuses = start.statuses()
        fine = (ExitStatus.PEER_LOST, -9)
        wrong = [statuses[index] for index in survivors if statuses[index] not in fine] if ended else ["hung"]
        return {
            "statuses": statuses,
            **({"others_ended_after": seconds, "wrong_ends": wrong} if survivors and len(start.hosts) > 1 else {}),
            "orphans": start.orphans(),
        }

    def check_stumbles(self) -> None:
        """Ends if a run can't continue.

        Raises:
            RuntimeError: it can't.
        """
        last = self.lines[-MAX_STUMBLES:]
        if len(last) == MAX_STUMBLES and all(line["kind"] == "stumble" for line in last):
            raise RuntimeError(f"run {self.run} of {self.name} does not continue: {last[-1]['told'][0]}")

    def compare(self) -> None:
        """Compares a run that is done, and removes it where nothing differs."""
        paths, whole = self.paths(f"run_{self.run}"), self.paths("whole")
        meshes = list(effective_meshes(paths))
        if len(self.variant.meshes) > 1:
            whole = self.paths(f"whole_{self.run}")
            clear(whole)
            for mesh, until in meshes:
                start = Start(whole, self.variant, mesh, steps=until)
                if not start.wait(MAX_SECONDS) or any(start.statuses()):
                    raise RuntimeError(f"a run without kills failed: {whole.output(0).read_text()}")
        found, left = differences(whole, paths, self.variant.processes), leftovers(whole, paths)
        self.log("run", meshes=meshes, differences=found, leftovers=left)
        if not found and not left:
            clear(paths)
            if whole != self.paths("whole"):
                clear(whole)


def clear(paths: RunPaths) -> None:
    """Removes a run, and what lies beside it."""
    shutil.rmtree(paths.workdir, ignore_errors=True)
    for file in paths.workdir.parent.glob(f"{paths.workdir.name}.*"):
        file.unlink()


def read_log(out: Path) -> list[dict]:
    """The lines of the log; one that was cut is left out."""
    file = out / "log.jsonl"
    lines = file.read_text().splitlines(keepends=True) if file.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def make_data(folder: Path) -> None:
    """Prepares a small data set, once."""
    if not folder.exists():
        half = folder.with_name("half")
        shutil.rmtree(half, ignore_errors=True)
        parts = synthetic_parts(count=60, resolution=16)
        prepare(Preparation("synthetic", {}, "Ours", parts, Conversion(), duplicates="keys"), half, 0)
        half.rename(folder)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, required=True, help="of all variants together")
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--variant", default=",".join(VARIANTS), help=f"of {', '.join(VARIANTS)}")
    parser.add_argument(
        "--out", type=Path, default=Path("runs/torture"), help="output folder; the same folder continues"
    )
    parser.add_argument("--report", type=Path, help="default: OUT/kill.md")
    options = parser.parse_args(arguments)
    options.variant = options.variant.split(",")
    if unknown := set(options.variant) - VARIANTS.keys():
        parser.error(f"there is no variant {', '.join(unknown)}")
    return options


def main(arguments: Sequence[str]) -> int:
    """Runs the command; the exit status is 1 where something differs or left workers behind."""
    options = parse(arguments)
    out = options.out.absolute()
    out.mkdir(parents=True, exist_ok=True)
    make_data(out / "data")
    shares = [options.kills * (number + 1) // len(options.variant) for number in range(len(options.variant))]
    try:
        for before, until, name in zip([0, *shares], shares, options.variant, strict=False):
            Torture(name, out, options.seed).torture(until - before)
    finally:
        fine = write_report(read_log(out), arguments, options.report or out / "kill.md")
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
