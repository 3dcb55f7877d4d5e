"""Writes a small CLIP with seeded random weights as Hugging Face and OpenAI lay it out, and its vocabulary."""

import gzip
import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from imagen_jax.clip.tokenizer import VOCABULARY, list_bytes
from tests.reference.torch_programs import write_tensors

MERGES = (
    "t h",
    "th e</w>",
    "c a",
    "ca t</w>",
    "a n",
    "p an",
    "pan d",
    "pand a</w>",
    "â Ģ",
    "ð Ł",
    "' s</w>",
    "# #</w>",
)
START, END = 512 + len(MERGES), 513 + len(MERGES)

IMAGE = {
    "hidden_size": 128,
    "intermediate_size": 160,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 32,
    "patch_size": 8,
}
TEXT = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 1,
    "max_position_embeddings": 12,
    "vocab_size": END + 1,
    "eos_token_id": END,
}
EMBEDDING = 24
CONFIG = {"model_type": "clip", "projection_dim": EMBEDDING, "vision_config": IMAGE, "text_config": TEXT}

# What OpenAI calls the parts of Hugging Face's names.
OPENAI_PARTS = {
    "vision_model.embeddings.class_embedding": "visual.class_embedding",
    "vision_model.embeddings.patch_embedding": "visual.conv1",
    "vision_model.embeddings.position_embedding.weight": "visual.positional_embedding",
    "vision_model.pre_layrnorm": "visual.ln_pre",
    "vision_model.post_layernorm": "visual.ln_post",
    "vision_model.encoder.layers": "visual.transformer.resblocks",
    "text_model.embeddings.token_embedding": "token_embedding",
    "text_model.embeddings.position_embedding.weight": "positional_embedding",
    "text_model.final_layer_norm": "ln_final",
    "text_model.encoder.layers": "transformer.resblocks",
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "self_attn.out_proj": "attn.out_proj",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}


