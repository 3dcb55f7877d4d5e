"""Reads and writes the ``config.json`` of each of Karlo's networks: contents <-> fields of our networks.

| folder | class of diffusers | network |
|---|---|---|
| prior | PriorTransformer | ``PriorTransformer`` |
| decoder, text_proj | UNet2DConditionModel, UnCLIPTextProjModel | ``KarloUNet`` |
| super_res_first, super_res_last | UNet2DModel | ``KarloUpsampler`` |

An unknown key, or a value that would need another network, is an error that names the key.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from imagen_jax.errors import UserError, nearest_name
from imagen_jax.models.karlo_unet import KarloUNet, KarloUpsampler
from imagen_jax.models.prior import PriorTransformer
from imagen_jax.storage.paths import Path
from imagen_jax.weight_formats.deepfloyd_tensors import DOWN_BLOCKS, FIXED, UP_BLOCKS, for_each_level
from imagen_jax.weights.json_settings import (
    COUNT,
    COUNT_OR_COUNTS,
    COUNTS,
    FLAG,
    TEXT,
    TEXTS,
    Kind,
    check_kinds,
)

RATE = Kind("a number of at least 0 and below 1", lambda value: isinstance(value, int | float) and 0 <= value < 1)


class Architecture(NamedTuple):
    """The keys of a ``config.json`` and the values that Karlo has.

    Attributes:
        needed: keys with values that every file has, and that the network is known by.
        fixed: values that keys must have where present.
        read: keys that differ between sizes, and the kinds of their values.
        defaults: values of absent keys of ``read``; the others must be present.
    """

    needed: Mapping[str, Any]
    fixed: Mapping[str, Any]
    read: Mapping[str, Kind]
    defaults: Mapping[str, Any]


PRIOR = Architecture(
    {"_class_name": "PriorTransformer"},
    {
        "additional_embeddings": 4,
        "added_emb_type": "prd",
        "clip_embed_dim": None,
        "embedding_proj_dim": None,
        "embedding_proj_norm_type": None,
        "encoder_hid_proj_type": "linear",
        "norm_in_type": None,
        "time_embed_act_fn": "silu",
        "time_embed_dim": None,
    },
    {
        "attention_head_dim": COUNT,
        "dropout": RATE,
        "embedding_dim": COUNT,
        "num_attention_heads": COUNT,
        "num_embeddings": COUNT,
        "num_layers": COUNT,
    },
    {
        "attention_head_dim": 64,
        "dropout": 0.0,
        "embedding_dim": 768,
        "num_attention_heads": 32,
        "num_embeddings": 77,
        "num_layers": 20,
    },
)

DECODER = Architecture(
    {
        "_class_name": "UNet2DConditionModel",
        "class_embed_type": "identity",
        "mid_block_type": "UNetMidBlock2DSimpleCrossAttn",
        "resnet_time_scale_shift": "scale_shift",
    },
    {
        **FIXED,
        "act_fn": "silu",
        "addition_embed_type": None,
        "addition_embed_type_num_heads": 64,
        "cross_attention_norm": None,
        "encoder_hid_dim": None,
        "encoder_hid_dim_type": None,
        "in_channels": 3,
        "mid_block_only_cross_attention": None,
        "mid_block_scale_factor": 1,
        "only_cross_attention": False,
        "out_channels": 6,
        "resnet_out_scale_factor": 1.0,
        "resnet_skip_time_act": False,
        "time_embedding_act_fn": None,
        "time_embedding_dim": None,
    },
    {
        "attention_head_dim": COUNT,
        "block_out_channels": COUNTS,
        "cross_attention_dim": COUNT,
        "down_block_types": TEXTS,
        "layers_per_block": COUNT_OR_COUNTS,
        "sample_size": COUNT,
        "up_block_types": TEXTS,
    },
    {"attention_head_dim": 8, "layers_per_block": 2},
)

PROJECTIONS = Architecture(
    {"_class_name": "UnCLIPTextProjModel"},
    {},
    {
        "clip_embeddings_dim": COUNT,
        "clip_extra_context_tokens": COUNT,
        "cross_attention_dim": COUNT,
        "time_embed_dim": COUNT,
    },
    {"clip_embeddings_dim": 768, "clip_extra_context_tokens": 4},
)

UPSAMPLER = Architecture(
    {"_class_name": "UNet2DModel", "add_attention": False},
    {
        "act_fn": "silu",
        "attn_norm_num_groups": None,
        "center_input_sample": False,
        "class_embed_type": None,
        "downsample_padding": 1,
        "downsample_type": "conv",
        "flip_sin_to_cos": True,
        "freq_shift": 0,
        "in_channels": 6,
        "mid_block_scale_factor": 1,
        "mid_block_type": "UNetMidBlock2D",
        "norm_eps": 1e-5,
        "norm_num_groups": 32,
        "num_class_embeds": None,
        "num_train_timesteps": None,
        "out_channels": 3,
        "resnet_time_scale_shift": "default",
        "time_embedding_dim": None,
        "time_embedding_type": "positional",
        "upsample_type": "conv",
    },
    {
        "attention_head_dim": COUNT,
        "block_out_channels": COUNTS,
        "down_block_types": TEXTS,
        "dropout": RATE,
        "layers_per_block": COUNT,
        "sample_size": COUNT,
        "up_block_types": TEXTS,
    },
    {"attention_head_dim": 8, "dropout": 0.0, "layers_per_block": 2},
)

SCHEDULER = Architecture(
    {"_class_name": "UnCLIPScheduler"},
    {"beta_schedule": "squaredcos_cap_v2", "num_train_timesteps": 1000},
    {
        "clip_sample": FLAG,
        "clip_sample_range": Kind(
            "a number of at least 1", lambda value: isinstance(value, int | float) and value >= 1
        ),
        "prediction_type": TEXT,
        "variance_type": TEXT,
    },
    {
        "clip_sample": True,
        "clip_sample_range": 1.0,
        "prediction_type": "epsilon",
        "variance_type": "fixed_small_log",
    },
)


def check_settings(architecture: Architecture, settings: Mapping[str, Any], where: Path | str) -> dict[str, Any]:
    """Checks a ``config.json`` and returns the keys of ``architecture.read``, with defaults for absent ones.

    Raises:
        UserError: a key is unknown or missing, or has a value that Karlo has not; names the key.
    """
    known = architecture.needed.keys() | architecture.fixed.keys() | architecture.read.keys()
    for key in settings:
        if not key.startswith("_") and key not in known:
            raise UserError(
                f"{where} has the key {key!r}, which Karlo does not have{nearest_name(key, known)}: import another "
                "folder"
            )
    if missing := sorted(architecture.read.keys() - architecture.defaults.keys() - settings.keys()):
        raise UserError(f"{where} lacks {', '.join(missing)}: use the file that came with the weights")
    check_kinds(where, settings, architecture.read)
    present = {key: value for key, value in architecture.fixed.items() if key in settings}
    for key, expected in {**architecture.needed, **present}.items():
        if settings.get(key) != expected:
            raise UserError(
                f"{where} has {key}={settings.get(key)!r}, but Karlo has {expected!r}: only Karlo's networks can be "
                "imported"
            )
    return {key: settings.get(key, architecture.defaults.get(key)) for key in architecture.read}


def read_prior(settings: Mapping[str, Any], where: Path | str = "config.json") -> dict[str, Any]:
    """Returns the fields of the ``PriorTransformer`` that a ``config.json`` describes.

    Raises:
        UserError: as ``check_settings``.
    """
    read = check_settings(PRIOR, settings, where)
    heads = read["num_attention_heads"]
    return {
        "name": "prior",
        "width": heads * read["attention_head_dim"],
        "layers": read["num_layers"],
        "heads": heads,
        "dropout": float(read["dropout"]),
        "learned_null": False,
    }


def write_prior(network: PriorTransformer, vector: int, tokens: int) -> dict[str, Any]:
    """Returns the ``config.json`` of a prior; the inverse of ``read_prior``.

    Args:
        network: the network.
        vector: number of channels of its samples.
        tokens: number of tokens of a caption.
    """
    return {
        **PRIOR.needed,
        **PRIOR.fixed,
        "attention_head_dim": network.width // network.heads,
        "dropout": network.dropout,
        "embedding_dim": vector,
        "num_attention_heads": network.heads,
        "num_embeddings": tokens,
        "num_layers": network.layers,
    }


def read_decoder(
    settings: Mapping[str, Any], projections: Mapping[str, Any], where: Path | str = "config.json"
) -> dict[str, Any]:
    """Returns the fields of the ``KarloUNet`` that the ``config.json`` of U-Net and projections describe.

    Raises:
        UserError: as ``check_settings``, or the two do not fit.
    """
    read, told = check_settings(DECODER, settings, where), check_settings(PROJECTIONS, projections, "text_proj")
    levels = len(read["block_out_channels"])
    attention = check_blocks(read, where)
    for key, mine in (("cross_attention_dim", read["cross_attention_dim"]),
                      ("time_embed_dim", 4 * read["block_out_channels"][0])):  # fmt: skip
        if told[key] != mine:
            raise UserError(f"text_proj has {key}={told[key]}, but the decoder of {where} needs {mine}: use its own")
    return {
        "name": "karlo_unet",
        "channels": tuple(read["block_out_channels"]),
        "blocks": tuple(for_each_level(read["layers_per_block"], levels, where)),
        "attention": attention,
        "text_channels": read["cross_attention_dim"],
        "vector_tokens": told["clip_extra_context_tokens"],
        "head_channels": read["attention_head_dim"],
        "out_channels": 6,
    }


def check_blocks(read: Mapping[str, Any], where: Path | str) -> tuple[bool, ...]:
    """Returns whether each level has attention, from the types of its blocks.

    Raises:
        UserError: a type is unknown, or the blocks on the way up are not those of the way down.
    """
    levels = len(read["block_out_channels"])
    for key, known in (("down_block_types", DOWN_BLOCKS), ("up_block_types", UP_BLOCKS)):
        if any(name not in known for name in read[key]) or len(read[key]) != levels:
            raise UserError(f"{where} has {key}={read[key]!r}: for each level, Karlo has one of {', '.join(known)}")
    down = [DOWN_BLOCKS[name] != "none" for name in read["down_block_types"]]
    if down != [UP_BLOCKS[name] != "none" for name in read["up_block_types"]][::-1]:
        raise UserError(f"{where} has different attentions in up_block_types and down_block_types: make them equal")
    if read["sample_size"] % 2 ** (levels - 1):
        raise UserError(f"{where} has sample_size={read['sample_size']}, which can't be halved {levels - 1} times")
    return tuple(down)


def block_types(attention: tuple[bool, ...]) -> dict[str, list[str]]:
    """Returns the types of the blocks of levels with and without attention; the inverse of ``check_blocks``."""
    down = ["SimpleCrossAttnDownBlock2D" if has else "ResnetDownsampleBlock2D" for has in attention]
    up = ["SimpleCrossAttnUpBlock2D" if has else "ResnetUpsampleBlock2D" for has in reversed(attention)]
    return {"down_block_types": down, "up_block_types": up}


def write_decoder(network: KarloUNet, resolution: int, vector: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns the ``config.json`` of U-Net and projections; the inverse of ``read_decoder``.

    Args:
        network: the network.
        resolution: height and width of its images.
        vector: number of channels of the vectors and of the caption's tokens.
    """
    settings = {
        **DECODER.needed,
        **DECODER.fixed,
        **block_types(network.attention),
        "attention_head_dim": network.head_channels,
        "block_out_channels": list(network.channels),
        "cross_attention_dim": network.text_channels,
        "layers_per_block": list(network.blocks),
        "sample_size": resolution,
    }
    projections = {
        **PROJECTIONS.needed,
        "clip_embeddings_dim": vector,
        "clip_extra_context_tokens": network.vector_tokens,
        "cross_attention_dim": network.text_channels,
        "time_embed_dim": 4 * network.channels[0],
    }
    return settings, projections


