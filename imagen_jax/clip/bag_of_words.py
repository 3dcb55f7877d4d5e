"""A text tower without order of words: a continuous bag of words (Mikolov et al. 2013, arXiv 1301.3781, section 3.1).

    tokens of a caption -> mean of their vectors -> perceptron, or one linear layer -> embedding

Radford et al. 2021 (section 2.3, figure 2) compare CLIP with a bag of words that predicts words. Here it is the text
tower of a CLIP.
"""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from imagen_jax.array_types import DTYPES, TokenIds
from imagen_jax.clip.text_transformer import check_tokens, find_end, token_table
from imagen_jax.clip.transformer import Embeddings, dense, exact_gelu, projection
from imagen_jax.errors import UserError, lookup
from imagen_jax.sharding.axes import constrain


class BagOfWords(nn.Module):
    """``tower.apply({"params": params}, ids)``: token ids of captions to embeddings, which have any length.

    The mean is over all tokens up to the first end token, which counts too, so that an empty caption has a mean.

    Attributes:
        vocabulary: the number of tokens in the vocabulary.
        context: the max number of token positions of a caption.
        width: the size of the tokens' vectors.
        embedding: the size of the embeddings.
        end: the id of the end token.
        hidden: the width inside the perceptron; 0 for one linear layer in its place.
        dtype: the compute dtype, a key of ``array_types.DTYPES``. The mean and the embeddings are float32.

    Raises:
        UserError: the fields contradict each other.
    """

    vocabulary: int
    context: int
    width: int
    embedding: int
    end: int
    hidden: int = 0
    dtype: str = "float32"

    def __post_init__(self) -> None:
        check_tokens(self.vocabulary, self.context, self.end)
        lookup(DTYPES, self.dtype, "dtype")
        if self.width < 1 or self.embedding < 1 or self.hidden < 0:
            raise UserError(
                f"a bag of words has width={self.width}, embedding={self.embedding} and hidden={self.hidden}: give "
                "positive numbers, or hidden=0"
            )
        super().__post_init__()

    def example_input(self) -> np.ndarray:
        """Returns an input of one caption, for ``init``."""
        return np.zeros((1, self.context), np.int32)

    @nn.compact
    def __call__(self, ids: TokenIds, train: bool = False) -> Embeddings:
        """Returns the embeddings, ``(batch, embedding)``, float32.

        Args:
            ids: ``(batch, tokens)``, with at most ``context`` tokens.
            train: no effect, since the tower has no dropout.

        Raises:
            UserError: there are more than ``context`` tokens.
        """
        if ids.shape[1] > self.context:
            raise UserError(
                f"captions of {ids.shape[1]} tokens exceed the tower's context of {self.context}: truncate them"
            )
        dtype = DTYPES[self.dtype]
        vectors = token_table(self.vocabulary, self.width, dtype, "tokens")(ids).astype(jnp.float32)
        counted = jnp.arange(ids.shape[1])[None] <= find_end(ids, self.end)[:, None]
        mean = (vectors * counted[:, :, None]).sum(axis=1) / counted.sum(axis=1, keepdims=True)
        if self.hidden:
            expand = dense(self.hidden, ("channels", "hidden"), (2 * self.width) ** -0.5, dtype=dtype, name="expand")
            mean = exact_gelu(constrain(expand(mean), "batch", "hidden"))
        width = mean.shape[-1]
        return projection(self.embedding, width, dtype, "projection", use_bias=True)(mean).astype(jnp.float32)
