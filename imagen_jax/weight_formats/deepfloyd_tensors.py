"""Converts DeepFloyd IF's U-Nets between diffusers and ``DeepFloydUNet``, in both directions.

    config.json <-> fields of ``DeepFloydUNet``, tensors <-> parameters

The names in the files are those of diffusers' ``UNet2DConditionModel``. A tensor without a parameter is an error.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from imagen_jax.errors import UserError, nearest_name
from imagen_jax.models.deepfloyd_unet import ACTIVATIONS, DeepFloydUNet
from imagen_jax.storage.paths import Path
from imagen_jax.weights.json_settings import (
    COUNT,
    COUNT_OR_COUNTS,
    COUNTS,
    FLAG,
    FLAG_OR_FLAGS,
    POSITIVE,
    TEXT,
    TEXTS,
    check_kinds,
    or_null,
)
from imagen_jax.weights.named_tensors import (
    ParameterPlacement,
    import_weights,
    keep_on_host,
    turn_from_torch,
    turn_to_torch,
)

DOWN_BLOCKS = {"ResnetDownsampleBlock2D": "none", "SimpleCrossAttnDownBlock2D": "text"}
UP_BLOCKS = {"ResnetUpsampleBlock2D": "none", "SimpleCrossAttnUpBlock2D": "text"}

DECISIVE = {
    "_class_name": "UNet2DConditionModel",
    "addition_embed_type": "text",
    "cross_attention_norm": "group_norm",
    "mid_block_type": "UNetMidBlock2DSimpleCrossAttn",
    "resnet_time_scale_shift": "scale_shift",
}
"""Values that every IF config has; other values would need a network that this package does not implement."""

FIXED: dict[str, Any] = {
    "addition_time_embed_dim": None,
    "attention_type": "default",
    "center_input_sample": False,
    "class_embeddings_concat": False,
    "conv_in_kernel": 3,
    "conv_out_kernel": 3,
    "downsample_padding": 1,
    "dropout": 0.0,
    "dual_cross_attention": False,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "norm_eps": 1e-5,
    "norm_num_groups": 32,
    "num_attention_heads": None,
    "num_class_embeds": None,
    "projection_class_embeddings_input_dim": None,
    "reverse_transformer_layers_per_block": None,
    "time_cond_proj_dim": None,
    "time_embedding_type": "positional",
    "timestep_post_act": None,
    "transformer_layers_per_block": 1,
    "upcast_attention": False,
    "use_linear_projection": False,
}
"""Values that keys of an IF config must have where present."""

READ = {
    "act_fn": TEXT,
    "addition_embed_type_num_heads": COUNT,
    "attention_head_dim": COUNT,
    "block_out_channels": COUNTS,
    "class_embed_type": or_null(TEXT),
    "cross_attention_dim": COUNT,
    "down_block_types": TEXTS,
    "encoder_hid_dim": COUNT,
    "encoder_hid_dim_type": or_null(TEXT),
    "in_channels": COUNT,
    "layers_per_block": COUNT_OR_COUNTS,
    "mid_block_only_cross_attention": or_null(FLAG),
    "mid_block_scale_factor": POSITIVE,
    "only_cross_attention": FLAG_OR_FLAGS,
    "out_channels": COUNT,
    "resnet_out_scale_factor": POSITIVE,
    "resnet_skip_time_act": FLAG,
    "sample_size": COUNT,
    "time_embedding_act_fn": or_null(TEXT),
    "time_embedding_dim": or_null(COUNT),
    "up_block_types": TEXTS,
}
"""The keys that differ between IF's stages and sizes, and the valid kinds of their values."""

NEEDED = {"block_out_channels", "cross_attention_dim", "down_block_types", "encoder_hid_dim", "in_channels",
          "layers_per_block", "out_channels", "sample_size", "up_block_types"}  # fmt: skip


