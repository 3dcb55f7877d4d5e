"""The interface of a feature network: uint8 images in, features out, and a description for reports.

    uint8 images -> prepare (host, one at a time) -> extract (devices, a batch) -> features, and class scores if any

Numbers are comparable only for the same network, the same weights and the same resizing. Each network has a ``key``
that contains all three.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import numpy as np
from jaxtyping import Array, Float

from imagen_jax.array_types import HostPixels


class Features(NamedTuple):
    """The outputs of a network for a batch.

    Attributes:
        pooled: the features by which images are compared, ``(batch, features)``.
        logits: class scores before the softmax, ``(batch, classes)``; None if the network has none.
    """

    pooled: Float[Array, "batch features"]
    logits: Float[Array, "batch classes"] | None = None


def prepare_nothing(image: HostPixels) -> np.ndarray:
    """Returns the image unchanged, for networks that need no preparation."""
    return image


@dataclass(frozen=True)
class FeatureNetwork:
    """A network, its weights, and its way to resize images.

    Attributes:
        name: the value of ``--features`` that selects it, such as "inception".
        title: the name in reports, such as "Inception-v3 of 2015-12-05".
        width: the number of features.
        resize: how images are resized to the network's size, by a common name such as "clean" or "legacy_tensorflow".
        sha256: the checksum of the weights file; "" if there is none.
        published: the checksum of the weights file behind published numbers; "" if there is none.
        extract: maps the weights and a batch of prepared images to features. Pure, so that it can be compiled.
        weights: the first argument of ``extract``. As an argument, they are not compiled into the program as constants.
        prepare: prepares one image, on the host.
        distance: the name of the Fréchet distance between these features: "FID" for Inception's features only; "" if it
            must not be computed.
    """

    name: str
    title: str
    width: int
    resize: str
    sha256: str
    extract: Callable[[Any, jax.Array], Features]
    weights: Any = None
    published: str = ""
    prepare: Callable[[HostPixels], np.ndarray] = prepare_nothing
    distance: str = "Fréchet distance"

    @property
    def key(self) -> dict[str, str | int]:
        """The properties that the numbers computed with this network depend on."""
        return {"network": self.title, "features": self.width, "resize": self.resize, "sha256": self.sha256}


@runtime_checkable
class TextImageNetwork(Protocol):
    """A network that embeds images and texts into one space, such as CLIP."""

    @property
    def name(self) -> str:
        """The name in reports."""
        ...

    @property
    def image(self) -> FeatureNetwork:
        """The network for images. Its ``pooled`` features are the embeddings, which need not have unit length."""
        ...

    def encode_texts(self, captions: Sequence[str]) -> Float[np.ndarray, "texts features"]:
        """Returns one embedding per text."""
        ...
