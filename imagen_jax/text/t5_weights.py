"""Tensors named as in Hugging Face's T5 files to the parameters of ``t5.T5Encoder``, one by one."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.typing import DTypeLike

from imagen_jax.errors import UserError
from imagen_jax.text.t5 import T5Config, T5Encoder

Place = Callable[[str, np.ndarray], Any]
"""``place(path, array)``: puts a parameter where it is wanted, a device or a sharding, and returns it."""

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
UNUSED_PREFIXES = ("decoder.", "lm_head.")
UNUSED = {"encoder.embed_tokens.weight"}


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
    shapes = flatten_dict(make_parameter_shapes(config), sep="/")
    sources = {path: find_source_name(path) for path in shapes}
    # Files of the encoder alone may hold its embedding under either name.
    if EMBEDDING not in tensors and "encoder.embed_tokens.weight" in tensors:
        sources["embedding/embedding"] = "encoder.embed_tokens.weight"
    missing = sorted(set(sources.values()) - set(tensors))
    left_over = sorted(
        name for name in set(tensors) - set(sources.values()) - UNUSED if not name.startswith(UNUSED_PREFIXES)
    )
    if missing or left_over:
        raise UserError(
            f"the T5 weights do not fit config.json (missing: {', '.join(missing) or 'none'}; "
            f"left over: {', '.join(left_over) or 'none'}): use the config.json that came with them"
        )
    parameters = {}
    for path, name in sources.items():
        tensor = tensors[name]
        tensor = tensor.T if path.endswith("/kernel") else tensor
        if tensor.shape != shapes[path].shape:
            raise UserError(
                f"tensor {name} has shape {tensors[name].shape}, which does not fit {path} of shape "
                f"{shapes[path].shape}: use the config.json that came with the weights"
            )
        small = path.endswith("/scale") or path.startswith("position_bias")
        parameters[path] = place(path, np.asarray(tensor, jnp.float32 if small else dtype))
    return unflatten_dict(parameters, sep="/")


def make_parameter_shapes(config: T5Config) -> dict:
    """Returns the parameters' shapes and dtypes without computing any."""
    ids = jnp.zeros((1, 1), jnp.int32)
    return jax.eval_shape(T5Encoder(config).init, jax.random.key(0), ids, ids == 0)["params"]


def find_source_name(path: str) -> str:
    """Returns Hugging Face's name of the parameter at ``path``: ``layer_3_attention/query/kernel`` -> ``…q.weight``."""
    named = {"embedding/embedding": EMBEDDING, "position_bias/embedding": POSITION_BIAS, "final_norm/scale": FINAL_NORM}
    if path in named:
        return named[path]
    _, number, module = path.split("_", 2)
    return f"encoder.block.{number}.{LAYER_MODULES[module]}.weight"
