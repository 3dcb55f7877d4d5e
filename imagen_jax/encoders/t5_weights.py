"""Maps tensors named as in Hugging Face's or T5X's files to the parameters of ``t5.T5Encoder``, one at a time."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from imagen_jax.data.tokenizer import ONE_TOKEN
from imagen_jax.encoders.t5 import T5Config, T5Encoder
from imagen_jax.weights.named_tensors import (
    ParameterPlacement,
    Shape,
    Turn,
    import_weights,
    keep_on_host,
    parameter_shapes,
    turn_from_torch,
)

HUGGING_FACE_MODULES = {
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
HUGGING_FACE_NAMES = {
    "embedding/embedding": "shared.weight",
    "position_bias/embedding": "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight",
    "final_norm/scale": "encoder.final_layer_norm.weight",
}
# Hugging Face's second name for the shared embedding, in the encoder.
OWN_EMBEDDING = "encoder.embed_tokens.weight"

T5X_MODULES = {
    "attention_norm/scale": "pre_attention_layer_norm.scale",
    "attention/query/kernel": "attention.query.kernel",
    "attention/key/kernel": "attention.key.kernel",
    "attention/value/kernel": "attention.value.kernel",
    "attention/output/kernel": "attention.out.kernel",
    "feed_forward_norm/scale": "pre_mlp_layer_norm.scale",
    "feed_forward/gate/kernel": "mlp.wi_0.kernel",
    "feed_forward/expand/kernel": "mlp.wi_1.kernel",
    "feed_forward/contract/kernel": "mlp.wo.kernel",
}
T5X_NAMES = {
    "embedding/embedding": "target.token_embedder.embedding",
    "position_bias/embedding": "target.encoder.relpos_bias.rel_embedding",
    "final_norm/scale": "target.encoder.encoder_norm.scale",
}


class Naming(NamedTuple):
    """The names and the axis order of the tensors of a T5 in one kind of file.

    Attributes:
        name_of: returns the tensor name of the parameter at a path of ``T5Encoder``.
        turn: changes the axes of a tensor to those of the parameter, a ``named_tensors.Turn``.
        unused: prefixes of the tensor names that the encoder does not need.
        advice: what to do, in error messages about weights that do not fit.
    """

    name_of: Callable[[str], str]
    turn: Turn
    unused: tuple[str, ...]
    advice: str


def import_t5_weights(
    tensors: Mapping[str, np.ndarray],
    config: T5Config,
    dtype: DTypeLike = jnp.float32,
    place: ParameterPlacement = keep_on_host,
) -> dict:
    """Returns the parameters of ``T5Encoder(config)``. Each tensor is read, cast and placed before the next.

    Args:
        tensors: tensors under the names of Hugging Face or of T5X. A decoder's tensors are ignored.
        config: the sizes.
        dtype: the dtype of the kernels and the embedding. Norms and the position bias stay float32.
        place: places each parameter; its return value becomes the parameter. See ``ParameterPlacement``.

    Raises:
        UserError: a tensor is missing, left over or of the wrong shape. The message names it.
    """
    naming = T5X if any(name.startswith("target.") for name in tensors) else HUGGING_FACE
    shapes = parameter_shapes(T5Encoder(config).init, *ONE_TOKEN)
    sources = {path: naming.name_of(path) for path in shapes}
    # Files of the encoder alone may contain its embedding under either name.
    if sources["embedding/embedding"] not in tensors and OWN_EMBEDDING in tensors:
        sources["embedding/embedding"] = OWN_EMBEDDING

    def is_unused(name: str) -> bool:
        return name.startswith(naming.unused)

    def dtype_of(path: str) -> DTypeLike:
        return jnp.float32 if path.endswith("/scale") or path.startswith("position_bias") else dtype

    return import_weights("T5", tensors, shapes, sources, is_unused, dtype_of, place, naming.turn, naming.advice)


def find_hugging_face_name(path: str) -> str:
    """Returns Hugging Face's name of the parameter at ``path``: ``layer_3_attention/query/kernel`` -> ``…q.weight``."""
    if path in HUGGING_FACE_NAMES:
        return HUGGING_FACE_NAMES[path]
    _, number, module = path.split("_", 2)
    return f"encoder.block.{number}.{HUGGING_FACE_MODULES[module]}.weight"


def find_t5x_name(path: str) -> str:
    """Returns T5X's name of the parameter at ``path``: ``layer_3_attention/query/kernel`` -> ``…query.kernel``."""
    if path in T5X_NAMES:
        return T5X_NAMES[path]
    _, number, module = path.split("_", 2)
    return f"target.encoder.layers_{number}.{T5X_MODULES[module]}"


def turn_from_t5x(path: str, tensor: np.ndarray, shape: Shape) -> np.ndarray:
    """Transposes the position bias, which T5X stores as (heads, buckets). Kernels are (in, out), as in Flax."""
    return tensor.T if path == "position_bias/embedding" else tensor


HUGGING_FACE = Naming(
    find_hugging_face_name,
    turn_from_torch,
    unused=("decoder.", "lm_head.", OWN_EMBEDDING),
    advice="use the config.json that came with them",
)
T5X = Naming(
    find_t5x_name,
    turn_from_t5x,
    unused=("target.decoder.",),
    advice="use a T5X checkpoint of T5 v1.1",
)
