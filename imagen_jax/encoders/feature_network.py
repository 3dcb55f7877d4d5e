"""What a feature network is: pictures of 8 bits go in, features come out, and a report can say of which network.

    uint8 pictures -> prepare (host, one at a time) -> extract (devices, a batch) -> features, and class scores if any

Numbers of two networks, of two files of weights or of two ways to resize don't compare, so each has a ``key``.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import numpy as np
from jaxtyping import Array, Float, UInt8

Picture = UInt8[np.ndarray, "height width 3"]


class Features(NamedTuple):
    """What a network makes of a batch.

    Attributes:
        pooled: the features that pictures are compared by.
        logits: class scores before the softmax, where the network is a classifier that scores are made of.
    """

    pooled: Float[Array, "batch features"]
    logits: Float[Array, "batch classes"] | None = None


def prepare_nothing(picture: Picture) -> np.ndarray:
    """For networks that take pictures as they are."""
    return picture


@dataclass(frozen=True)
class FeatureNetwork:
    """A network, its weights and how pictures come to its size.

    Attributes:
        name: as ``--features`` names it, such as "inception".
        title: as a report names it, such as "Inception-v3 of 2015-12-05".
        width: number of features.
        resize: how pictures come to the network's size; a name that others know, such as "clean" or
            "legacy_tensorflow".
        sha256: of the file of weights; "" where there is none.
        published: the sha256 of the file that numbers of others are made with; "" where there is none.
        extract: from weights and a batch of prepared pictures to features; pure, to be compiled.
        weights: the first argument of ``extract``: an argument, so that compiling doesn't fold them into the program.
        prepare: on the host, of one picture.
        distance: what the Fréchet distance of these features is called: "FID" for Inception's alone, and "" where none
            is to be made of them.
    """

    name: str
    title: str
    width: int
    resize: str
    sha256: str
    extract: Callable[[Any, jax.Array], Features]
    weights: Any = None
    published: str = ""
    prepare: Callable[[Picture], np.ndarray] = prepare_nothing
    distance: str = "Fréchet distance"

    @property
    def key(self) -> dict[str, str | int]:
        """What numbers made with it depend on."""
        return {"network": self.title, "features": self.width, "resize": self.resize, "sha256": self.sha256}


@runtime_checkable
class TextImageNetwork(Protocol):
    """What embeds pictures and texts into one space, such as CLIP."""

    @property
    def name(self) -> str:
        """As a report names it."""
        ...

    @property
    def image(self) -> FeatureNetwork:
        """Of the pictures; ``pooled`` are the embeddings, of any length."""
        ...

    def encode_texts(self, captions: Sequence[str]) -> Float[np.ndarray, "texts features"]:
        """Embeds texts."""
        ...
