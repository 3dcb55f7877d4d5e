"""Computes all metrics of one feature network from the features of sampled and real images."""

from typing import Any, NamedTuple

from imagen_jax.encoders.feature_network import FeatureNetwork
from imagen_jax.encoders.feature_networks import FeatureSet
from imagen_jax.evaluation.metrics.frechet import Gaussian, describe_count, measure_frechet_distance
from imagen_jax.evaluation.metrics.inception_score import SPLITS, inception_score
from imagen_jax.evaluation.metrics.kernel_distance import kernel_distance
from imagen_jax.evaluation.metrics.precision_recall import NEIGHBOURS, precision_recall
from imagen_jax.evaluation.protocols.measured_references import MeasuredReference, moments_in_blocks


class Headline(NamedTuple):
    """A headline number of a report.

    Attributes:
        name: name of the metric.
        value: value of the metric.
        better: better direction of the metric, "lower" or "higher".
        uncertainty: standard deviation or standard error of the value; None if there is none.
        note: details, such as the feature network.
        chance: value that guessing reaches; None if there is none.
    """

    name: str
    value: float
    better: str
    uncertainty: float | None = None
    note: str = ""
    chance: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """Returns the fields that are neither None nor empty, by name."""
        return {name: value for name, value in self._asdict().items() if value not in (None, "")}


class PublishedStatistics(NamedTuple):
    """Feature statistics from a file, such as published ones.

    Attributes:
        name: name of the file.
        sha256: SHA-256 of the file, in hexadecimal digits.
        statistics: mean and covariance of the features.
    """

    name: str
    sha256: str
    statistics: Gaussian


class Measures(NamedTuple):
    """The metrics in one network's features.

    Attributes:
        numbers: full results of each metric, by its name.
        headline: headline numbers of the report.
        warnings: warnings about the numbers, for the reader of the report.
    """

    numbers: dict[str, Any]
    headline: list[Headline]
    warnings: list[str]


def measure_features(
    network: FeatureNetwork, ours: FeatureSet, theirs: MeasuredReference, published: PublishedStatistics | None = None
) -> Measures:
    """Measures sampled images against real ones: Fréchet and kernel distance, precision and recall, Inception Score.

    Metrics that need more images are left out. A warning reports this, except for the Inception Score. A network
    without a Fréchet distance (empty ``network.distance``) yields no metrics.

    Args:
        network: the feature network.
        ours: features of the sampled images.
        theirs: features and moments of the real images, from process 0.
        published: statistics from a file, in features of this network, for a second Fréchet distance.

    Raises:
        UserError: a feature is not finite, or the file's features have another width.
    """
    if not network.distance:
        return Measures({}, [], [])
    count, real = len(ours.pooled), len(theirs.features.pooled)
    note = f"{network.title}, resized as {network.resize}"
    warnings = [f"{network.name}: {sentence}" for sentence in describe_count(min(count, real), network.width)]
    min_count = min(count, real)
    if min_count < 2:
        return Measures({}, [], [f"{network.name}: {min_count} image(s) are too few for any metric: sample more"])
    assert theirs.moments is not None
    moments = moments_in_blocks(ours)
    frechet = measure_frechet_distance(moments, theirs.moments)
    kernel = kernel_distance(ours.pooled, theirs.features.pooled)
    numbers = {network.distance: frechet.as_dict(), "KID": kernel.as_dict()}
    of_network = "" if network.distance == "FID" else f" in {network.name} features"
    headline = [
        Headline(network.distance, frechet.distance, "lower", None, note),
        Headline(f"kernel distance{of_network}" if of_network else "KID", kernel.distance, "lower",
                 kernel.standard_deviation, note),
    ]  # fmt: skip
    if published is not None:
        against = measure_frechet_distance(moments, published.statistics)
        name = f"{network.distance} against {published.name}"
        numbers[name] = against.as_dict()
        headline.append(Headline(name, against.distance, "lower", None, f"{note}; the file's statistics unchanged"))
    if min_count > NEIGHBOURS:
        near = precision_recall(ours.pooled, theirs.features.pooled, reference_radii=theirs.radii)
        numbers["precision and recall"] = near.as_dict()
        headline += [
            Headline("precision", near.precision, "higher", None, note),
            Headline("recall", near.recall, "higher", None, note),
        ]
    else:
        warnings.append(f"{network.name}: precision and recall need more than {NEIGHBOURS} images, not {min_count}")
    if ours.logits is not None and count >= SPLITS:
        score = inception_score(ours.logits)
        numbers["Inception Score"] = score.as_dict()
        headline.append(Headline("Inception Score", score.score, "higher", score.standard_deviation, note))
    return Measures(numbers, headline, warnings)