def read_upsampler(
    first: Mapping[str, Any], last: Mapping[str, Any], where: Path | str = "config.json"
) -> dict[str, Any]:
    """Returns the fields of the ``KarloUpsampler`` that the ``config.json`` of its two networks describe.

    Raises:
        UserError: as ``check_settings``, the two differ, or a network has attention.
    """
    read, other = (check_settings(UPSAMPLER, settings, where) for settings in (first, last))
    for key in read:
        if read[key] != other[key]:
            raise UserError(
                f"super_res_first has {key}={read[key]!r} and super_res_last {other[key]!r}: Karlo's are equal"
            )
    if any(check_blocks(read, where)):
        raise UserError(f"{where} has blocks with attention: Karlo's super-resolution networks have none")
    channels = tuple(read["block_out_channels"])
    blocks = (read["layers_per_block"],) * len(channels)
    return {"name": "karlo_upsampler", "channels": channels, "blocks": blocks, "dropout": float(read["dropout"])}


def write_upsampler(network: KarloUpsampler, resolution: int) -> dict[str, Any]:
    """Returns the ``config.json`` of each of the two networks; the inverse of ``read_upsampler``."""
    return {
        **UPSAMPLER.needed,
        **UPSAMPLER.fixed,
        **block_types((False,) * len(network.channels)),
        "attention_head_dim": UPSAMPLER.defaults["attention_head_dim"],
        "block_out_channels": list(network.channels),
        "dropout": network.dropout,
        "layers_per_block": network.blocks[0],
        "sample_size": resolution,
    }
