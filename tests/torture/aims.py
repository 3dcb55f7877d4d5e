"""The time and the victims of a kill. They depend on the seed and the start's number, so that a run can be resumed."""

import time
import zlib
from typing import NamedTuple

import numpy as np

from tests.torture.runs import SAVED, STEPS, Start, Variant, wait_until

SHARES = {"anywhere": 0.45, "beginning": 0.1, "checkpoint": 0.25, "preview": 0.1, "line": 0.1}
"""What kills aim at, and how many of them.

anywhere: uniform over the seconds of a whole run.
beginning: between the imports and the first step: settings, data, leftovers, restoring.
checkpoint: from the beginning of a checkpoint to a little after it is whole.
preview: while it is sampled and written.
line: half of a line of metrics is written.
"""

MAX_SECONDS = 900.0
"""Max seconds that any wait takes."""


class Aim(NamedTuple):
    """One kill.

    Attributes:
        at: a name in SHARES.
        fraction: how far into that, from 0 to 1.
        skipped: how many checkpoints or previews this start may do before.
        victims: see ``Variant``.
    """

    at: str
    fraction: float
    skipped: int
    victims: tuple[int, ...] | None


class Durations(NamedTuple):
    """Seconds that things take in the uninterrupted run."""

    whole: float
    beginning: float
    checkpoint: float
    preview: float


def generator_of(seed: int, *numbers: int | str) -> np.random.Generator:
    """A generator for one decision."""
    return np.random.default_rng([seed, *(zlib.crc32(str(number).encode()) for number in numbers)])


def choose_aim(seed: int, name: str, variant: Variant, number: int) -> Aim:
    """The aim of the kill of a variant's start of a number."""
    generator = generator_of(seed, name, number)
    at = str(generator.choice(list(SHARES), p=list(SHARES.values())))
    victims = variant.victims[generator.integers(len(variant.victims))]
    return Aim(at, float(generator.random()), int(generator.integers(2)), (0,) if at == "line" else victims)


def line_to_cut(aim: Aim, newest: int) -> int:
    """The step whose line of metrics a kill cuts; 0: none."""
    return newest + 1 + int(aim.fraction * (min(2 * SAVED, STEPS - newest) - 1)) if aim.at == "line" else 0


def strike(start: Start, aim: Aim, durations: Durations) -> bool:
    """Waits for the moment and kills; whether there was still something to kill."""

    def ended() -> bool:
        return len(start.living()) < len(start.hosts)

    def has_recorded(at: str, times: int = 1) -> bool:
        return sum(line["at"] == at for line in start.events()) >= times

    if aim.at == "line":
        wait_until(ended, MAX_SECONDS)
        return start.hosts[0].poll() == -9
    waiting = {
        "anywhere": (lambda: True, durations.whole),
        "beginning": (lambda: has_recorded("main"), durations.beginning),
        "checkpoint": (lambda: has_recorded("checkpoint", aim.skipped + 1), 1.2 * durations.checkpoint),
        "preview": (lambda: has_recorded("preview", aim.skipped + 1), durations.preview),
    }
    seen, length = waiting[aim.at]
    if not wait_until(lambda: seen() or ended(), MAX_SECONDS):
        raise TimeoutError(f"nothing happens in {start.paths.workdir}")
    until = (start.began if aim.at == "anywhere" else time.monotonic()) + aim.fraction * length
    wait_until(lambda: time.monotonic() >= until or ended(), MAX_SECONDS)
    if ended():
        return False
    start.kill(aim.victims)
    return True


def measure(start: Start) -> Durations:
    """Waits for an uninterrupted run, and says what takes how long.

    Raises:
        RuntimeError: it failed.
    """
    folder = start.paths.workdir / "checkpoints"
    whole: dict[str, float] = {}
    while start.living():
        for path in folder.iterdir() if folder.is_dir() else ():
            if path.name.isdecimal():
                whole.setdefault(path.name, time.time())
        time.sleep(0.02)
    if any(start.statuses()):
        raise RuntimeError(f"the uninterrupted run ended with {start.statuses()}: {start.paths.output(0).read_text()}")
    events = start.events()
    when = {(line["at"], line.get("step", 0)): line["when"] for line in events}
    checkpoints = [seen - when["checkpoint", int(name)] for name, seen in whole.items()]
    previews = [time - when["preview", step] for (at, step), time in when.items() if at == "preview ended"]
    first = min(time for (at, _), time in when.items() if at == "batch")
    return Durations(start.seconds, first - when["main", 0], float(np.median(checkpoints)), float(np.median(previews)))
