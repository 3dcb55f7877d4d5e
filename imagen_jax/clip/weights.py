"""Maps tensors named as in Hugging Face's or OpenAI's files to the parameters and sizes of CLIP's towers.

    {"visual.conv1.weight": …} or {"vision_model.embeddings.patch_embedding.weight": …}
    -> {"image": parameters of ImageTower, "text": of TextTower, "logit_scale": its logarithm}

The published tensors have half precision, or were converted from it. The parameters are float32.
"""

import math
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from imagen_jax.clip.clip import ClipSizes, ImageTower, TextTower, TowerSizes
from imagen_jax.errors import UserError
from imagen_jax.storage.paths import Path
from imagen_jax.weights.json_settings import COUNT, check_kinds, read_settings
from imagen_jax.weights.named_tensors import Shape, Turn, import_weights, parameter_shapes, turn_from_torch

LEAVES = {"kernel": "weight", "scale": "weight", "embedding": "weight", "bias": "bias"}
LOGIT_SCALE = "logit_scale"

HUGGING_FACE_NAMES = {
    "image/class_token": "vision_model.embeddings.class_embedding",
    "image/patches/kernel": "vision_model.embeddings.patch_embedding.weight",
    "image/positions": "vision_model.embeddings.position_embedding.weight",
    "image/first_norm": "vision_model.pre_layrnorm",
    "image/last_norm": "vision_model.post_layernorm",
    "image/projection": "visual_projection",
    "image/layer": "vision_model.encoder.layers",
    "text/tokens": "text_model.embeddings.token_embedding",
    "text/positions": "text_model.embeddings.position_embedding.weight",
    "text/last_norm": "text_model.final_layer_norm",
    "text/projection": "text_projection",
    "text/layer": "text_model.encoder.layers",
    "attention_norm": "layer_norm1",
    "attention/query": "self_attn.q_proj",
    "attention/key": "self_attn.k_proj",
    "attention/value": "self_attn.v_proj",
    "attention/output": "self_attn.out_proj",
    "perceptron_norm": "layer_norm2",
    "expand": "mlp.fc1",
    "contract": "mlp.fc2",
}
OPENAI_NAMES = {
    "image/class_token": "visual.class_embedding",
    "image/patches/kernel": "visual.conv1.weight",
    "image/positions": "visual.positional_embedding",
    "image/first_norm": "visual.ln_pre",
    "image/last_norm": "visual.ln_post",
    "image/projection/kernel": "visual.proj",
    "image/layer": "visual.transformer.resblocks",
    "text/tokens": "token_embedding",
    "text/positions": "positional_embedding",
    "text/last_norm": "ln_final",
    "text/projection/kernel": "text_projection",
    "text/layer": "transformer.resblocks",
    "attention_norm": "ln_1",
    "attention/query": "attn.in_proj.query",
    "attention/key": "attn.in_proj.key",
    "attention/value": "attn.in_proj.value",
    "attention/output": "attn.out_proj",
    "perceptron_norm": "ln_2",
    "expand": "mlp.c_fc",
    "contract": "mlp.c_proj",
}
"""Maps the modules and parameters of the towers to their names in files; see ``name_in_file``."""

# These only repeat sizes: ``position_ids`` in files of transformers until 4.31, the others in OpenAI's files.
UNUSED = {
    "vision_model.embeddings.position_ids",
    "text_model.embeddings.position_ids",
    "input_resolution",
    "context_length",
    "vocab_size",
}

HEAD_WIDTH = 64
"""The width of a head in OpenAI's models. The shapes of the tensors do not contain the number of heads."""

# The values for missing keys in config.json are those of ViT-B/32.
IMAGE_DEFAULTS = {
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "image_size": 224,
    "patch_size": 32,
}
TEXT_DEFAULTS = {
    "hidden_size": 512,
    "num_hidden_layers": 12,
    "num_attention_heads": 8,
    "intermediate_size": 2048,
    "vocab_size": 49408,
    "max_position_embeddings": 77,
    "eos_token_id": 49407,
}
ARCHITECTURE = {"hidden_act": "quick_gelu", "layer_norm_eps": 1e-5, "num_channels": 3}
"""The values of settings of both towers that ``clip`` requires; it implements no other values."""

