"""The null text, which stands for "no caption", and caption dropout for classifier-free guidance.

Imagen trains the unconditional model jointly by zeroing the text embeddings of 10% of the examples (section 2.2). Our
null text also keeps one token of zeros in the mask. So the network sees the same null text whatever length a batch's
captions are padded to.
"""

import jax
import jax.numpy as jnp

from imagen_jax.array_types import RandomKey, Text


def null_text(text: Text) -> Text:
    """Returns the null text in the shape of ``text``: zero embeddings, and one token in the mask."""
    mask = jnp.zeros_like(text.mask).at[:, 0].set(True)
    return Text(jnp.zeros_like(text.embeddings), mask)


def drop_text(text: Text, key: RandomKey, rate: float) -> Text:
    """Replaces each example's text by the null text with probability ``rate`` in [0, 1]."""
    dropped = jax.random.bernoulli(key, rate, (text.mask.shape[0],))
    null = null_text(text)
    return Text(
        jnp.where(dropped[:, None, None], null.embeddings, text.embeddings),
        jnp.where(dropped[:, None], null.mask, text.mask),
    )
