"""Tensors named as in Hugging Face's BERT files to the parameters of ``bert.BertEncoder``."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from imagen_jax.errors import UserError
from imagen_jax.text.bert import BertConfig, BertEncoder

MODULES = {
    "word_embedding": "embeddings.word_embeddings",
    "position_embedding": "embeddings.position_embeddings",
    "token_type_embedding": "embeddings.token_type_embeddings",
    "embedding_norm": "embeddings.LayerNorm",
}
LAYER_MODULES = {
    "attention/query": "attention.self.query",
    "attention/key": "attention.self.key",
    "attention/value": "attention.self.value",
    "attention/output": "attention.output.dense",
    "attention_norm": "attention.output.LayerNorm",
    "expand": "intermediate.dense",
    "contract": "output.dense",
    "output_norm": "output.LayerNorm",
}
LEAVES = {"kernel": "weight", "bias": "bias", "scale": "weight", "embedding": "weight"}

# The pooler makes the one-vector summary that Imagen does not use; the position ids are 0, 1, 2, ….
UNUSED = {"pooler.dense.weight", "pooler.dense.bias", "embeddings.position_ids"}


def import_bert_weights(tensors: Mapping[str, np.ndarray], config: BertConfig) -> dict:
    """Returns the parameters of ``BertEncoder(config)`` as a plain dict of float32 NumPy arrays.

    Raises:
        UserError: a tensor is missing, left over or of the wrong shape; the message names each one.
    """
    shapes = flatten_dict(make_parameter_shapes(config), sep="/")
    sources = {path: find_source_name(path) for path in shapes}
    missing = sorted(set(sources.values()) - set(tensors))
    left_over = sorted(set(tensors) - set(sources.values()) - UNUSED)
    if missing or left_over:
        raise UserError(
            f"the BERT weights do not fit config.json (missing: {', '.join(missing) or 'none'}; "
            f"left over: {', '.join(left_over) or 'none'}): use the config.json that came with them"
        )
    parameters = {path: orient(tensors[name], path) for path, name in sources.items()}
    for path, value in parameters.items():
        if value.shape != shapes[path].shape:
            raise UserError(
                f"tensor {sources[path]} has shape {tensors[sources[path]].shape}, which does not fit {path} of shape "
                f"{shapes[path].shape}: use the config.json that came with the weights"
            )
    return unflatten_dict(parameters, sep="/")


def make_parameter_shapes(config: BertConfig) -> dict:
    """Returns the parameters' shapes and dtypes without computing any."""
    ids = jnp.zeros((1, 1), jnp.int32)
    return jax.eval_shape(BertEncoder(config).init, jax.random.key(0), ids, ids == 0)["params"]


def find_source_name(path: str) -> str:
    """Returns Hugging Face's name of the parameter at ``path``: ``layer_0/expand/bias`` -> ``encoder.layer.0.…``."""
    module, leaf = path.rsplit("/", 1)
    if module in MODULES:
        return f"{MODULES[module]}.{LEAVES[leaf]}"
    layer, module = module.split("/", 1)
    return f"encoder.layer.{layer.removeprefix('layer_')}.{LAYER_MODULES[module]}.{LEAVES[leaf]}"


def orient(tensor: np.ndarray, path: str) -> np.ndarray:
    """Returns the tensor as float32; a dense kernel is transposed, for PyTorch keeps (out, in) and Flax (in, out)."""
    return np.asarray(tensor.T if path.endswith("/kernel") else tensor, np.float32)
