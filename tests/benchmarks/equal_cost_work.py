"""What both sides of ``tests.benchmarks.equal_cost`` share; needs neither jax nor torch."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np

RESOLUTION = 32
BATCH = 64
SAMPLING_STEPS = 16
SAVE_SECONDS = 240.0
"""Of the processor, between two checkpoints."""


def write_json(path: Path, value: Any) -> None:
    """Writes a file as a whole or not at all."""
    unfinished = path.with_suffix(".unfinished")
    unfinished.write_text(json.dumps(value, indent=2) + "\n")
    os.replace(unfinished, path)


def read_data(folder: Path) -> dict[str, np.ndarray]:
    """Images, texts and masks of each split, and which of them are drawn."""
    with np.load(folder / "data.npz") as file:
        return dict(file)


def read_peer(folder: Path) -> dict[str, Any]:
    """How large the peer is."""
    return json.loads((folder / "peer.json").read_text())


def write_peer(folder: Path, found: dict[str, Any]) -> None:
    """Keeps how large the peer is."""
    write_json(folder / "peer.json", found)


class Progress:
    """Steps and seconds of the processor, over all calls; those since the last ``keep`` are lost with their steps.

    Args:
        path: of the file that they are kept in.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        kept = json.loads(path.read_text()) if path.exists() else {"steps": 0, "seconds": 0.0}
        self.steps: int = kept["steps"]
        self._before: float = kept["seconds"]
        self.seconds = self._before
        self._losses: list[float] = []

    def add(self, process_seconds: float, loss: float) -> None:
        """Counts a step, after which this process has worked so long."""
        self.steps += 1
        self.seconds = self._before + process_seconds
        self._losses.append(loss)

    def keep(self) -> None:
        """Keeps them."""
        write_json(self._path, {"steps": self.steps, "seconds": self.seconds})

    def describe(self) -> str:
        """In words, for a log."""
        return f"{self.steps} steps, {self.seconds / 60:.1f} minutes, loss {np.mean(self._losses[-50:]):.4f}"