def read_network(settings: Mapping[str, Any], where: Path | str = "config.json") -> dict[str, Any]:
    """Returns the fields of the ``DeepFloydUNet`` that a ``config.json`` describes.

    Args:
        settings: contents of the file.
        where: name of the file in error messages.

    Raises:
        UserError: a key is unknown or missing, or has a value that no IF has; names the key.
    """
    check_settings(settings, where)
    levels = len(settings["block_out_channels"])
    only_text = settings.get("only_cross_attention", False)
    only_text_in_middle = settings.get("mid_block_only_cross_attention")
    if only_text_in_middle is None:
        only_text_in_middle = only_text if isinstance(only_text, bool) else False
    kinds = {True: "cross", False: "self"}
    has_text = [DOWN_BLOCKS[name] == "text" for name in settings["down_block_types"]]
    attention = [
        kinds[only] if has else "none"
        for has, only in zip(has_text, for_each_level(only_text, levels, where), strict=True)
    ]
    activation = settings.get("act_fn", "silu")
    return {
        "name": "deepfloyd_unet",
        "channels": tuple(settings["block_out_channels"]),
        "blocks": tuple(for_each_level(settings["layers_per_block"], levels, where)),
        "attention": tuple(attention),
        "middle_attention": kinds[only_text_in_middle],
        "text_channels": settings["cross_attention_dim"],
        "head_channels": settings.get("attention_head_dim", 8),
        "text_heads": settings.get("addition_embed_type_num_heads", 64),
        "embedding_width": settings.get("time_embedding_dim") or 4 * settings["block_out_channels"][0],
        "activation": activation,
        "shared_embedding_activation": settings.get("time_embedding_act_fn") or "none",
        "block_embedding_activation": "none" if settings.get("resnet_skip_time_act") else activation,
        "scale": 1.0 / settings.get("resnet_out_scale_factor", 1.0),
        "middle_scale": 1.0 / settings.get("mid_block_scale_factor", 1.0),
        "out_channels": settings["out_channels"],
    }


def write_settings(network: DeepFloydUNet, resolution: int, text_width: int, is_base: bool) -> dict[str, Any]:
    """Returns the ``config.json`` of a network; the inverse of ``read_network``.

    Args:
        network: the network.
        resolution: height and width of its images.
        text_width: width of the text encoder's embeddings.
        is_base: whether it is stage I, which takes no low-resolution image.
    """
    has_text = [kind != "none" for kind in network.attention]
    down = ["SimpleCrossAttnDownBlock2D" if has else "ResnetDownsampleBlock2D" for has in has_text]
    up = ["SimpleCrossAttnUpBlock2D" if has else "ResnetUpsampleBlock2D" for has in reversed(has_text)]
    shared = network.shared_embedding_activation
    return DECISIVE | {
        "act_fn": network.activation,
        "addition_embed_type_num_heads": network.text_heads,
        "attention_head_dim": network.head_channels,
        "block_out_channels": list(network.channels),
        "class_embed_type": None if is_base else "timestep",
        "cross_attention_dim": network.text_channels,
        "down_block_types": down,
        "encoder_hid_dim": text_width,
        "encoder_hid_dim_type": "text_proj",
        "in_channels": 3 if is_base else 6,
        "layers_per_block": list(network.blocks),
        "mid_block_only_cross_attention": network.middle_attention == "cross",
        "mid_block_scale_factor": 1.0 / network.middle_scale,
        "only_cross_attention": [kind == "cross" for kind in network.attention],
        "out_channels": network.out_channels,
        "resnet_out_scale_factor": 1.0 / network.scale,
        "resnet_skip_time_act": network.block_embedding_activation == "none",
        "sample_size": resolution,
        "time_embedding_act_fn": None if shared == "none" else shared,
        "time_embedding_dim": network.embedding_width,
        "up_block_types": up,
    }


