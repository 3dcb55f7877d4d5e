"""Writes small T5 v1.1 models with seeded random weights as Hugging Face and T5X lay them out."""

import io
import json
from pathlib import Path

import numpy as np
import sentencepiece
import tensorstore
from flax.serialization import msgpack_serialize
from flax.traverse_util import unflatten_dict
from safetensors.numpy import save_file

SETTINGS = {
    "model_type": "t5",
    "architectures": ["T5ForConditionalGeneration"],
    "feed_forward_proj": "gated-gelu",
    "dense_act_fn": "gelu_new",
    "is_gated_act": True,
    "tie_word_embeddings": False,
    "layer_norm_epsilon": 1e-6,
    "relative_attention_max_distance": 128,
    "dropout_rate": 0.1,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "decoder_start_token_id": 0,
}
CONFIGS = {
    # Heads that add up to another width than the model's, as in T5 v1.1 small and XXL.
    "narrow": {"vocab_size": 128, "d_model": 24, "d_kv": 8, "d_ff": 40, "num_layers": 3, "num_heads": 5},
    "few_buckets": {"vocab_size": 96, "d_model": 32, "d_kv": 4, "d_ff": 20, "num_layers": 2, "num_heads": 8},
}
BUCKETS = {"narrow": 32, "few_buckets": 16}

CORPUS = [
    "red apple",
    "a panda eating bamboo in the rain",
    "three yellow sunflowers and a rocket",
    "an orange tabby asleep between two hardbacks",
    "snowman without snow, one o'clock, zany face",
    "the quick brown fox jumps over the lazy dog",
]


def settings_of(name: str) -> dict:
    """The ``config.json`` of one of ``CONFIGS``."""
    layers = CONFIGS[name]["num_layers"]
    return SETTINGS | CONFIGS[name] | {"relative_attention_num_buckets": BUCKETS[name], "num_decoder_layers": layers}


def make_tensors(name: str, seed: int = 0) -> dict[str, np.ndarray]:
    """The encoder's tensors under Hugging Face's names, at T5's scales (Mesh TensorFlow's initialisation)."""
    settings = settings_of(name)
    model, inner, hidden = settings["d_model"], settings["num_heads"] * settings["d_kv"], settings["d_ff"]
    generator = np.random.default_rng(seed)

    def normal(scale: float, *shape: int) -> np.ndarray:
        return (scale * generator.normal(size=shape)).astype(np.float32)

    tensors = {"shared.weight": normal(1.0, settings["vocab_size"], model)}
    for block in range(settings["num_layers"]):
        attention = f"encoder.block.{block}.layer.0.SelfAttention"
        tensors[f"{attention}.q.weight"] = normal((model * settings["d_kv"]) ** -0.5, inner, model)
        for kind in "kv":
            tensors[f"{attention}.{kind}.weight"] = normal(model**-0.5, inner, model)
        tensors[f"{attention}.o.weight"] = normal(inner**-0.5, model, inner)
        perceptron = f"encoder.block.{block}.layer.1.DenseReluDense"
        for kind in ("wi_0", "wi_1"):
            tensors[f"{perceptron}.{kind}.weight"] = normal(model**-0.5, hidden, model)
        tensors[f"{perceptron}.wo.weight"] = normal(hidden**-0.5, model, hidden)
        for layer in (0, 1):
            tensors[f"encoder.block.{block}.layer.{layer}.layer_norm.weight"] = 1 + normal(0.2, model)
    bias = "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
    tensors[bias] = normal(1.0, settings["relative_attention_num_buckets"], settings["num_heads"])
    tensors["encoder.final_layer_norm.weight"] = 1 + normal(0.2, model)
    return tensors


