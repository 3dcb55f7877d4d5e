"""The text transformer of GLIDE, which trains along with the network that it is a part of (Nichol et al. 2021, 4.1).

    token ids -> + positions; a learned vector at each padding position -> bidirectional transformer -> norm -> states

Attention sees padding too. So no mask hides it, and the empty caption, which is padding alone, is the null caption. All
captions have ``context`` positions, whatever length a batch is padded to. The source for padding and for the last norm
is OpenAI's code; the paper does not mention them.

Tokens start with standard deviation 0.02, positions and padding with 0.01, as CLIP's do. GLIDE's initialisation is not
printed.
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike

from imagen_jax.diffusion.conditions import TokenSequence
from imagen_jax.errors import UserError, check_names
from imagen_jax.models.transformer import States, Transformer, normal
from imagen_jax.sharding.axes import constrain, gather, gathering_table, with_logical_axes

TOKEN_AXES = ("vocabulary", "channels")
POSITION_AXES = ("places", "channels")


class TextTransformer(nn.Module):
    """``TextTransformer(…)(tokens)``: captions as token ids to a state for each position.

    Attributes:
        width: the size of the states.
        layers: the number of layers.
        heads: the number of attention heads; a divisor of ``width``.
        context: the number of positions of each caption.
        vocabulary: the number of tokens in the vocabulary.
        activation: a key of ``transformer.ACTIVATIONS``.
        remat: the activations that the gradient recomputes, see ``models.remat``.
        dtype: the compute dtype; parameters are float32.
    """

    width: int
    layers: int
    heads: int
    context: int
    vocabulary: int
    activation: str = "gelu"
    remat: str = "none"
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, tokens: TokenSequence) -> States:
        """Returns the state of each position after the last norm, ``(batch, context, width)``, in the compute dtype.

        Args:
            tokens: captions of at most ``context`` positions.

        Raises:
            UserError: the captions have more positions, or the sizes do not fit.
        """
        more = self.context - tokens.ids.shape[1]
        if more < 0:
            raise UserError(
                f"captions of {tokens.ids.shape[1]} tokens exceed the text transformer's context of {self.context}: "
                "set config.text.length to it or less"
            )
        ids, mask = (jnp.pad(array, ((0, 0), (0, more))) for array in tokens)
        table = nn.Embed(
            self.vocabulary,
            self.width,
            embedding_init=with_logical_axes(normal(0.02), TOKEN_AXES),
            promote_dtype=gathering_table(TOKEN_AXES),
            dtype=self.dtype,
            name="tokens",
        )
        # Ids at padding may be any numbers, also beyond the table.
        embedded = table(jnp.where(mask, ids, 0)) + self.of_positions("positions")
        x = jnp.where(mask[:, :, None], embedded, self.of_positions("padding"))
        x = constrain(x, "batch", "places", "channels")
        return Transformer(
            self.width,
            self.layers,
            self.heads,
            activation=self.activation,
            remat=self.remat,
            dtype=self.dtype,
            name="transformer",
        )(x)

    def of_positions(self, name: str) -> States:
        """Returns a learned vector for each position, ``(1, context, width)``."""
        start = with_logical_axes(normal(0.01), POSITION_AXES)
        vectors: Any = self.param(name, start, (self.context, self.width))
        return gather(vectors, POSITION_AXES, self.dtype)[None]


SIZES = ("width", "layers", "heads", "context", "vocabulary")
"""The fields that ``network.text_transformer`` must have. ``activation`` is optional."""


def make_text_transformer(sizes: Mapping[str, Any], remat: str, dtype: DTypeLike, name: str) -> TextTransformer:
    """Makes a text transformer in the current module from ``network.text_transformer``.

    Raises:
        UserError: a key is unknown or missing.
    """
    known = (*SIZES, "activation")
    check_names(sizes, known, "key of config.network.text_transformer:")
    missing = [key for key in SIZES if key not in sizes]
    if missing:
        raise UserError(f"config.network.text_transformer lacks {', '.join(missing)}: set all of {', '.join(SIZES)}")
    return TextTransformer(**sizes, remat=remat, dtype=dtype, name=name)