def check_settings(settings: Mapping[str, Any], where: Path | str) -> None:
    """Checks that a ``config.json`` is that of IF's stage I or II.

    Raises:
        UserError: it is not; names the key.
    """
    for key in settings:
        if not key.startswith("_") and key not in READ.keys() | DECISIVE.keys() | FIXED.keys():
            raise UserError(
                f"{where} has the key {key!r}, which DeepFloyd IF does not have"
                f"{nearest_name(key, READ.keys() | DECISIVE.keys() | FIXED.keys())}: import another U-Net"
            )
    if missing := sorted(NEEDED - settings.keys()):
        raise UserError(f"{where} lacks {', '.join(missing)}: use the file that came with the weights")
    check_kinds(where, settings, READ)
    for key, expected in DECISIVE.items() | {key: FIXED[key] for key in FIXED if key in settings}.items():
        if settings.get(key) != expected:
            raise UserError(
                f"{where} has {key}={settings.get(key)!r}, but DeepFloyd IF has {expected!r}: only the U-Nets of "
                "its stages I and II can be imported"
            )
    levels = len(settings["block_out_channels"])
    for key, known in (("down_block_types", DOWN_BLOCKS), ("up_block_types", UP_BLOCKS)):
        unknown = [name for name in settings[key] if name not in known]
        if unknown or len(settings[key]) != levels:
            raise UserError(
                f"{where} has {key}={settings[key]!r}: for each level, DeepFloyd IF has one of "
                f"{', '.join(sorted(known))}"
            )
    if [UP_BLOCKS[name] for name in settings["up_block_types"]][::-1] != [
        DOWN_BLOCKS[name] for name in settings["down_block_types"]
    ]:
        raise UserError(
            f"{where} has different attentions in up_block_types and in down_block_types: in DeepFloyd IF they are the "
            "same"
        )
    if settings["out_channels"] != 6 or settings["in_channels"] not in (3, 6):
        raise UserError(
            f"{where} has in_channels={settings['in_channels']} and out_channels={settings['out_channels']}: "
            "DeepFloyd IF has 3 (stage I) or 6 (stage II) input channels and 6 output channels"
        )
    if (settings.get("class_embed_type") == "timestep") != (settings["in_channels"] == 6):
        raise UserError(
            f"{where} has class_embed_type={settings.get('class_embed_type')!r} with "
            f"in_channels={settings['in_channels']}: only stage II has 6 input channels and the 'timestep' of an "
            "augmentation"
        )
    # Configs of the first IF lack this key, because diffusers then had no other type.
    if (settings.get("encoder_hid_dim_type") or "text_proj") != "text_proj":
        raise UserError(
            f"{where} has encoder_hid_dim_type={settings['encoder_hid_dim_type']!r}: DeepFloyd IF has 'text_proj', "
            "and only the U-Nets of its stages I and II can be imported"
        )
    for key in ("act_fn", "time_embedding_act_fn"):
        if (settings.get(key) or "none") not in ACTIVATIONS:
            raise UserError(f"{where} has {key}={settings[key]!r}: choose one of {', '.join(sorted(ACTIVATIONS))}")
    if settings["sample_size"] % 2 ** (levels - 1):
        raise UserError(f"{where} has sample_size={settings['sample_size']}, which can't be halved {levels - 1} times")


def for_each_level(setting: Any, levels: int, where: Path | str) -> Sequence[Any]:
    """Returns a setting as a list with one value per level; a single value is repeated.

    Raises:
        UserError: the setting is a list of another length.
    """
    if not isinstance(setting, list | tuple):
        return [setting] * levels
    if len(setting) != levels:
        raise UserError(f"{where} has {len(setting)} values for {levels} levels in {setting!r}: fix the file")
    return setting


