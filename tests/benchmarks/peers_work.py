"""What the contenders of ``tests.benchmarks.peers`` do, and how each tells what it took; needs no library.

work.json in the benchmark's folder -> a contender's process -> one line of JSON on its standard output
"""

import json
import os
import resource
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from tests.reference.deepfloyd_models import MIDDLE, SETTINGS

GROUPS = {
    "same_network": ("diffusers", ("deepfloyd_unet",)),
    "same_operations": ("imagen_pytorch", ("efficient_unet", "unet")),
}
"""The peer of each comparison, and those of ours."""

TASKS = ("train", "sample")

SKIPPED = 2
"""Steps before the steady state."""

README_UNET = {
    "dim": 64,
    "cond_dim": 512,
    "dim_mults": [1, 2, 4, 8],
    "num_resnet_blocks": 3,
    "layer_attns": [False, True, True, True],
    "layer_cross_attns": [False, True, True, True],
}
"""The first U-Net of imagen-pytorch's README, of twice its width; what is not named here has its default.

With every default there is attention over all places at 64 px too, whose weights alone are 4 GB for a batch of 8.
"""


@dataclass(frozen=True)
class Work:
    """What is done.

    Attributes:
        deepfloyd: the network of the first comparison, as diffusers' ``config.json`` has it.
        imagen_pytorch: the arguments of the peer's ``Unet`` in the second.
        resolution: of the images.
        batch_size: images of a training step.
        train_steps: of a run, with those that are skipped.
        pictures: drawn at once.
        sample_steps: denoising steps of a picture, each with guidance.
        draws: batches of pictures after the first.
        text_length: tokens of a caption in the second comparison.
        text_width: of their embeddings.
    """

    deepfloyd: Mapping[str, Any]
    imagen_pytorch: Mapping[str, Any]
    resolution: int = 64
    batch_size: int = 8
    train_steps: int = 7
    pictures: int = 4
    sample_steps: int = 10
    draws: int = 2
    text_length: int = 64
    text_width: int = 384

    @property
    def prompts(self) -> list[str]:
        """One for each picture."""
        return [f"red apple {number}" for number in range(self.pictures)]

    def shortened(self) -> "Work":
        """The same until the first step, or the first pictures, and no further."""
        return replace(self, train_steps=1, draws=0)


FULL = Work(MIDDLE, README_UNET)
TINY = Work(
    SETTINGS["stage_1"],
    README_UNET | {"dim": 8, "cond_dim": 16, "num_resnet_blocks": 1, "attn_heads": 2, "attn_dim_head": 8},
    resolution=16,
    train_steps=3,
    pictures=8,
    sample_steps=2,
    draws=1,
    text_length=8,
    text_width=16,
)
"""Of eight images at once, since in tests there are eight devices."""


def write_work(folder: Path, work: Work) -> None:
    """Writes it for the contenders."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "work.json").write_text(json.dumps(asdict(work), indent=2))


def read_work(folder: Path) -> Work:
    """Reads what ``write_work`` wrote."""
    return Work(**json.loads((folder / "work.json").read_text()))


def note(folder: Path, name: str, **found: Any) -> None:
    """Keeps facts of a contender, such as its operations an image, beside those of the others."""
    path = folder / "facts.json"
    facts = read_facts(folder)
    facts[name] = facts.get(name, {}) | found
    path.write_text(json.dumps(facts, indent=2))


def read_facts(folder: Path) -> dict[str, dict[str, Any]]:
    """Facts by contender."""
    path = folder / "facts.json"
    return json.loads(path.read_text()) if path.exists() else {}


def repeat(act: Callable[[], Any], times: int, began: float) -> dict[str, Any]:
    """Does something so many times.

    Args:
        act: returns when all is computed.
        times: at least 1.
        began: when the process was started, by ``time.time()``.

    Returns:
        ``first_seconds`` from then to the end of the first time, and ``seconds`` of each time.
    """
    seconds, first = [], 0.0
    for number in range(times):
        start = time.perf_counter()
        act()
        seconds.append(time.perf_counter() - start)
        if number == 0:
            first = time.time() - began
    return {"first_seconds": first, "seconds": seconds}


def steady(task: str, seconds: list[float]) -> float | None:
    """The median without the first times; None of a run that was shortened."""
    rest = seconds[SKIPPED if task == "train" else 1 :]
    return statistics.median(rest) if rest else None


def peak_bytes() -> int:
    """The most memory that this process had in use, of its own and of files."""
    status = Path("/proc/self/status")
    if status.exists():
        # Where there is one, and not ru_maxrss: that of a new process begins at its parent's.
        (line,) = [line for line in status.read_text().splitlines() if line.startswith("VmHWM:")]
        return 1024 * int(line.split()[1])
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def report(contender: str, task: str, images: int, took: Mapping[str, Any], **more: Any) -> str:
    """The line that a contender ends with."""
    results = {
        "contender": contender,
        "task": task,
        "images": images,
        "peak_bytes": peak_bytes(),
        "cores": os.cpu_count(),
        **took,
        **more,
    }
    return json.dumps(results)
