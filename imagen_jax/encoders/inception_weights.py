"""Loads Inception-v3 with the published weights as a feature network.

    --inception_weights=FILE, or the file in its usual folder -> tensors by name -> parameters -> FeatureNetwork

pytorch-fid and torch-fidelity publish the same file. It has the weights of TensorFlow's graph.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from imagen_jax.encoders.feature_network import FeatureNetwork, Features
from imagen_jax.encoders.inception import FEATURES, RESOLUTION, InceptionV3
from imagen_jax.encoders.resizing import RESIZES
from imagen_jax.errors import lookup
from imagen_jax.weights.known_files import KnownFile, find_known_file
from imagen_jax.weights.named_tensors import import_weights, parameter_shapes
from imagen_jax.weights.torch_file import read_torch_file

FLAG = "inception_weights"

WEIGHTS = KnownFile(
    what="Inception-v3",
    name="pt_inception-2015-12-05-6726825d.pth",
    url="https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/pt_inception-2015-12-05-6726825d.pth",
    sha256="6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
)

NAMES_IN_FILE = {
    "kernel": "conv.weight",
    "bn/scale": "bn.weight",
    "bn/bias": "bn.bias",
    "bn/mean": "bn.running_mean",
    "bn/variance": "bn.running_var",
}
"""Maps the parameters of a convolution to their names in the file."""


def load_inception(path: str = "", resize: str = "legacy_tensorflow") -> FeatureNetwork:
    """Loads the network whose features FID compares.

    Args:
        path: the weights file, local or in a bucket; "" for the published file in its usual folder, see
            ``weights.known_files``.
        resize: how images are resized to 299×299, a name in ``resizing.RESIZES``. Images that are not square are
            distorted. The default is the resizing of the original FID code, so that the distance is the published FID.

    Raises:
        UserError: the file is missing, damaged or of another network, or ``resize`` is unknown.
    """
    way = lookup(RESIZES, resize, "resizing")
    file = find_known_file(path, WEIGHTS, FLAG)
    network = InceptionV3()

    def extract(weights: Any, images: jax.Array) -> Features:
        # By default TPUs multiply in bfloat16 and GPUs in TF32: the distance would not be that of other programs.
        with jax.default_matmul_precision("highest"):
            return network.apply({"params": weights}, way.finish(images, RESOLUTION))  # type: ignore[return-value]

    return FeatureNetwork(
        name="inception",
        title="Inception-v3 of 2015-12-05",
        width=FEATURES,
        resize=resize,
        sha256=file.sha256,
        published=WEIGHTS.sha256,
        extract=extract,
        weights=convert(read_torch_file(file.path)),
        prepare=partial(way.prepare, size=RESOLUTION),
        distance="FID",
    )


def convert(tensors: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Maps the file's tensors to the network's parameters.

    Raises:
        UserError: a tensor is missing, left over or of the wrong shape. The message names it.
    """
    shapes = parameter_shapes(InceptionV3().init, jnp.zeros((1, RESOLUTION, RESOLUTION, 3)))
    return import_weights(
        "Inception-v3",
        tensors,
        shapes,
        {path: name_in_file(path) for path in shapes},
        # Unused are the batch counters of batch normalisation, and the bias that the scores omit.
        is_unused=lambda name: name.endswith("num_batches_tracked") or name == "fc.bias",
        advice=f"download {WEIGHTS.url}, or name another file with --{FLAG}",
    )


def name_in_file(path: str) -> str:
    """Returns the tensor name of a parameter: ``Mixed_5b/branch1x1/bn/mean`` -> ``…branch1x1.bn.running_mean``."""
    if path == "fc/kernel":
        return "fc.weight"
    layer, ours = next((path.removesuffix(f"/{ours}"), ours) for ours in NAMES_IN_FILE if path.endswith(f"/{ours}"))
    return f"{layer.replace('/', '.')}.{NAMES_IN_FILE[ours]}"
