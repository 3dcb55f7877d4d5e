"""The runs that are killed: their variants, their start, their records, and the ends of their processes."""

import contextlib
import itertools
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

CHECKOUT = Path(__file__).parents[2]
STEPS, SAVED, PREVIEWED = 40, 8, 15
HEARTBEAT_SECONDS = 15
SECONDS_TO_END = 90.0
"""How long the other processes may take to end after one was killed: the heartbeat, or 45 s where they never met."""

SECONDS_OF_WORKERS = 20.0
"""How long data workers may live after their parent."""

MESHES = {
    "8 devices: data 8": (8, {"data": 8}),
    "8 devices: data 2, fsdp 4": (8, {"data": 2, "fsdp": 4}),
    "4 devices: fsdp 4": (4, {"data": 1, "fsdp": 4}),
    "1 device": (1, {"data": 1}),
}
"""Number of devices and ``config.mesh``."""


@dataclass(frozen=True)
class Variant:
    """A way of training.

    Attributes:
        processes: how many train together.
        victims: what a kill may hit: the numbers of the processes; None: data workers and all.
        flags: of the command.
        meshes: names in MESHES, one of which each start has.
    """

    processes: int
    victims: tuple[tuple[int, ...] | None, ...]
    flags: tuple[str, ...] = ()
    meshes: tuple[str, ...] = ("1 device",)


VARIANTS = {
    "one": Variant(1, ((0,),)),
    "workers": Variant(1, ((0,), None), ("--config.data.num_workers=2",)),
    "two_processes": Variant(2, ((0,), (1,), (0, 1)), (f"--heartbeat_seconds={HEARTBEAT_SECONDS}",), ("1 device",)),
    "mesh": Variant(1, ((0,),), (), tuple(MESHES)),
}


@dataclass(frozen=True)
class RunPaths:
    """The paths of a run.

    Attributes:
        workdir: the run's own folder; its records and outputs lie beside it.
        data: the data set.
        cache: compiled programs, for all runs.
    """

    workdir: Path
    data: Path
    cache: Path

    def record(self, index: int) -> Path:
        """The file of events that process ``index`` recorded in all its starts."""
        return self.workdir.with_name(f"{self.workdir.name}.{index}.jsonl")

    def output(self, index: int) -> Path:
        """What process ``index`` has printed."""
        return self.workdir.with_name(f"{self.workdir.name}.{index}.txt")


