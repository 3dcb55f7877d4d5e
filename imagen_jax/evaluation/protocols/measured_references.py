"""What is measured of a reference once, for all evaluations and all points of a sweep.

    reference -> CACHE/NETWORK-KEY/00012.npz (features) -> statistics.npz (moments), radii.npz (neighbourhoods)

``statistics.npz`` has the names of the field, so other programs can be given it.
"""

import hashlib
import io
import json
from typing import NamedTuple

import numpy as np

from imagen_jax.encoders.feature_network import FeatureNetwork
from imagen_jax.encoders.feature_networks import FeatureSet
from imagen_jax.errors import UserError
from imagen_jax.evaluation.metrics.frechet import Moments, RunningMoments
from imagen_jax.evaluation.metrics.precision_recall import NEIGHBOURS, neighbourhood_radii
from imagen_jax.evaluation.metrics.reference_statistics import load_statistics, save_statistics
from imagen_jax.evaluation.protocols.feature_parts import extract_in_parts, write_arrays
from imagen_jax.evaluation.protocols.references import Reference
from imagen_jax.runtime import processes
from imagen_jax.storage.array_files import opened_arrays
from imagen_jax.storage.paths import Path

STATISTICS = "statistics.npz"
RADII = "radii.npz"
ROWS = 4096
"""Pictures whose moments are taken at a time."""


class MeasuredReference(NamedTuple):
    """Real pictures as one network sees them.

    Attributes:
        features: of all of them.
        moments: of the features; None of fewer than two pictures, and on processes other than the first.
        radii: squared distance of each to its k-th neighbour; None of too few pictures, and likewise.
    """

    features: FeatureSet
    moments: Moments | None
    radii: np.ndarray | None


def measure_reference(network: FeatureNetwork, reference: Reference, resolution: int, cache: Path) -> MeasuredReference:
    """Reads what the cache has and makes the rest; every process of the run calls it.

    Args:
        network: of the features.
        reference: the pictures.
        resolution: at which they are compared.
        cache: folder of all references; on a disk that all processes share.

    Raises:
        UserError: a picture can't be read, a feature is not finite, or the cache can't be written.
    """
    key = reference.key(resolution)
    digest = hashlib.sha256(json.dumps({**key, **network.key}, sort_keys=True).encode()).hexdigest()[:16]
    folder = cache / f"{network.name}-{digest}"
    features = extract_in_parts(
        network, folder, key, len(reference.captions), lambda number: reference.picture(number, resolution)
    )
    count = len(features.pooled)
    if not (processes.is_process_zero() and network.distance):
        return MeasuredReference(features, None, None)
    moments = kept_moments(folder / STATISTICS, features, {**network.key, **key}) if count > 1 else None
    radii = kept_radii(folder / RADII, features) if count > NEIGHBOURS else None
    return MeasuredReference(features, moments, radii)


def moments_in_blocks(features: FeatureSet) -> Moments:
    """The moments of all features, in float64, a block at a time."""
    moments = RunningMoments(features.pooled.shape[1])
    for first in range(0, len(features.pooled), ROWS):
        moments.add(features.pooled[first : first + ROWS])
    return moments.result()


def kept_moments(path: Path, features: FeatureSet, key: dict[str, str | int]) -> Moments:
    """The moments of features: those of the file, or else measured and written to it.

    Always as the file has them, since a sum of squares comes back from its mean with a rounding of its own.
    """
    if path.exists():
        try:
            return load_statistics(path, key)
        except UserError:
            # Cut by a full disk, or of an older version: the features are there, and it costs seconds.
            pass
    save_statistics(path, moments_in_blocks(features), key)
    return load_statistics(path, key)


def kept_radii(path: Path, features: FeatureSet) -> np.ndarray:
    """The radii of features: those of the file, or else measured and written to it."""
    if path.exists():
        try:
            with opened_arrays(io.BytesIO(path.read_bytes())) as arrays:
                if int(arrays["neighbours"]) == NEIGHBOURS and arrays["radii"].shape == (len(features.pooled),):
                    return arrays["radii"]
        except (KeyError, ValueError, TypeError):
            pass  # likewise
    radii = neighbourhood_radii(features.pooled)
    write_arrays(path, {"radii": radii, "neighbours": np.array(NEIGHBOURS)})
    return radii