WRONG_END = 2
"""The ``eos_token_id`` that transformers wrote until 4.31. It means the last token of the vocabulary."""


class Naming(NamedTuple):
    """The names and the axis order of CLIP's tensors in one kind of file.

    Attributes:
        names: maps modules and parameters to their names in the file; see ``name_in_file``.
        turn: changes the axes of a tensor to those of the parameter, a ``named_tensors.Turn``.
        advice: what to do, in error messages about weights that do not fit.
    """

    names: Mapping[str, str]
    turn: Turn
    advice: str


def import_clip_weights(tensors: Mapping[str, np.ndarray], sizes: ClipSizes) -> dict[str, Any]:
    """Returns the parameters of both towers, ``{"image": …, "text": …, "logit_scale": …}``, float32.

    Args:
        tensors: tensors under the names of Hugging Face, or of OpenAI after ``split_projections``.
        sizes: the sizes of the network.

    Raises:
        UserError: a tensor is missing, left over or of the wrong shape. The message names it.
    """
    naming = OPENAI if is_openai(tensors) else HUGGING_FACE
    side = sizes.resolution
    shapes = {
        **below("image", parameter_shapes(ImageTower(sizes).init, jnp.zeros((1, side, side, 3)))),
        **below("text", parameter_shapes(TextTower(sizes).init, jnp.zeros((1, sizes.context), jnp.int32))),
        LOGIT_SCALE: jax.ShapeDtypeStruct((), jnp.float32),
    }
    sources = {path: name_in_file(path, naming.names) for path in shapes}
    return import_weights("CLIP", tensors, shapes, sources, UNUSED.__contains__, turn=naming.turn, advice=naming.advice)