def make_tensors(seed: int = 0) -> dict[str, np.ndarray]:
    """Tensors under Hugging Face's names, of half precision's numbers, and so large that each of them matters."""
    generator = np.random.default_rng(seed)

    def normal(*shape: int, mean: float = 0.0) -> np.ndarray:
        scale = shape[-1] ** -0.5 if len(shape) == 2 else 0.3
        return (mean + scale * generator.normal(size=shape)).astype(np.float16).astype(np.float32)

    def tower(name: str, settings: dict[str, int], norms: tuple[str, ...]) -> dict[str, np.ndarray]:
        width, hidden = settings["hidden_size"], settings["intermediate_size"]
        tensors = {}
        layers = [f"{name}.encoder.layers.{index}" for index in range(settings["num_hidden_layers"])]
        for norm in [*norms, *(f"{layer}.layer_norm{number}" for layer in layers for number in (1, 2))]:
            tensors |= {f"{norm}.weight": normal(width, mean=1.0), f"{norm}.bias": normal(width)}
        for layer in layers:
            sizes = {f"self_attn.{kind}_proj": (width, width) for kind in ("q", "k", "v", "out")}
            for part, shape in (sizes | {"mlp.fc1": (hidden, width), "mlp.fc2": (width, hidden)}).items():
                tensors |= {f"{layer}.{part}.weight": normal(*shape), f"{layer}.{part}.bias": normal(shape[0])}
        return tensors

    width, patch = IMAGE["hidden_size"], IMAGE["patch_size"]
    image = tower("vision_model", IMAGE, ("vision_model.pre_layrnorm", "vision_model.post_layernorm"))
    text = tower("text_model", TEXT, ("text_model.final_layer_norm",))
    return {
        **image,
        **text,
        "vision_model.embeddings.class_embedding": normal(width),
        "vision_model.embeddings.patch_embedding.weight": normal(width, 3, patch, patch) / patch,
        "vision_model.embeddings.position_embedding.weight": normal((IMAGE["image_size"] // patch) ** 2 + 1, width),
        "text_model.embeddings.token_embedding.weight": normal(TEXT["vocab_size"], TEXT["hidden_size"]),
        "text_model.embeddings.position_embedding.weight": normal(TEXT["max_position_embeddings"], TEXT["hidden_size"]),
        "visual_projection.weight": normal(EMBEDDING, width),
        "text_projection.weight": normal(EMBEDDING, TEXT["hidden_size"]),
        "logit_scale": np.asarray(4.5, np.float32),
    }


def to_openai(tensors: dict[str, np.ndarray], dtype: type = np.float16) -> dict[str, np.ndarray]:
    """The same tensors as OpenAI's file has them: queries, keys and values in one, projections the other way round."""
    renamed = {
        "visual.proj": tensors["visual_projection.weight"].T,
        "text_projection": tensors["text_projection.weight"].T,
        "logit_scale": tensors["logit_scale"],
    }
    for name in tensors.keys() - {"visual_projection.weight", "text_projection.weight", "logit_scale"}:
        new = name
        for part, openai in OPENAI_PARTS.items():
            new = new.replace(part, openai)
        before, found, leaf = new.partition("self_attn.q_proj.")
        if found:
            joined = [tensors[name.replace("q_proj", f"{kind}_proj")] for kind in "qkv"]
            renamed[f"{before}attn.in_proj_{leaf}"] = np.concatenate(joined)
        elif "self_attn" not in new:
            renamed[new] = tensors[name]
    half = {name: tensor.astype(dtype, order="C") for name, tensor in renamed.items()}
    counts = {"input_resolution": 32, "context_length": 12, "vocab_size": END + 1}
    return half | {name: np.asarray(count, np.int64) for name, count in counts.items()}


def write_vocabulary(folder: Path) -> Path:
    """Writes the file of OpenAI's name."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / VOCABULARY.name
    path.write_bytes(gzip.compress("\n".join(["#version: 0.2", *MERGES, ""]).encode()))
    return path


def write_tokenizer(folder: Path) -> None:
    """Writes ``vocab.json`` and ``merges.txt``."""
    folder.mkdir(parents=True, exist_ok=True)
    letters = list_bytes()
    words = [*letters, *(letter + "</w>" for letter in letters), *(merge.replace(" ", "") for merge in MERGES)]
    words += ["<|startoftext|>", "<|endoftext|>"]
    numbers = {word: number for number, word in enumerate(words)}
    (folder / "vocab.json").write_text(json.dumps(numbers), encoding="utf-8")
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *MERGES, ""]), encoding="utf-8")


def write_clip_folder(folder: Path, tensors: dict[str, np.ndarray] | None = None, config: dict | None = None) -> Path:
    """Writes a Hugging Face folder."""
    write_tokenizer(folder)
    (folder / "config.json").write_text(json.dumps(CONFIG if config is None else config))
    save_file(make_tensors() if tensors is None else tensors, folder / "model.safetensors")
    return folder


def write_clip_file(folder: Path, tensors: dict[str, np.ndarray] | None = None, script: bool = True) -> Path:
    """Writes OpenAI's file, by default TorchScript, and the vocabulary beside it."""
    write_vocabulary(folder)
    return write_tensors(folder / "small.pt", to_openai(make_tensors()) if tensors is None else tensors, script)


MEAN, DEVIATION = [0.4, 0.5, 0.6], [0.2, 0.25, 0.3]
"""A preparation that no published CLIP has."""


def make_open_clip_config(**changes: dict) -> dict:
    """``open_clip_config.json`` of the same CLIP, with changes of its sections."""
    vision = {
        "image_size": IMAGE["image_size"],
        "layers": IMAGE["num_hidden_layers"],
        "width": IMAGE["hidden_size"],
        "head_width": IMAGE["hidden_size"] // IMAGE["num_attention_heads"],
        "mlp_ratio": IMAGE["intermediate_size"] / IMAGE["hidden_size"],
        "patch_size": IMAGE["patch_size"],
    }
    text = {
        "context_length": TEXT["max_position_embeddings"],
        "vocab_size": TEXT["vocab_size"],
        "width": TEXT["hidden_size"],
        "heads": TEXT["num_attention_heads"],
        "layers": TEXT["num_hidden_layers"],
        "mlp_ratio": TEXT["intermediate_size"] / TEXT["hidden_size"],
    }
    model = {"embed_dim": EMBEDDING, "quick_gelu": True}
    sections = {"vision_cfg": vision, "text_cfg": text}
    model |= {name: section | changes.get(name, {}) for name, section in sections.items()}
    preparation = {"mean": MEAN, "std": DEVIATION, "interpolation": "bicubic", "resize_mode": "shortest"}
    return {
        "model_cfg": model | changes.get("model_cfg", {}),
        "preprocess_cfg": preparation | changes.get("preprocess_cfg", {}),
    }


def to_open_clip(tensors: dict[str, np.ndarray], prefix: str = "") -> dict[str, np.ndarray]:
    """The same tensors as open_clip has them, with a prefix of the text tower's."""
    openai = to_openai(tensors, np.float32)
    for name in ("input_resolution", "context_length", "vocab_size"):
        openai.pop(name)
    of_text = ("transformer.", "token_embedding.", "positional_embedding", "ln_final.", "text_projection")
    return {f"{prefix}{name}" if name.startswith(of_text) else name: tensor for name, tensor in openai.items()}


def write_open_clip_folder(
    folder: Path, tensors: dict[str, np.ndarray] | None = None, config: dict | None = None, pickle: bool = False
) -> Path:
    """Writes a folder of open_clip, with safetensors or a state dict."""
    write_tokenizer(folder)
    content = make_open_clip_config() if config is None else config
    (folder / "open_clip_config.json").write_text(json.dumps(content))
    tensors = to_open_clip(make_tensors()) if tensors is None else tensors
    if pickle:
        write_tensors(folder / "open_clip_pytorch_model.bin", tensors, script=False)
    else:
        save_file(tensors, folder / "open_clip_model.safetensors")
    return folder


RESNET = {"layers": (1, 2, 1, 1), "width": 8, "resolution": 64}


def make_resnet(seed: int = 0) -> dict[str, np.ndarray]:
    """Tensors of a small residual network under OpenAI's names, so large that each of them matters."""
    generator = np.random.default_rng(seed)
    tensors: dict[str, np.ndarray] = {}

    def normal(*shape: int, mean: float = 0.0) -> np.ndarray:
        scale = 0.2 if len(shape) == 1 else np.prod(shape[1:]) ** -0.5
        return (mean + scale * generator.normal(size=shape)).astype(np.float16).astype(np.float32)

    def norm(name: str, channels: int) -> None:
        tensors.update({f"{name}.weight": normal(channels, mean=1.0), f"{name}.bias": normal(channels)})
        tensors[f"{name}.running_mean"] = normal(channels)
        tensors[f"{name}.running_var"] = np.maximum(normal(channels, mean=1.0), np.float32(0.25))
        tensors[f"{name}.num_batches_tracked"] = np.asarray(7, np.int64)

    width = RESNET["width"]
    for index, (inputs, outputs) in enumerate(((3, width // 2), (width // 2, width // 2), (width // 2, width)), 1):
        tensors[f"visual.conv{index}.weight"] = normal(outputs, inputs, 3, 3)
        norm(f"visual.bn{index}", outputs)
    inputs = width
    for stage, blocks in enumerate(RESNET["layers"]):
        inside = width * 2**stage
        for index in range(blocks):
            name = f"visual.layer{stage + 1}.{index}"
            for number, shape in enumerate(
                ((inside, inputs, 1, 1), (inside, inside, 3, 3), (4 * inside, inside, 1, 1))
            ):
                tensors[f"{name}.conv{number + 1}.weight"] = normal(*shape)
                norm(f"{name}.bn{number + 1}", shape[0])
            if index == 0:
                tensors[f"{name}.downsample.0.weight"] = normal(4 * inside, inputs, 1, 1)
                norm(f"{name}.downsample.1", 4 * inside)
            inputs = 4 * inside
    tensors["visual.attnpool.positional_embedding"] = normal((RESNET["resolution"] // 32) ** 2 + 1, inputs)
    for name, outputs in (("q", inputs), ("k", inputs), ("v", inputs), ("c", EMBEDDING)):
        tensors[f"visual.attnpool.{name}_proj.weight"] = normal(outputs, inputs)
        tensors[f"visual.attnpool.{name}_proj.bias"] = normal(outputs)
    return tensors


def make_resnet_clip() -> dict[str, np.ndarray]:
    """OpenAI's names: the small residual network, and the text tower of ``make_tensors``."""
    text = {name: tensor for name, tensor in to_openai(make_tensors()).items() if not name.startswith("visual.")}
    resnet = make_resnet()
    return text | {name: tensor if tensor.ndim == 0 else tensor.astype(np.float16) for name, tensor in resnet.items()}
