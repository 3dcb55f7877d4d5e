"""Maps tensors named as in Hugging Face's BERT files to the parameters of ``bert.BertEncoder``."""

from collections.abc import Mapping

import numpy as np

from imagen_jax.data.tokenizer import ONE_TOKEN
from imagen_jax.encoders.bert import BertConfig, BertEncoder
from imagen_jax.weights.named_tensors import import_weights, parameter_shapes

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

# The pooler makes a summary vector that Imagen does not use. The position ids are just 0, 1, 2, ….
UNUSED = {"pooler.dense.weight", "pooler.dense.bias", "embeddings.position_ids"}


def import_bert_weights(tensors: Mapping[str, np.ndarray], config: BertConfig) -> dict:
    """Returns the parameters of ``BertEncoder(config)`` as a plain dict of float32 NumPy arrays.

    Raises:
        UserError: a tensor is missing, left over or of the wrong shape. The message names it.
    """
    shapes = parameter_shapes(BertEncoder(config).init, *ONE_TOKEN)
    sources = {path: find_source_name(path) for path in shapes}
    return import_weights("BERT", tensors, shapes, sources, is_unused=lambda name: name in UNUSED)


def find_source_name(path: str) -> str:
    """Returns Hugging Face's name of the parameter at ``path``: ``layer_0/expand/bias`` -> ``encoder.layer.0.…``."""
    module, leaf = path.rsplit("/", 1)
    if module in MODULES:
        return f"{MODULES[module]}.{LEAVES[leaf]}"
    layer, module = module.split("/", 1)
    return f"encoder.layer.{layer.removeprefix('layer_')}.{LAYER_MODULES[module]}.{LEAVES[leaf]}"