MODULES = {
    "conv_in": "conv_in",
    "conv_out": "conv_out",
    "norm_out/norm": "conv_norm_out",
    "text_projection": "encoder_hid_proj",
    "conditioning/step_hidden": "time_embedding.linear_1",
    "conditioning/step_out": "time_embedding.linear_2",
    "conditioning/augmentation_hidden": "class_embedding.linear_1",
    "conditioning/augmentation_out": "class_embedding.linear_2",
    "conditioning/text_norm": "add_embedding.norm1",
    "conditioning/text_pool/query": "add_embedding.pool.q_proj",
    "conditioning/text_pool/key": "add_embedding.pool.k_proj",
    "conditioning/text_pool/value": "add_embedding.pool.v_proj",
    "conditioning/pooled": "add_embedding.proj",
    "conditioning/pooled_norm": "add_embedding.norm2",
}
POOL_OFFSET = ("conditioning/text_pool/offset", "add_embedding.pool.positional_embedding")
BLOCK_MODULES = {
    "norm_in/norm": "norm1",
    "conv_in": "conv1",
    "embedding": "time_emb_proj",
    "norm_out/norm": "norm2",
    "conv_out": "conv2",
    "skip": "conv_shortcut",
}
ATTENTION_MODULES = {
    "norm/norm": "group_norm",
    "text_norm/norm": "norm_cross",
    "query": "to_q",
    "key": "to_k",
    "value": "to_v",
    "text_key": "add_k_proj",
    "text_value": "add_v_proj",
    "out": "to_out.0",
}
LEAVES = {"kernel": "weight", "scale": "weight", "bias": "bias"}


def find_source_name(path: str, levels: int) -> str:
    """Returns diffusers' name of a parameter: ``up_0_2/conv_in/kernel`` -> ``up_blocks.3.resnets.2.conv1.weight``.

    Args:
        path: path of the parameter, as in ``named_tensors.parameter_shapes``.
        levels: number of levels; needed because diffusers numbers the up blocks from the lowest resolution.
    """
    if path == POOL_OFFSET[0]:
        return POOL_OFFSET[1]
    module, leaf = path.rsplit("/", 1)
    if module in MODULES:
        return f"{MODULES[module]}.{LEAVES[leaf]}"
    module_path, module = module.split("/", 1)
    names = ATTENTION_MODULES if module_path.endswith("_attention") else BLOCK_MODULES
    return f"{find_source_block(module_path, levels)}.{names[module]}.{LEAVES[leaf]}"


def find_source_block(module_path: str, levels: int) -> str:
    """Returns diffusers' name of a block or attention: ``down_1_0_attention`` -> ``down_blocks.1.attentions.0``."""
    kind = "attentions" if module_path.endswith("_attention") else "resnets"
    way, *numbers = module_path.removesuffix("_attention").split("_")
    if way == "middle":
        return f"mid_block.{kind}.{numbers[0] if numbers else 0}"
    level, index = numbers
    number = int(level) if way == "down" else levels - 1 - int(level)
    if index == "resample":
        return f"{way}_blocks.{number}.{way}samplers.0"
    return f"{way}_blocks.{number}.{kind}.{index}"


def import_deepfloyd_weights(
    tensors: Mapping[str, np.ndarray],
    shapes: Mapping[str, Any],
    levels: int,
    place: ParameterPlacement = keep_on_host,
) -> dict:
    """Converts tensors to the parameters of a ``DeepFloydUNet`` in float32, a nested dict.

    It reads, transposes and places each tensor before the next one, to save memory.

    Args:
        tensors: tensors by diffusers' names.
        shapes: shapes of the network's parameters by path, from ``named_tensors.parameter_shapes``.
        levels: number of levels of the network.
        place: puts each parameter on its device, see ``named_tensors.ParameterPlacement``.

    Raises:
        UserError: a tensor is missing, left over, of the wrong shape or not finite; the message names the tensor.
    """
    sources = {path: find_source_name(path, levels) for path in shapes}
    return import_weights("DeepFloyd IF", tensors, shapes, sources, place=place, turn=turn_from_torch)


def export_deepfloyd_weights(params: Mapping[str, np.ndarray], levels: int) -> dict[str, np.ndarray]:
    """Converts parameters by path to tensors by diffusers' names; the inverse of ``import_deepfloyd_weights``."""
    return {find_source_name(path, levels): turn_to_torch(path, array) for path, array in params.items()}
