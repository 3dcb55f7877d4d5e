"""The result of a training: its workdir, and what is in it."""

from dataclasses import dataclass
from typing import Any

from imagen_jax.storage.paths import Path
from imagen_jax.training.monitoring.metrics import read_metrics


@dataclass(frozen=True)
class TrainingResult:
    """A training that has reached its last step.

    Attributes:
        workdir: folder of the run, for ``load_cascade``.
        step: number of its last step.
    """

    workdir: Path
    step: int

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """The lines of ``metrics.jsonl``: for every ``log_every``-th step its ``step``, ``loss`` and other numbers."""
        return read_metrics(self.workdir)

    @property
    def previews(self) -> list[Path]:
        """The image files of the previews, in the order of their steps."""
        return sorted((self.workdir / "previews").glob("*.png"))