def below(tower: str, shapes: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the shapes with the tower's name in front of each path."""
    return {f"{tower}/{path}": shape for path, shape in shapes.items()}


def name_in_file(path: str, names: Mapping[str, str]) -> str:
    """Returns a parameter's tensor name: ``text/layer_3/expand/bias`` -> ``transformer.resblocks.3.mlp.c_fc.bias``."""
    if path == LOGIT_SCALE or path in names:
        return names.get(path, path)
    module, leaf = path.rsplit("/", 1)
    if module in names:
        return f"{names[module]}.{LEAVES[leaf]}"
    tower, layer, module = module.split("/", 2)
    return f"{names[f'{tower}/layer']}.{layer.removeprefix('layer_')}.{names[module]}.{LEAVES[leaf]}"


def turn_from_openai(path: str, tensor: np.ndarray, shape: Shape) -> np.ndarray:
    """Converts kernels like ``turn_from_torch``, except the projections, which OpenAI stores as (in, out)."""
    return tensor if path.endswith("/projection/kernel") else turn_from_torch(path, tensor, shape)


HUGGING_FACE = Naming(HUGGING_FACE_NAMES, turn_from_torch, "use the config.json that came with them")
OPENAI = Naming(OPENAI_NAMES, turn_from_openai, "download one of OpenAI's files with a vision transformer in full")


def is_openai(tensors: Mapping[str, np.ndarray]) -> bool:
    """Returns whether the names are OpenAI's, and not Hugging Face's."""
    return not any(name.startswith(("vision_model.", "text_model.")) for name in tensors)


def split_projections(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Splits OpenAI's joint tensors of queries, keys and values: ``….in_proj_bias`` to ``….in_proj.key.bias`` etc."""
    split: dict[str, np.ndarray] = {}
    for name, tensor in tensors.items():
        whole = re.fullmatch(r"(.*\.in_proj)_(weight|bias)", name)
        if whole and tensor.ndim and len(tensor) % 3 == 0:
            parts = zip(("query", "key", "value"), np.split(tensor, 3), strict=True)
            split |= {f"{whole[1]}.{part}.{whole[2]}": piece for part, piece in parts}
        else:
            split[name] = tensor
    return split


def derive_sizes(tensors: Mapping[str, np.ndarray], file: Path) -> ClipSizes:
    """Derives the sizes of a CLIP from tensors with OpenAI's names.

    Args:
        tensors: the tensors of the file.
        file: the file, for error messages.

    Raises:
        UserError: a required tensor is missing or has the wrong number of axes, or the file is of another kind of CLIP.
    """
    if "visual.layer1.0.conv1.weight" in tensors:
        raise UserError(f"{file} is a CLIP with a ResNet, which has no patches: {OPENAI.advice}")

    def shape_of(name: str, axes: int) -> tuple[int, ...]:
        if name not in tensors or tensors[name].ndim != axes or 0 in tensors[name].shape:
            found = f"of shape {tensors[name].shape}" if name in tensors else "missing"
            raise UserError(f"{file} is not a CLIP file of OpenAI (the tensor {name} is {found}): {OPENAI.advice}")
        return tensors[name].shape

    def tower_below(prefix: str, width: int) -> TowerSizes:
        begin = f"{prefix}resblocks."
        layers = {name.removeprefix(begin).split(".")[0] for name in tensors if name.startswith(begin)}
        hidden, _ = shape_of(f"{begin}0.mlp.c_fc.weight", 2)
        if width % HEAD_WIDTH:
            raise UserError(
                f"{file} has attention of width {width}, which is not a multiple of {HEAD_WIDTH}: {OPENAI.advice}"
            )
        return TowerSizes(width, len(layers), width // HEAD_WIDTH, hidden)

    image_width, _, patch, _ = shape_of("visual.conv1.weight", 4)
    positions, _ = shape_of("visual.positional_embedding", 2)
    context, _ = shape_of("positional_embedding", 2)
    vocabulary, _ = shape_of("token_embedding.weight", 2)
    text_width, embedding = shape_of("text_projection", 2)
    image, text = tower_below("visual.transformer.", image_width), tower_below("transformer.", text_width)
    return ClipSizes(
        image, text, math.isqrt(positions - 1) * patch, patch, vocabulary, context, embedding, end=vocabulary - 1
    )


def read_sizes(path: Path) -> ClipSizes:
    """Returns the sizes in the ``config.json`` of a Hugging Face folder.

    Raises:
        UserError: the file is missing or damaged, or describes another network.
    """
    settings = read_settings(path)
    if settings.get("model_type") != "clip":
        raise UserError(f"{path} is of the model {settings.get('model_type')!r}: give the folder of a CLIP")
    image = read_tower(path, settings, "vision_config", IMAGE_DEFAULTS)
    text = read_tower(path, settings, "text_config", TEXT_DEFAULTS)
    check_kinds(path, settings, {"projection_dim": COUNT})
    if image["image_size"] % image["patch_size"]:
        raise UserError(f"{path} has patches that do not fill {image['image_size']} pixels: fix the file")
    end = text["eos_token_id"]
    return ClipSizes(
        image=tower_sizes(image),
        text=tower_sizes(text),
        resolution=image["image_size"],
        patch=image["patch_size"],
        vocabulary=text["vocab_size"],
        context=text["max_position_embeddings"],
        embedding=settings.get("projection_dim", 512),
        end=text["vocab_size"] - 1 if end == WRONG_END else end,
    )


def read_tower(path: Path, settings: Mapping[str, Any], key: str, defaults: Mapping[str, int]) -> dict[str, Any]:
    """Returns the checked settings of one tower. In old files, values in ``{key}_dict`` override those in ``key``.

    Raises:
        UserError: a value has the wrong type, or requires an architecture that is not implemented.
    """
    for name in (key, f"{key}_dict"):
        if not isinstance(settings.get(name) or {}, dict):
            raise UserError(f"{path} has {name}={settings[name]!r}, which is not an object: download it again")
    tower = {**defaults, **(settings.get(key) or {}), **(settings.get(f"{key}_dict") or {})}
    check_kinds(f"{path} ({key})", tower, dict.fromkeys(defaults, COUNT))
    for name, implemented in ARCHITECTURE.items():
        if tower.get(name, implemented) != implemented:
            raise UserError(
                f"{path} has {name}={tower[name]!r}: use a CLIP with {name}={implemented!r}, as in OpenAI's"
            )
    if tower["hidden_size"] % tower["num_attention_heads"]:
        raise UserError(f"{path} has heads that do not divide {key}.hidden_size={tower['hidden_size']}: fix the file")
    return tower


def tower_sizes(tower: Mapping[str, int]) -> TowerSizes:
    """Selects the sizes from the settings of a tower."""
    return TowerSizes(
        tower["hidden_size"], tower["num_hidden_layers"], tower["num_attention_heads"], tower["intermediate_size"]
    )
