"""A tiny BERT with random weights: what its mask hides, and which weights it refuses.

That it computes what BERT computes is held against transformers in ``test_minilm.py``.
"""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imagen_jax.encoders.bert import BertConfig, BertEncoder
from imagen_jax.encoders.bert_weights import import_bert_weights
from imagen_jax.errors import UserError

SETTINGS = {
    "model_type": "bert",
    "hidden_act": "gelu",
    "vocab_size": 11,
    "hidden_size": 8,
    "intermediate_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 9,
    "type_vocab_size": 2,
    "layer_norm_eps": 1e-12,
}
CONFIG = BertConfig.from_json(json.dumps(SETTINGS))


def make_tensors() -> dict[str, np.ndarray]:
    """Random tensors under the names and shapes of Hugging Face's BertModel."""
    shapes = {
        "embeddings.word_embeddings.weight": (11, 8),
        "embeddings.position_embeddings.weight": (9, 8),
        "embeddings.token_type_embeddings.weight": (2, 8),
        "embeddings.LayerNorm.weight": (8,),
        "embeddings.LayerNorm.bias": (8,),
        "pooler.dense.weight": (8, 8),
        "pooler.dense.bias": (8,),
    }
    for layer in ("encoder.layer.0", "encoder.layer.1"):
        for name in ("attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense"):
            shapes |= {f"{layer}.{name}.weight": (8, 8), f"{layer}.{name}.bias": (8,)}
        for name in ("attention.output.LayerNorm", "output.LayerNorm"):
            shapes |= {f"{layer}.{name}.weight": (8,), f"{layer}.{name}.bias": (8,)}
        shapes |= {f"{layer}.intermediate.dense.weight": (12, 8), f"{layer}.intermediate.dense.bias": (12,)}
        shapes |= {f"{layer}.output.dense.weight": (8, 12), f"{layer}.output.dense.bias": (8,)}
    generator = np.random.default_rng(0)
    return {name: generator.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


@jax.jit
def apply(ids, mask):
    return BertEncoder(CONFIG).apply({"params": import_bert_weights(make_tensors(), CONFIG)}, ids, mask)


def run(ids, tokens):
    return np.asarray(apply(jnp.asarray([ids]), jnp.arange(5)[None] < tokens))


def test_tokens_behind_the_mask_change_nothing_and_others_do():
    first, hidden_change, seen_change = run([1, 2, 3, 4, 5], 3), run([1, 2, 3, 9, 10], 3), run([1, 2, 7, 4, 5], 3)
    np.testing.assert_array_equal(first[:, :3], hidden_change[:, :3])
    assert np.abs(first[0, 0] - seen_change[0, 0]).max() > 1e-3


def test_order_of_tokens_matters():
    assert np.abs(run([1, 2, 3, 0, 0], 3)[0, 0] - run([1, 3, 2, 0, 0], 3)[0, 0]).max() > 1e-3


def test_a_caption_of_padding_alone_is_finite():
    assert np.isfinite(run([0, 0, 0, 0, 0], 0)).all()


def test_parameters_are_plain_dicts_and_all_tensors_of_a_layer_are_used():
    parameters = import_bert_weights(make_tensors(), CONFIG)
    assert type(parameters) is dict and type(parameters["layer_0"]["attention"]) is dict
    used = sum(leaf.size for leaf in jax.tree.leaves(parameters))
    pooler = 8 * 8 + 8
    assert used == sum(tensor.size for tensor in make_tensors().values()) - pooler


def test_missing_and_left_over_tensors_are_named():
    tensors = make_tensors()
    tensors["encoder.layer.1.output.dense.gain"] = tensors.pop("encoder.layer.1.output.dense.bias")
    with pytest.raises(
        UserError, match=r"encoder\.layer\.1\.output\.dense\.bias.*encoder\.layer\.1\.output\.dense\.gain"
    ):
        import_bert_weights(tensors, CONFIG)


def test_tensor_of_wrong_shape_is_named():
    tensors = make_tensors() | {"encoder.layer.0.intermediate.dense.weight": np.zeros((13, 8), np.float32)}
    with pytest.raises(UserError, match=r"encoder\.layer\.0\.intermediate\.dense\.weight.* \(13, 8\)"):
        import_bert_weights(tensors, CONFIG)


@pytest.mark.parametrize("change", [{"hidden_act": "relu"}, {"position_embedding_type": "relative_key"}])
def test_other_architectures_are_refused(change):
    with pytest.raises(UserError, match=next(iter(change))):
        BertConfig.from_json(json.dumps(SETTINGS | change))


def test_missing_size_is_named():
    with pytest.raises(UserError, match="hidden_size"):
        BertConfig.from_json(json.dumps({key: value for key, value in SETTINGS.items() if key != "hidden_size"}))
