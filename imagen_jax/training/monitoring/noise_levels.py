"""The loss by noise level, for the log: where in the diffusion process a network learns.

    each step's LossByNoiseLevel -> sums since the last line -> loss_log_snr_-2_to_0, ... in metrics.jsonl

A single batch has too few examples of each noise level, so a line has the mean over all steps since the line before it.
Weighted by the number of examples, the means of a line average to the mean loss of these steps.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from imagen_jax.diffusion.loss import LOG_SNR_EDGES, LossByNoiseLevel
from imagen_jax.training.step import AUX

PREFIX = "loss_log_snr_"


def name_levels(edges: Sequence[float] = LOG_SNR_EDGES) -> list[str]:
    """Returns the name of each range of log-SNR in ``metrics.jsonl``, from noisy to clean."""
    pairs = zip(edges, edges[1:], strict=False)
    inner = [f"{PREFIX}{low:g}_to_{high:g}" for low, high in pairs]
    return [f"{PREFIX}below_{edges[0]:g}", *inner, f"{PREFIX}above_{edges[-1]:g}"]


class NoiseLevelSums:
    """Sums the losses of steps by noise level, until they are taken for a line of metrics."""

    def __init__(self) -> None:
        self._clear()

    def _clear(self) -> None:
        self._total, self._count = np.zeros((2, len(LOG_SNR_EDGES) + 1))

    def add(self, metrics: Mapping[str, Any]) -> None:
        """Adds the losses of a step, unless the step was skipped.

        Args:
            metrics: the step's metrics, on the device; without losses by noise level nothing is added.
        """
        if metrics.get(AUX) is None or isinstance(metrics[AUX], Mapping):
            return
        skipped, aux = jax.device_get((metrics["skipped"], metrics[AUX]))
        if not skipped:
            levels = LossByNoiseLevel(*aux)
            self._total += levels.total
            self._count += levels.examples

    def take(self) -> dict[str, float]:
        """Returns the mean loss of each noise level by its name in ``metrics.jsonl``, and starts again.

        Noise levels without examples are left out.
        """
        named = zip(name_levels(), self._total, self._count, strict=True)
        means = {name: float(total / count) for name, total, count in named if count}
        self._clear()
        return means
