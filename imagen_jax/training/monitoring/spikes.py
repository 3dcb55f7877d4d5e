"""Loss spikes: a loss far above those just before it.

    loss of each step -> the last so many -> their median and spread -> is this one far above?

Both are robust: the median, and the median distance from it, scaled so that it is the standard deviation of a normal
distribution. So one spike moves neither, and the next is found as well; a loss that stays high is usual after half a
window.
"""

from collections import deque
from statistics import median
from typing import NamedTuple

WINDOW = 200
"""Losses that one is compared with."""

MIN_LOSSES = 50
"""Losses before which none is far above."""

MAX_DEVIATIONS = 10.0
"""Standard deviations above the median. A batch's loss has a long tail: at five, quiet runs would be reported."""

MIN_SPREAD = 0.01
"""The spread is at least this share of the median: so a loss that hardly moves is no spike at its next flicker."""

TO_STANDARD_DEVIATION = 1.4826
"""Of a normal distribution, over its median absolute deviation."""


class Spike(NamedTuple):
    """A loss far above those before it.

    Attributes:
        median: of those.
        distance: how far above, in standard deviations.
    """

    median: float
    distance: float


class SpikeFinder:
    """Looks at the loss of each step in turn."""

    def __init__(self) -> None:
        self._losses: deque[float] = deque(maxlen=WINDOW)

    def find(self, loss: float) -> Spike | None:
        """Compares a loss, which must be finite, with those before it; None where it is not far above them."""
        before = list(self._losses)
        self._losses.append(loss)
        if len(before) < MIN_LOSSES:
            return None
        middle = median(before)
        deviation = TO_STANDARD_DEVIATION * median(abs(one - middle) for one in before)
        spread = max(deviation, MIN_SPREAD * abs(middle), 1e-30)
        distance = (loss - middle) / spread
        return Spike(middle, distance) if distance > MAX_DEVIATIONS else None

    def forget(self) -> None:
        """Begins anew, as after going back to other parameters."""
        self._losses.clear()
