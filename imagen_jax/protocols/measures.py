"""All measures of one feature network: from features of drawn and of real pictures to numbers, and what to say of them."""

from typing import Any, NamedTuple

from imagen_jax.evaluation.feature_network import FeatureNetwork
from imagen_jax.evaluation.features import FeatureSet


class Headline(NamedTuple):
    """A number that a report begins with.

    Attributes:
        name: of the measure.
        value: the number.
        better: "lower" or "higher".
        uncertainty: a standard deviation or error, where there is one.
        note: in which features, and the like.
    """

    name: str
    value: float
    better: str
    uncertainty: float | None = None
    note: str = ""

    def as_dict(self) -> dict[str, Any]:
        """The fields that are there, by name."""
        return {name: value for name, value in self._asdict().items() if value not in (None, "")}
