"""Computes features and statistics of a reference once, and caches them for all evaluations and sweeps.

    reference -> CACHE/NETWORK-KEY/00012.npz (features) -> statistics.npz (moments), radii.npz (neighbourhoods)

``statistics.npz`` uses the field's array names (``mu``, ``sigma``), so other programs can read it.
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
"""Number of images in a block when the moments are computed."""


class MeasuredReference(NamedTuple):
    """Features and statistics of the real images in one network.

    Moments and radii are None on processes other than 0, and for networks without a Fréchet distance.

    Attributes:
        features: features of all images.
        moments: moments of the features; None for fewer than two images.
        radii: squared distance of each image to its k-th neighbour, k = ``NEIGHBOURS``; None for k images or fewer.
    """

    features: FeatureSet
    moments: Moments | None
    radii: np.ndarray | None


def measure_reference(network: FeatureNetwork, reference: Reference, resolution: int, cache: Path) -> MeasuredReference:
    """Reads the cached features and statistics and computes the missing ones. Every process must call it.

    Args:
        network: the feature network.
        reference: the real images.
        resolution: height and width in pixels at which the images are compared.
        cache: folder of all references' features, on a disk that all processes share.

    Raises:
        UserError: an image can't be read, a feature is not finite, or the cache can't be written.
    """
    key = reference.key(resolution)
    digest = hashlib.sha256(json.dumps({**key, **network.key}, sort_keys=True).encode()).hexdigest()[:16]
    folder = cache / f"{network.name}-{digest}"
    features = extract_in_parts(
        network, folder, key, len(reference.captions), lambda number: reference.image(number, resolution)
    )
    count = len(features.pooled)
    if not (processes.is_process_zero() and network.distance):
        return MeasuredReference(features, None, None)
    moments = kept_moments(folder / STATISTICS, features, {**network.key, **key}) if count > 1 else None
    radii = kept_radii(folder / RADII, features) if count > NEIGHBOURS else None
    return MeasuredReference(features, moments, radii)


def moments_in_blocks(features: FeatureSet) -> Moments:
    """Computes the moments of all features in float64, block by block."""
    moments = RunningMoments(features.pooled.shape[1])
    for first in range(0, len(features.pooled), ROWS):
        moments.add(features.pooled[first : first + ROWS])
    return moments.result()


def kept_moments(path: Path, features: FeatureSet, key: dict[str, str | int]) -> Moments:
    """Returns the moments in a file; computes and writes them first if needed.

    The result always comes from the file. Its covariance is a rounded quotient, so the computed scatter would differ
    slightly from the one that later runs read.
    """
    if path.exists():
        try:
            return load_statistics(path, key)
        except UserError:
            # Truncated by a full disk, or from an older version. Computing the moments again takes only seconds.
            pass
    save_statistics(path, moments_in_blocks(features), key)
    return load_statistics(path, key)


def kept_radii(path: Path, features: FeatureSet) -> np.ndarray:
    """Returns the radii in a file; computes and writes them first if needed."""
    if path.exists():
        try:
            with opened_arrays(io.BytesIO(path.read_bytes())) as arrays:
                if int(arrays["neighbours"]) == NEIGHBOURS and arrays["radii"].shape == (len(features.pooled),):
                    return arrays["radii"]
        except (KeyError, ValueError, TypeError):
            pass  # Truncated or from an older version, so compute the radii again.
    radii = neighbourhood_radii(features.pooled)
    write_arrays(path, {"radii": radii, "neighbours": np.array(NEIGHBOURS)})
    return radii
