"""A CLIP as what is trained: two towers and the scalars of its loss, with their parameters in one tree.

config -> towers -> Pair -> parameters {"image": …, "text": …, "logit_scale": t, "logit_bias": b (sigmoid only)}
images, captions -> Pair -> embeddings of any length (the losses make it 1)
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from imagen_jax.array_types import PerExample, RandomKey
from imagen_jax.clip.contrastive import (
    FIRST_SCALE,
    LOSSES,
    SIGMOID_FIRST_BIAS,
    SIGMOID_FIRST_SCALE,
    Embeddings,
    Groups,
    Temperature,
)
from imagen_jax.clip.description import LOGIT_BIAS, LOGIT_SCALE
from imagen_jax.clip.towers import IMAGE_TOWERS, TEXT_TOWERS, make_tower
from imagen_jax.errors import UserError, lookup
from imagen_jax.sharding.axes import axes_of, remove_logical_axes

Params = Any
Views = Float[Array, "batch height width channels"] | Float[Array, "batch image_features"]
Captions = Int[Array, "batch context"] | Float[Array, "batch text_features"]


class Pairs(NamedTuple):
    """A training batch of a CLIP.

    Attributes:
        images: images in [-1, 1], ``(batch, height, width, 3)``; or features of them, ``(batch, features)``.
        captions: token ids, ``(batch, context)``; or features of the captions, ``(batch, features)``.
        groups: a number for each pair; pairs with equal captions have equal numbers.
    """

    images: Views
    captions: Captions
    groups: Groups


@dataclass(frozen=True)
class Pair:
    """The two towers of a CLIP, without their parameters.

    Attributes:
        image: the image tower: normalised images, or features of them, to embeddings.
        text: the text tower: token ids of captions, or features of them, to embeddings.
        loss: a key of ``contrastive.LOSSES``.
    """

    image: nn.Module
    text: nn.Module
    loss: str = "softmax"

    def labelled_params(self, key: RandomKey) -> Params:
        """Returns random initial parameters; a kernel whose layer names its axes is a ``WithLogicalAxes``."""
        image_key, text_key = jax.random.split(key)
        of_softmax = self.loss == "softmax"
        params = {
            "image": self.image.init(image_key, example_input(self.image))["params"],
            "text": self.text.init(text_key, example_input(self.text))["params"],
            LOGIT_SCALE: jnp.asarray(math.log(FIRST_SCALE if of_softmax else SIGMOID_FIRST_SCALE), jnp.float32),
        }
        return params if of_softmax else params | {LOGIT_BIAS: jnp.asarray(SIGMOID_FIRST_BIAS, jnp.float32)}

    def initial_params(self, key: RandomKey) -> Params:
        """Returns random initial parameters."""
        return remove_logical_axes(self.labelled_params(key))

    def parameter_axes(self) -> Any:
        """Returns the logical axis names of each parameter (``sharding.axes``); None for a vector, which has none."""
        return axes_of(jax.eval_shape(self.labelled_params, jax.random.key(0)))

    def embed_images(
        self, params: Params, images: Views, key: RandomKey | None = None, log_snr: PerExample | None = None
    ) -> Float[Array, "batch embedding"]:
        """Returns the embeddings of images. With a key the tower trains, with dropout if it has any.

        A tower of noisy images also takes their ``log_snr``, ``(batch,)``; None for clean images.
        """
        more = {} if log_snr is None else {"log_snr": log_snr}
        return embed(self.image, params["image"], images, key, **more)

    def embed_captions(
        self, params: Params, captions: Captions, key: RandomKey | None = None
    ) -> Float[Array, "batch embedding"]:
        """Returns the embeddings of captions. With a key the tower trains, with dropout if it has any."""
        return embed(self.text, params["text"], captions, key)

    def embed(
        self,
        params: Params,
        images: Views,
        captions: Captions,
        key: RandomKey | None = None,
        log_snr: PerExample | None = None,
    ) -> Embeddings:
        """Returns the embeddings of images and captions. With a key the towers train."""
        image_key, text_key = (None, None) if key is None else jax.random.split(key)
        return Embeddings(
            self.embed_images(params, images, image_key, log_snr), self.embed_captions(params, captions, text_key)
        )


def embed(tower: nn.Module, params: Params, inputs: Any, key: RandomKey | None, **more: Any) -> Any:
    """Applies a tower."""
    rngs = None if key is None else {"dropout": key}
    return tower.apply({"params": params}, inputs, train=key is not None, rngs=rngs, **more)


def temperature_of(params: Params) -> Temperature:
    """Returns the scalars of the loss from the parameters of a ``Pair``."""
    return Temperature(params[LOGIT_SCALE], params.get(LOGIT_BIAS))


def limit_scale(params: Params, max_scale: float) -> Params:
    """Limits the factor of the cosines (Radford et al. 2021, section 2.5).

    It changes the parameter after an update. A limit inside the loss would have no gradient above it, so the parameter
    could not come back.
    """
    return params | {LOGIT_SCALE: jnp.minimum(params[LOGIT_SCALE], math.log(max_scale))}


def example_input(tower: nn.Module) -> jax.Array:
    """Returns an input of batch size 1 that a tower takes."""
    return jnp.asarray(tower.example_input())


def make_pair(image: Mapping[str, Any], text: Mapping[str, Any], embedding: int, loss: str = "softmax") -> Pair:
    """Builds a pair from descriptions of its towers, see ``towers.make_tower``.

    Args:
        image: the image tower: ``name`` and the fields of its module, without ``embedding``.
        text: the text tower.
        embedding: number of channels of the embeddings of both.
        loss: a key of ``contrastive.LOSSES``.

    Raises:
        UserError: a name or a field is unknown, a field is missing, or ``embedding`` is not positive.
    """
    lookup(LOSSES, loss, "clip.loss")
    if embedding < 1:
        raise UserError(f"config.clip.embedding={embedding}: set it to 1 or more")
    shared = {"embedding": embedding}
    return Pair(make_tower(IMAGE_TOWERS, {**image, **shared}), make_tower(TEXT_TOWERS, {**text, **shared}), loss)
