"""Reads and writes the config of a CLIP in a folder of open_clip. It says all that the shapes of tensors do not.

    open_clip_config.json: {"model_cfg": {"vision_cfg", "text_cfg", …}, "preprocess_cfg": {…}} <-> description

Towers of other libraries (timm, Hugging Face) and variants of attention that no published plain model has are refused.
"""

from collections.abc import Mapping
from typing import Any

from imagen_jax.clip.description import Description, is_colour, make_description
from imagen_jax.clip.resnet import EXPANSION
from imagen_jax.errors import UserError, check_names
from imagen_jax.storage.paths import Path
from imagen_jax.weights.json_settings import (
    COUNT,
    COUNT_OR_COUNTS,
    FLAG,
    POSITIVE,
    TEXT,
    Kind,
    check_kinds,
    or_null,
    read_settings,
)

CONFIG = "open_clip_config.json"
WEIGHTS = "open_clip_model.safetensors"
PICKLE = "open_clip_pytorch_model.bin"

NUMBER = Kind("a number", lambda value: isinstance(value, int | float) and not isinstance(value, bool))
OBJECT = Kind("an object", lambda value: isinstance(value, dict))
TOKEN_ID = Kind("a token id", lambda value: isinstance(value, int) and not isinstance(value, bool) and value >= 0)

MODEL_KINDS = {
    "embed_dim": COUNT,
    "vision_cfg": OBJECT,
    "text_cfg": OBJECT,
    "quick_gelu": FLAG,
    "custom_text": FLAG,
    "init_logit_scale": NUMBER,
    "init_logit_bias": or_null(NUMBER),
    "nonscalar_logit_scale": FLAG,
}
IMAGE_KINDS = {
    "layers": COUNT_OR_COUNTS,
    "width": COUNT,
    "head_width": COUNT,
    "mlp_ratio": POSITIVE,
    "patch_size": or_null(COUNT_OR_COUNTS),
    "image_size": COUNT_OR_COUNTS,
    "patch_dropout": NUMBER,
    "no_ln_pre": FLAG,
    "pool_type": TEXT,
    "final_ln_after_pool": FLAG,
}
TEXT_KINDS = {
    "context_length": COUNT,
    "vocab_size": COUNT,
    "width": COUNT,
    "heads": COUNT,
    "layers": COUNT,
    "mlp_ratio": POSITIVE,
    "no_causal_mask": FLAG,
    "pool_type": TEXT,
    "proj_bias": FLAG,
    "eos_id": TOKEN_ID,
    "hf_tokenizer_name": or_null(TEXT),
    "tokenizer_kwargs": or_null(OBJECT),
}
"""The keys that are read, and the types of their values."""

ATTENTION: dict[str, tuple[Any, ...]] = {
    "ls_init_value": (None,),
    "act_kwargs": (None, {}),
    "norm_kwargs": (None, {}, {"eps": 1e-5}),
    "block_type": (None, "default"),
    "qk_norm": (False,),
    "scaled_cosine_attn": (False,),
    "scale_heads": (False,),
    "scale_attn_inner": (False,),
    "scale_attn": (False,),
    "scale_fc": (False,),
}
IMAGE_FIXED = {**ATTENTION, "attentional_pool": (False,), "pos_embed_type": ("learnable",)}
TEXT_FIXED = {**ATTENTION, "embed_cls": (False,), "proj_type": ("linear",), "tokenizer_mode": (None, "")}
"""Keys with the values that are implemented, which are open_clip's defaults."""

WITHOUT_EFFECT = {
    "vision_cfg": {"attn_pooler_queries", "attn_pooler_heads", "output_tokens"}
    | {"timm_model_pretrained", "timm_pool", "timm_proj", "timm_proj_bias", "timm_drop", "timm_drop_path"},
    "text_cfg": {"pad_id", "output_tokens", "final_ln_after_pool"}
    | {"hf_model_pretrained", "hf_proj_type", "hf_pooler_type"},
}
"""Keys that change nothing in the towers that are implemented."""

OTHER_LIBRARIES = {"timm_model_name": "timm", "hf_model_name": "Hugging Face's transformers"}

PREPARATION = {"size", "mode", "mean", "std", "interpolation", "resize_mode", "fill_color"}