class Start:
    """One start of a run.

    Args:
        place: of the run.
        variant: of it.
        mesh: a name in MESHES.
        steps: to train to.
        cut_line: the step whose line of metrics is cut, by a kill; 0: none.
    """

    def __init__(self, paths: RunPaths, variant: Variant, mesh: str, steps: int = STEPS, cut_line: int = 0) -> None:
        self.paths, self.variant = paths, variant
        self.began, self.began_unix = time.monotonic(), time.time()
        paths.workdir.parent.mkdir(parents=True, exist_ok=True)
        self._sizes_before = [size_of(paths.record(index)) for index in range(variant.processes)]
        port = find_free_port()
        self.hosts = [self._start(index, port, mesh, steps, cut_line) for index in range(variant.processes)]

    def _start(self, index: int, port: int, mesh: str, steps: int, cut_line: int) -> subprocess.Popen[bytes]:
        devices, axes = MESHES[mesh]
        command = [sys.executable, "-P", "-m", "tests.torture.recorded_train"]
        command += [f"--config={Path(__file__).with_name('tiny.py')}:{self.paths.data}"]
        command += [f"--workdir={self.paths.workdir}", *self.variant.flags]
        changes = {"steps": steps, "checkpoint_every": SAVED, "preview_every": PREVIEWED}
        command += [f"--config.training.{name}={value}" for name, value in changes.items()]
        if self.variant.processes > 1:
            command += [f"--coordinator=127.0.0.1:{port}", f"--process_count={self.variant.processes}"]
            command += [f"--process_index={index}"]
        else:
            command += [f"--config.mesh.{axis}={size}" for axis, size in axes.items()]
        environment = {
            **os.environ,
            "PYTHONPATH": str(CHECKOUT),
            "JAX_PLATFORMS": "cpu",
            "JAX_NUM_CPU_DEVICES": str(devices),
            "IMAGEN_JAX_AS_WRITTEN": "1",
            "IMAGEN_JAX_NO_CACHE": "1",
            "IMAGEN_JAX_CACHE": str(self.paths.cache),
            "JAX_COMPILATION_CACHE_DIR": str(self.paths.cache / "compiled"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "TORTURE_RECORD": str(self.paths.record(index)),
            "TORTURE_MESH": mesh,
            "TORTURE_PARENT": str(os.getpid()),
            "TORTURE_CUT_LINE": str(cut_line),
        }
        with self.paths.output(index).open("ab") as output:
            return subprocess.Popen(
                command, cwd=CHECKOUT, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                start_new_session=True,
            )  # fmt: skip

    @property
    def seconds(self) -> float:
        """Since the start."""
        return time.monotonic() - self.began

    def events(self, index: int = 0) -> list[dict]:
        """The events that a process recorded since this start."""
        return read_record(self.paths.record(index), self._sizes_before[index])

    def living(self) -> list[int]:
        """The numbers of the processes that have not ended."""
        return [index for index, host in enumerate(self.hosts) if host.poll() is None]

    def statuses(self) -> list[int | None]:
        """How the processes ended; None: not yet."""
        return [host.poll() for host in self.hosts]

    def wait(self, seconds: float) -> bool:
        """Waits until all have ended; whether they have."""
        return wait_until(lambda: not self.living(), seconds)

    def kill(self, victims: Sequence[int] | None) -> None:
        """Kills some of the processes, or all with their data workers."""
        for index in range(len(self.hosts)) if victims is None else victims:
            with contextlib.suppress(ProcessLookupError):
                if victims is None:
                    os.killpg(self.hosts[index].pid, signal.SIGKILL)
                else:
                    self.hosts[index].kill()

    def orphans(self) -> int:
        """How many data workers outlive their parents by ``SECONDS_OF_WORKERS``; they are killed."""
        groups = {host.pid for host in self.hosts}
        wait_until(lambda: not members(groups), SECONDS_OF_WORKERS)
        left = len(members(groups))
        self.kill(None)
        for host in self.hosts:
            host.wait()
        return left

    def unfinished(self) -> list[str]:
        """Checkpoints of which this start has left a part."""
        folder = self.paths.workdir / "checkpoints"
        found = []
        for path in folder.iterdir() if folder.is_dir() else ():
            half = "orbax-checkpoint-tmp" in path.name or (path.name.isdecimal() and not is_whole(path))
            if half and path.stat().st_mtime >= self.began_unix:
                found.append(path.name)
        return sorted(found)


def is_whole(checkpoint: Path) -> bool:
    """Whether a checkpoint has all its parts."""
    return all((checkpoint / part).exists() for part in ("_CHECKPOINT_METADATA", "state", "ema_params/_METADATA"))


def newest_checkpoint(paths: RunPaths) -> int:
    """Its step; 0: there is none."""
    folder = paths.workdir / "checkpoints"
    names = [path.name for path in folder.iterdir() if is_whole(path)] if folder.is_dir() else []
    return max((int(name) for name in names if name.isdecimal()), default=0)


def size_of(path: Path) -> int:
    """Bytes of a file that may not be there."""
    return path.stat().st_size if path.exists() else 0


def read_record(path: Path, offset: int = 0) -> list[dict]:
    """The lines of a record from a byte on, without those that a kill has cut."""
    if not path.exists():
        return []
    with path.open("rb") as file:
        file.seek(offset)
        lines = file.read().splitlines(keepends=True)
    return [json.loads(line) for line in lines if re.fullmatch(rb"\{.*\}\n", line)]


def members(groups: set[int]) -> list[int]:
    """The processes of some process groups that live."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            state, _, group, *_ = (process / "stat").read_text().rpartition(")")[2].split()
            if int(group) in groups and state not in "ZX":
                found.append(int(process.name))
    return found


def wait_until(condition: Callable[[], bool], seconds: float) -> bool:
    """Waits until a condition is met; whether it was."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    return True


def find_free_port() -> int:
    """A free port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def effective_batches(paths: RunPaths, processes: int) -> list[list]:
    """The examples of each step, as the last start that made it had them: keys and digests of all processes."""
    of_processes = []
    for index in range(processes):
        last = {line["step"]: line for line in read_record(paths.record(index)) if line["at"] == "batch"}
        of_processes.append({step: (line["keys"], line["digest"]) for step, line in last.items()})
    return [[events.get(step) for events in of_processes] for step in range(1, STEPS + 1)]


def effective_meshes(paths: RunPaths) -> Iterator[tuple[str, int]]:
    """The meshes whose steps are in the finished run, each with its last step."""
    loops = [line for line in read_record(paths.record(0)) if line["at"] == "loop"]
    # A later start may begin before an earlier one did, where a checkpoint is damaged.
    ends = [
        min((later["step"] for later in loops[after:]), default=STEPS + 1) - 1 for after in range(1, len(loops) + 1)
    ]
    parts = [(line["mesh"], end) for line, end in zip(loops, ends, strict=True) if end >= line["step"]]
    for mesh, group in itertools.groupby(parts, key=lambda part: part[0]):
        yield mesh, max(end for _, end in group)
