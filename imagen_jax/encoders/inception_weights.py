"""Inception-v3 with the published weights, as a feature network.

    --inception_weights=FILE, or the file in its place -> tensors by name -> parameters -> FeatureNetwork

pytorch-fid and torch-fidelity publish one and the same file, which has the numbers of TensorFlow's graph.
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
"""What the file calls the parameters of a convolution."""


def load_inception(path: str = "", resize: str = "legacy_tensorflow") -> FeatureNetwork:
    """Loads the network whose features FID compares.

    Args:
        path: the file of weights, here or in a bucket; "" for the published one in its place, see
            ``weights.known_files``.
        resize: how pictures come to 299×299, a name in ``resizing.RESIZES``; what is not square is squeezed. By
            default as in the code FID was published with, so that the distance is the one of that name.

    Raises:
        UserError: the file is not there, is damaged or is of another network; there is no such way to resize.
    """
    way = lookup(RESIZES, resize, "way to resize")
    file = find_known_file(path, WEIGHTS, FLAG)
    network = InceptionV3()

    def extract(weights: Any, pictures: jax.Array) -> Features:
        # By default TPUs multiply in bfloat16 and GPUs in TF32: the distance would not be that of other programs.
        with jax.default_matmul_precision("highest"):
            return network.apply({"params": weights}, way.finish(pictures, RESOLUTION))  # type: ignore[return-value]

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
    """The network's parameters of the file's tensors.

    Raises:
        UserError: a tensor is missing, left over or of another shape; names it.
    """
    shapes = parameter_shapes(InceptionV3().init, jnp.zeros((1, RESOLUTION, RESOLUTION, 3)))
    return import_weights(
        "Inception-v3",
        tensors,
        shapes,
        {path: name_in_file(path) for path in shapes},
        # How many batches training took means come from, and the bias that no score has.
        is_unused=lambda name: name.endswith("num_batches_tracked") or name == "fc.bias",
        mend=f"fetch {WEIGHTS.url}, or name another file with --{FLAG}",
    )


def name_in_file(path: str) -> str:
    """The name of the tensor of a parameter: ``Mixed_5b/branch1x1/bn/mean`` is ``…branch1x1.bn.running_mean``."""
    if path == "fc/kernel":
        return "fc.weight"
    layer, ours = next((path.removesuffix(f"/{ours}"), ours) for ours in NAMES_IN_FILE if path.endswith(f"/{ours}"))
    return f"{layer.replace('/', '.')}.{NAMES_IN_FILE[ours]}"
