"""The diffusion prior of DALL·E 2: a transformer that denoises the CLIP embedding of an image (Ramesh et al. 2022).

    caption's tokens, z_t, time, noisy z_i, a learned query -> transformer -> state of the query -> z_i

A causal mask keeps each position from the later ones (section 2.2), so only the query, which is last, sees all. z_t and
z_i are the vectors of the caption and of the image. Karlo's prior is this network, with ``noise_conditioning`` of
"timestep"; ``weight_formats.karlo`` reads its weights.

Its blocks are those of ``transformer``; both branches and the last projection start at zero.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from imagen_jax.array_types import PerExample
from imagen_jax.diffusion.conditions import UNCONDITIONAL, Conditions, Vectors
from imagen_jax.errors import UserError, lookup
from imagen_jax.models.conditioning import log_snr_to_time
from imagen_jax.models.layers import dense, sinusoids
from imagen_jax.models.remat import recompute
from imagen_jax.models.transformer import ACTIVATIONS, TransformerBlock, earlier_places, normalise
from imagen_jax.sharding.axes import constrain, gather, with_logical_axes

States = Float[Array, "batch positions prior_width"]
Samples = Float[Array, "batch channels"]

POSITION_AXES = ("places", "channels")

# Flax's types do not say that initializers can be hashed, which the cache of ``with_logical_axes`` needs.
SMALL: Any = nn.initializers.normal(0.01)

NUMBERS: dict[str, Callable[[PerExample], PerExample]] = {
    "log_snr": lambda log_snr: 1000.0 * log_snr_to_time(log_snr),
    "timestep": lambda step: step,
}
"""The number of a noise level, up to 1000, of which the features are sinusoids; see ``stage.noise_conditioning``."""


class PriorTransformer(nn.Module):
    """The diffusion prior; its samples are vectors.

    The widths of z_i, of z_t and of the caption's tokens, and the number of tokens, follow from the inputs.

    Attributes:
        width: the width of the transformer.
        layers: the number of layers.
        heads: the number of attention heads; a divisor of ``width``.
        dropout: the rate of both branches of a layer.
        causal: whether a position attends only to itself and earlier ones.
        activation: of the perceptrons, a key of ``transformer.ACTIVATIONS``.
        learned_null: whether a learned vector, zero at first, takes the place of an absent z_t; if not, zeros do.
        noise_conditioning: what the network gets as noise level, see ``stage.noise_conditioning``. A stage sets it.
        remat: the activations that the gradient recomputes, see ``models.remat``.
        dtype: the compute dtype; parameters are float32.
    """

    width: int
    layers: int
    heads: int
    dropout: float = 0.0
    causal: bool = True
    activation: str = "gelu"
    learned_null: bool = True
    noise_conditioning: str = "log_snr"
    remat: str = "none"
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self,
        noisy: Samples,
        log_snr: PerExample,
        conditions: Conditions = UNCONDITIONAL,
        *,
        estimate: Samples | None = None,
        train: bool = False,
    ) -> Samples:
        """Returns the network's output, ``(batch, channels)``, float32: in the paper the estimate of z_i.

        Args:
            noisy: noisy z_i.
            log_snr: the noise level of each example, as ``noise_conditioning`` says.
            conditions: ``text``, whose padding no position attends to, and ``text_vector``, z_t. A part that is None
                has no position and no parameters.
            estimate: None; there is no self-conditioning.
            train: whether dropout is on, which needs a "dropout" key.

        Raises:
            UserError: the network is told something else, or a field has an unknown value.
        """
        self.check(conditions, estimate)
        count, channels = noisy.shape

        def project(inputs: jax.Array, name: str) -> jax.Array:
            return dense(self.width, dtype=self.dtype, name=name)(inputs.astype(self.dtype))

        number = lookup(NUMBERS, self.noise_conditioning, "network.noise_conditioning")(log_snr)
        time = nn.swish(project(sinusoids(number, self.width), "time_hidden"))
        parts = [project(time, "time_out")[:, None], project(noisy, "noisy_in")[:, None]]
        if conditions.text_vector is not None:
            parts.insert(0, project(self.fill_absent(conditions.text_vector), "text_vector_in")[:, None])
        mask = jnp.ones((count, len(parts) + 1), bool)
        if conditions.text is not None:
            parts.insert(0, project(conditions.text.embeddings, "text_in"))
            mask = jnp.concatenate([conditions.text.mask, mask], axis=1)
        query = self.param("query", nn.initializers.normal(0.02), (self.width,)).astype(self.dtype)
        x = jnp.concatenate([*parts, jnp.broadcast_to(query[None, None], (count, 1, self.width))], axis=1)

        start = with_logical_axes(SMALL, POSITION_AXES)
        positions: Any = self.param("positions", start, (x.shape[1], self.width))
        x = constrain(x + gather(positions, POSITION_AXES, self.dtype)[None], "batch", "places", "channels")
        seen = earlier_places(x, mask) if self.causal else mask
        make = recompute(TransformerBlock, self.remat, static=(3,))
        fields = (self.heads, self.layers, self.activation, self.dropout, True, self.remat == "attention", self.dtype)
        for index in range(self.layers):
            x = make(*fields, name=f"layer_{index}")(x, seen, train)
        last = normalise(x[:, -1:].astype(jnp.float32), "norm_out")[:, 0]
        return dense(channels, zero=True, dtype=jnp.float32, name="out")(last)

    def fill_absent(self, vector: Vectors) -> Float[Array, "batch vector"]:
        """Returns the vectors, with the null where there is none."""
        if not self.learned_null:
            return jnp.where(vector.present[:, None], vector.values, 0.0)
        null = self.param("text_vector_null", nn.initializers.zeros_init(), vector.values.shape[-1:])
        return jnp.where(vector.present[:, None], vector.values, null[None])

    def check(self, conditions: Conditions, estimate: Samples | None) -> None:
        """Checks the fields and what the network is told.

        Raises:
            UserError: the network is told something else, or a field has an unknown value.
        """
        lookup(ACTIVATIONS, self.activation, "network.activation")
        if self.layers < 1:
            raise UserError(f"a prior has layers={self.layers}: set --config.network.layers to 1 or more")
        if other := [name for name in conditions.given if name not in ("text", "text_vector")]:
            raise UserError(f"a prior can't be told {', '.join(other)}: it takes text and text_vector")
        if estimate is not None:
            raise UserError("a prior takes no estimate of its own: set --config.stage.self_conditioned=False")