IMAGE_POOLS = {"tok": "class_token", "avg": "mean"}
TEXT_POOLS = {"argmax": "argmax", "eos": "end", "first": "first", "last": "last"}

INIT_LOGIT_BIAS = -10.0
"""The first bias of logits of open_clip's SigLIP configs. In exports it only says that there is a bias."""

DEFAULT_CLEAN = "whitespace"
"""How open_clip cleans captions for a tokenizer of Hugging Face."""


def read_open_clip_config(path: Path, separator: str = "") -> Description:
    """Returns the description in an ``open_clip_config.json``.

    Args:
        path: the file.
        separator: the separator token of the tokenizer, which some CLIPs replace by padding.

    Raises:
        UserError: the file is missing or damaged, or describes a network that is not implemented.
    """
    settings = read_settings(path)
    check_kinds(path, settings, {"model_cfg": OBJECT, "preprocess_cfg": OBJECT})
    model = settings.get("model_cfg", {})
    if "multimodal_cfg" in model:
        raise UserError(f"{path} is of a CoCa, which also writes captions: give a CLIP")
    check_names(model, MODEL_KINDS, f"key of model_cfg in {path}")
    require(path, model, ("embed_dim", "vision_cfg", "text_cfg"))
    check_kinds(path, model, MODEL_KINDS)
    vision, text = model["vision_cfg"], model["text_cfg"]
    check_section(path, "vision_cfg", vision, IMAGE_KINDS, IMAGE_FIXED)
    check_section(path, "text_cfg", text, TEXT_KINDS, TEXT_FIXED)
    activation = "quick_gelu" if model.get("quick_gelu", False) else "gelu"
    image = read_image_tower(path, vision, activation)
    return make_description(
        image,
        read_text_tower(path, text, activation),
        model["embed_dim"],
        **read_preparation(path, settings.get("preprocess_cfg", {}), image["resolution"]),
        **read_tokenizer(path, text, separator),
        logit_bias=model.get("init_logit_bias") is not None,
    )


def require(path: Path, settings: Mapping[str, Any], keys: tuple[str, ...]) -> None:
    """Checks that keys are present.

    Raises:
        UserError: some are missing.
    """
    if missing := [key for key in keys if key not in settings]:
        raise UserError(f"{path} lacks {', '.join(missing)}: use the file that came with the weights")


def check_section(
    path: Path,
    name: str,
    section: Mapping[str, Any],
    kinds: Mapping[str, Kind],
    fixed: Mapping[str, tuple[Any, ...]],
) -> None:
    """Checks the keys and values of one tower.

    Raises:
        UserError: a key is unknown, or has a value of the wrong type or one that is not implemented.
    """
    for key, library in OTHER_LIBRARIES.items():
        if section.get(key):
            raise UserError(
                f"{path} has {name}.{key}={section[key]!r}, a tower of {library}, which is not implemented: use a CLIP "
                "whose towers are open_clip's own"
            )
    check_names(
        section,
        kinds.keys() | fixed.keys() | WITHOUT_EFFECT[name] | OTHER_LIBRARIES.keys(),
        f"key of {name} in {path}",
    )
    check_kinds(f"{path} ({name})", section, kinds)
    for key, implemented in fixed.items():
        if key in section and section[key] not in implemented:
            raise UserError(
                f"{path} has {name}.{key}={section[key]!r}, which is not implemented: use a CLIP with "
                f"{key}={implemented[0]!r}"
            )


def single(path: Path, key: str, value: Any) -> int:
    """Returns a size that may be given as two equal numbers.

    Raises:
        UserError: it is not one positive number, or two equal ones.
    """
    sizes = set(value) if isinstance(value, list) else {value}
    if len(sizes) != 1 or not COUNT.holds(next(iter(sizes))):
        raise UserError(f"{path} has {key}={value!r}: use a CLIP with square images and patches")
    return sizes.pop()


def expand(path: Path, width: int, section: Mapping[str, Any]) -> int:
    """Returns the width inside the perceptrons.

    Raises:
        UserError: it is no size.
    """
    ratio = section.get("mlp_ratio", 4.0)
    try:
        return int(width * ratio)
    except OverflowError:
        raise UserError(f"{path} has width={width} and mlp_ratio={ratio}: fix the file") from None


