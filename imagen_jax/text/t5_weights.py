"""Tensors named as in Hugging Face's T5 files to the parameters of ``t5.T5Encoder``, one by one."""

from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from imagen_jax.text.t5 import T5Config, T5Encoder
from imagen_jax.text.tokenizer import ONE_TOKEN
from imagen_jax.weights.named_tensors import Place, import_weights, parameter_shapes

EMBEDDING = "shared.weight"
POSITION_BIAS = "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
FINAL_NORM = "encoder.final_layer_norm.weight"
LAYER_MODULES = {
    "attention_norm/scale": "layer.0.layer_norm",
    "attention/query/kernel": "layer.0.SelfAttention.q",
    "attention/key/kernel": "layer.0.SelfAttention.k",
    "attention/value/kernel": "layer.0.SelfAttention.v",
    "attention/output/kernel": "layer.0.SelfAttention.o",
    "feed_forward_norm/scale": "layer.1.layer_norm",
    "feed_forward/gate/kernel": "layer.1.DenseReluDense.wi_0",
    "feed_forward/expand/kernel": "layer.1.DenseReluDense.wi_1",
    "feed_forward/contract/kernel": "layer.1.DenseReluDense.wo",
}

# A whole T5 brings its decoder; the encoder's embedding is the shared one under another name.
OWN_EMBEDDING = "encoder.embed_tokens.weight"
UNUSED_PREFIXES = ("decoder.", "lm_head.")


def import_t5_weights(
    tensors: Mapping[str, np.ndarray],
    config: T5Config,
    dtype: DTypeLike = jnp.float32,
    place: Place = lambda path, array: array,
) -> dict:
    """Returns the parameters of ``T5Encoder(config)``; each tensor read, cast and placed before the next.

    Args:
        tensors: by Hugging Face's names; of a whole T5 the decoder is passed over.
        config: the sizes.
        dtype: of the kernels and the embedding; norms and the position bias stay float32.
        place: see ``Place``; what it returns becomes the parameter.

    Raises:
        UserError: a tensor is missing, left over or of the wrong shape; the message names each one.
    """
    shapes = parameter_shapes(T5Encoder(config).init, *ONE_TOKEN)
    sources = {path: find_source_name(path) for path in shapes}
    # Files of the encoder alone may hold its embedding under either name.
    if EMBEDDING not in tensors and OWN_EMBEDDING in tensors:
        sources["embedding/embedding"] = OWN_EMBEDDING

    def is_unused(name: str) -> bool:
        return name == OWN_EMBEDDING or name.startswith(UNUSED_PREFIXES)

    def dtype_of(path: str) -> DTypeLike:
        return jnp.float32 if path.endswith("/scale") or path.startswith("position_bias") else dtype

    return import_weights("T5", tensors, shapes, sources, is_unused, dtype_of, place)


def find_source_name(path: str) -> str:
    """Returns Hugging Face's name of the parameter at ``path``: ``layer_3_attention/query/kernel`` -> ``…q.weight``."""
    named = {"embedding/embedding": EMBEDDING, "position_bias/embedding": POSITION_BIAS, "final_norm/scale": FINAL_NORM}
    if path in named:
        return named[path]
    _, number, module = path.split("_", 2)
    return f"encoder.block.{number}.{LAYER_MODULES[module]}.weight"
