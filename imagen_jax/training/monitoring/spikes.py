"""Loss spikes: a loss far above those just before it.

    loss of each step -> the last n losses -> their median and spread -> is this loss far above them?

Both are robust: the spread is the median absolute deviation, scaled to equal the standard deviation of a normal
distribution. So one spike changes neither, and the next spike is found as well. A loss that stays high counts as normal
after half a window.
"""

from collections import deque
from statistics import median
from typing import NamedTuple

WINDOW = 200
"""Number of previous losses that a loss is compared with."""

MIN_LOSSES = 50
"""Min number of previous losses before a loss can be a spike."""

MAX_DEVIATIONS = 10.0
"""Max standard deviations above the median. The loss has a long tail: with 5, normal runs would report spikes."""

MIN_SPREAD = 0.01
"""Min spread, as a fraction of the median, so that a small change of a nearly constant loss is not a spike."""

TO_STANDARD_DEVIATION = 1.4826
"""Ratio of a normal distribution's standard deviation to its median absolute deviation."""


class Spike(NamedTuple):
    """A loss far above those before it.

    Attributes:
        median: median of the losses before it.
        distance: distance above the median, in standard deviations.
    """

    median: float
    distance: float


class SpikeFinder:
    """Finds spikes in the losses of consecutive steps."""

    def __init__(self) -> None:
        self._losses: deque[float] = deque(maxlen=WINDOW)

    def find(self, loss: float) -> Spike | None:
        """Compares a finite loss with those before it; returns None unless it is far above them."""
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
        """Removes all previous losses, as after a rewind to other parameters."""
        self._losses.clear()