def read_image_tower(path: Path, vision: Mapping[str, Any], activation: str) -> dict[str, Any]:
    """Returns the name and fields of the image tower.

    Raises:
        UserError: it is not implemented.
    """
    resolution = single(path, "image_size", vision.get("image_size", 224))
    width, head_width = vision.get("width", 768), vision.get("head_width", 64)
    layers = vision.get("layers", 12)
    channels = width if isinstance(layers, int) else 8 * EXPANSION * width
    if channels % head_width:
        raise UserError(f"{path} has head_width={head_width}, which does not divide {channels} channels: fix the file")
    sizes = {"resolution": resolution, "width": width, "layers": layers, "heads": channels // head_width}
    if not isinstance(layers, int):
        return {"name": "resnet", **sizes}
    pool = vision.get("pool_type", "tok")
    if pool not in IMAGE_POOLS or (pool == "avg" and not vision.get("final_ln_after_pool", False)):
        raise UserError(
            f"{path} has vision_cfg.pool_type={pool!r} and final_ln_after_pool="
            f"{vision.get('final_ln_after_pool', False)}: use a CLIP with 'tok', or with 'avg' and true"
        )
    return {
        "name": "vision_transformer",
        **sizes,
        "patch": single(path, "patch_size", vision.get("patch_size", 16)),
        "hidden": expand(path, width, vision),
        "activation": activation,
        "pool": IMAGE_POOLS[pool],
        "first_norm": not vision.get("no_ln_pre", False),
    }


def read_text_tower(path: Path, text: Mapping[str, Any], activation: str) -> dict[str, Any]:
    """Returns the name and fields of the text tower.

    open_clip's "argmax" finds the greatest id. Without a tokenizer of Hugging Face, that is the end token, the last of
    the vocabulary.

    Raises:
        UserError: it is not implemented.
    """
    pool, vocabulary = text.get("pool_type", "argmax"), text.get("vocab_size", 49408)
    if pool not in TEXT_POOLS:
        raise UserError(f"{path} has text_cfg.pool_type={pool!r}: use a CLIP with {', '.join(map(repr, TEXT_POOLS))}")
    ends_last = pool == "argmax" and not text.get("hf_tokenizer_name")
    width = text.get("width", 512)
    return {
        "name": "transformer",
        "vocabulary": vocabulary,
        "context": text.get("context_length", 77),
        "width": width,
        "layers": text.get("layers", 12),
        "heads": text.get("heads", 8),
        "hidden": expand(path, width, text),
        "end": text.get("eos_id", 2) if pool == "eos" else vocabulary - 1,
        "activation": activation,
        "pool": "end" if ends_last else TEXT_POOLS[pool],
        "causal": not text.get("no_causal_mask", False),
        "projection_bias": text.get("proj_bias", False),
    }


def read_preparation(path: Path, settings: Mapping[str, Any], resolution: int) -> dict[str, Any]:
    """Returns how images are prepared, as attributes of a description.

    Raises:
        UserError: the mean or deviation is missing, or the preparation is not implemented.
    """
    check_names(settings, PREPARATION, f"key of preprocess_cfg in {path}")
    for key in ("mean", "std"):
        if not is_colour(settings.get(key)):
            raise UserError(
                f"{path} has preprocess_cfg.{key}={settings.get(key)!r}: add the list of three numbers that the CLIP "
                "was trained with, for models differ in it"
            )
    size = settings.get("size")
    if size is not None and single(path, "preprocess_cfg.size", size) != resolution:
        raise UserError(
            f"{path} has preprocess_cfg.size={size!r}, but its image tower takes {resolution}: fix the file"
        )
    if settings.get("mode", "RGB") != "RGB":
        raise UserError(f"{path} has preprocess_cfg.mode={settings['mode']!r}: use a CLIP with 'RGB'")
    interpolation = settings.get("interpolation") or "bicubic"
    resize = settings.get("resize_mode") or "shortest"
    # "random" is one of the training; the package itself evaluates such a model with bicubic interpolation.
    interpolation = "bicubic" if interpolation == "random" else interpolation
    if resize == "longest":
        raise UserError(f"{path} has resize_mode='longest', which pads images: use a CLIP with 'shortest' or 'squash'")
    return {"mean": settings["mean"], "deviation": settings["std"], "interpolation": interpolation, "resize": resize}


def read_tokenizer(path: Path, text: Mapping[str, Any], separator: str) -> dict[str, Any]:
    """Returns how captions are prepared, as attributes of a description.

    Raises:
        UserError: an option of the tokenizer is not implemented.
    """
    options = text.get("tokenizer_kwargs") or {}
    check_names(options, ("clean", "strip_sep_token"), f"key of tokenizer_kwargs in {path}")
    if not text.get("hf_tokenizer_name"):
        return {"clean": options.get("clean", "lower")}
    stripped = bool(options.get("strip_sep_token", False))
    if stripped and not separator:
        raise UserError(
            f"{path} removes the separator token, and tokenizer_config.json beside it names none: add sep_token there"
        )
    return {"clean": options.get("clean", DEFAULT_CLEAN), "stripped_token": separator if stripped else ""}


def write_open_clip_config(description: Description) -> dict[str, Any]:
    """Returns the contents of ``open_clip_config.json``; the inverse of ``read_open_clip_config``.

    Raises:
        UserError: open_clip has no such towers, or would need a tokenizer that the description does not name.
    """
    image, text = description.image, description.text
    if text["name"] != "transformer" or image["name"] not in ("vision_transformer", "resnet"):
        raise UserError(
            f"open_clip has no tower {text['name']!r} or {image['name']!r}: export with --format=imagen_jax"
        )
    if image.get("noise_conditioned"):
        raise UserError("open_clip has no tower of noisy images: export with --format=imagen_jax")
    if image.get("activation", text["activation"]) != text["activation"]:
        raise UserError("in open_clip both towers have the same activation: export with --format=imagen_jax")
    if image.get("norm", "frozen_batch") != "frozen_batch":
        raise UserError("open_clip has no group normalisation: export with --format=imagen_jax")
    if description.clean != "lower" or description.stripped_token or text["pool"] not in ("end", "first", "last"):
        raise UserError("its tokenizer is not CLIP's, and open_clip needs its name: export with --format=imagen_jax")
    model = {
        "embed_dim": description.embedding,
        "quick_gelu": text["activation"] == "quick_gelu",
        "vision_cfg": write_image_tower(image),
        "text_cfg": write_text_tower(text),
    }
    if description.logit_bias:
        model["init_logit_bias"] = INIT_LOGIT_BIAS
    preparation = {
        "mean": list(description.mean),
        "std": list(description.deviation),
        "interpolation": description.interpolation,
        "resize_mode": description.resize,
    }
    return {"model_cfg": model, "preprocess_cfg": preparation}


def write_image_tower(image: Mapping[str, Any]) -> dict[str, Any]:
    """Returns ``vision_cfg``."""
    sizes = {"image_size": image["resolution"], "layers": image["layers"], "width": image["width"]}
    if image["name"] == "resnet":
        return {**sizes, "head_width": 8 * EXPANSION * image["width"] // image["heads"], "patch_size": None}
    tower = {
        **sizes,
        "head_width": image["width"] // image["heads"],
        "mlp_ratio": find_ratio(image["width"], image["hidden"]),
        "patch_size": image["patch"],
    }
    if image["pool"] == "mean":
        tower |= {"pool_type": "avg", "final_ln_after_pool": True}
    return tower if image["first_norm"] else {**tower, "no_ln_pre": True}


def write_text_tower(text: Mapping[str, Any]) -> dict[str, Any]:
    """Returns ``text_cfg``."""
    tower = {
        "context_length": text["context"],
        "vocab_size": text["vocabulary"],
        "width": text["width"],
        "heads": text["heads"],
        "layers": text["layers"],
        "mlp_ratio": find_ratio(text["width"], text["hidden"]),
    }
    if text["pool"] != "end":
        tower["pool_type"] = text["pool"]
    elif text["end"] != text["vocabulary"] - 1:
        tower |= {"pool_type": "eos", "eos_id": text["end"]}
    if not text["causal"]:
        tower["no_causal_mask"] = True
    return {**tower, "proj_bias": True} if text["projection_bias"] else tower


def find_ratio(width: int, hidden: int) -> float:
    """Returns the ``mlp_ratio`` from which open_clip computes ``hidden``, by rounding down."""
    ratio = hidden / width
    return ratio if int(width * ratio) == hidden else (hidden + 0.5) / width