def write_tensors(folder: Path, tensors: dict[str, np.ndarray], shards: int = 1) -> None:
    """Writes tensors as ``model.safetensors``, or as an index and shards."""
    if shards == 1:
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        return
    places = {}
    for number in range(shards):
        shard = f"model-{number + 1:05d}-of-{shards:05d}.safetensors"
        part = {name: tensors[name] for name in sorted(tensors)[number::shards]}
        save_file(part, folder / shard, metadata={"format": "pt"})
        places |= dict.fromkeys(part, shard)
    index = {"metadata": {"total_size": sum(tensor.nbytes for tensor in tensors.values())}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def write_tokenizer(path: Path, vocabulary: int = 80, **conventions: int) -> None:
    """Trains a sentencepiece model of T5's conventions on ``CORPUS``."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS),
        model_writer=model,
        vocab_size=vocabulary,
        hard_vocab_limit=False,
        minloglevel=2,
        **{"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1} | conventions,
    )
    path.write_bytes(model.getvalue())


def write_t5_folder(folder: Path, name: str = "narrow", seed: int = 0, shards: int = 1) -> Path:
    """Writes a whole small T5 encoder; returns ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(settings_of(name)))
    write_tensors(folder, make_tensors(name, seed), shards)
    write_tokenizer(folder / "spiece.model")
    return folder


def name_for_t5x(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The same tensors as T5X's ``target`` has them: kernels (in, out), and the position bias (heads, buckets)."""
    renamed = {}
    for name, tensor in tensors.items():
        match name.split("."):
            case ["shared", _]:
                renamed["token_embedder.embedding"] = tensor
            case ["encoder", "final_layer_norm", _]:
                renamed["encoder.encoder_norm.scale"] = tensor
            case [*_, "relative_attention_bias", _]:
                renamed["encoder.relpos_bias.rel_embedding"] = tensor.T
            case ["encoder", "block", block, "layer", layer, "layer_norm", _]:
                kind = {"0": "pre_attention_layer_norm", "1": "pre_mlp_layer_norm"}[layer]
                renamed[f"encoder.layers_{block}.{kind}.scale"] = tensor
            case ["encoder", "block", block, "layer", _, "SelfAttention", kind, _]:
                kind = {"q": "query", "k": "key", "v": "value", "o": "out"}[kind]
                renamed[f"encoder.layers_{block}.attention.{kind}.kernel"] = tensor.T
            case ["encoder", "block", block, "layer", _, "DenseReluDense", kind, _]:
                renamed[f"encoder.layers_{block}.mlp.{kind}.kernel"] = tensor.T
    return renamed


def write_t5x_tensor(folder: Path, name: str, tensor: np.ndarray) -> dict:
    """Writes a zarr array of two chunks along each axis; returns the pointer to it that T5X keeps."""
    chunks = [-(-size // 2) for size in tensor.shape]
    metadata = {"shape": list(tensor.shape), "chunks": chunks, "compressor": {"id": "gzip", "level": 1}}
    spec = {"driver": "zarr", "dtype": tensor.dtype.name, "metadata": metadata}
    place = {"driver": "file", "path": str(folder / name)}
    tensorstore.open(spec | {"kvstore": place}, create=True).result().write(tensor).result()
    # T5X writes to Google's storage, and keeps the path relative.
    return spec | {"kvstore": {"driver": "gcs", "bucket": "t5x-dummy-bucket", "path": f"{name}/"}}


def write_t5x_folder(folder: Path, name: str = "narrow", seed: int = 0, changes: dict | None = None) -> Path:
    """Writes the model of ``write_t5_folder`` as T5X does, a bit of decoder and optimizer with it.

    Args:
        folder: where; returned.
        name: of one of ``CONFIGS``.
        seed: of the weights.
        changes: tensors by the names of T5X's ``target``, to add or to put in place of the model's.
    """
    folder.mkdir(parents=True, exist_ok=True)
    decoder = {"decoder.decoder_norm.scale": np.ones(4, np.float32), "decoder.logits_dense.kernel": np.eye(4)}
    tensors = name_for_t5x(make_tensors(name, seed)) | decoder | (changes or {})
    target = {
        tensor_name: tensor if tensor.ndim == 1 else write_t5x_tensor(folder, f"target.{tensor_name}", tensor)
        for tensor_name, tensor in tensors.items()
    }
    state = {"step": np.int32(1000000), "param_states": {"encoder": {"encoder_norm": {"scale": {"m": None}}}}}
    tree = {"version": 3, "optimizer": {"target": unflatten_dict(target, sep="."), "state": state}}
    (folder / "checkpoint").write_bytes(msgpack_serialize(tree))
    write_tokenizer(folder / "sentencepiece.model")
    return folder
