"""Reads and writes the config of a CLIP in a folder of Hugging Face's transformers.

config.json, preprocessor_config.json <-> description
"""

from collections.abc import Mapping
from typing import Any

from imagen_jax.clip.description import Description, is_colour, make_description
from imagen_jax.errors import UserError
from imagen_jax.storage.paths import Path
from imagen_jax.weights.json_settings import COUNT, FLAG, Kind, check_kinds, read_settings

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
ARCHITECTURE = {"layer_norm_eps": 1e-5, "num_channels": 3}
"""The values of settings of both towers that ``transformer`` requires; it implements no other values."""

ACTIVATIONS = {"quick_gelu": "quick_gelu", "gelu": "gelu"}
DEFAULT_ACTIVATION = "quick_gelu"

WRONG_END = 2
"""The ``eos_token_id`` that transformers wrote until 4.31. It means the last token of the vocabulary."""

RESAMPLINGS = {2: "bilinear", 3: "bicubic"}
"""Pillow's numbers of interpolations, which ``preprocessor_config.json`` contains."""

PREPROCESSOR_KINDS = {
    "image_mean": Kind("a list of three numbers", is_colour),
    "image_std": Kind("a list of three positive numbers", lambda value: is_colour(value) and min(value) > 0),
    "do_resize": FLAG,
    "do_center_crop": FLAG,
    "do_normalize": FLAG,
    "do_rescale": FLAG,
}


def read_config(path: Path) -> Description:
    """Returns the description in the ``config.json`` of a folder, and in ``preprocessor_config.json`` if it exists.

    Without the second file, images are prepared as for OpenAI's models, which is the default of transformers.

    Raises:
        UserError: a file is missing or damaged, or describes another network.
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
    beside = path.parent / "preprocessor_config.json"
    preparation = read_preparation(beside, image["image_size"]) if beside.is_file() else {}
    return make_description(
        {
            "name": "vision_transformer",
            "resolution": image["image_size"],
            "patch": image["patch_size"],
            **transformer_fields(image),
        },
        {
            "name": "transformer",
            "vocabulary": text["vocab_size"],
            "context": text["max_position_embeddings"],
            "end": text["vocab_size"] - 1 if end == WRONG_END else end,
            **transformer_fields(text),
        },
        settings.get("projection_dim", 512),
        **preparation,
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
    activation = tower.setdefault("hidden_act", DEFAULT_ACTIVATION)
    if not isinstance(activation, str) or activation not in ACTIVATIONS:
        raise UserError(f"{path} has hidden_act={activation!r}: use a CLIP with hidden_act='quick_gelu' or 'gelu'")
    if tower["hidden_size"] % tower["num_attention_heads"]:
        raise UserError(f"{path} has heads that do not divide {key}.hidden_size={tower['hidden_size']}: fix the file")
    return tower


def transformer_fields(tower: Mapping[str, Any]) -> dict[str, Any]:
    """Selects the fields of a transformer from the settings of a tower."""
    return {
        "width": tower["hidden_size"],
        "layers": tower["num_hidden_layers"],
        "heads": tower["num_attention_heads"],
        "hidden": tower["intermediate_size"],
        "activation": ACTIVATIONS[tower["hidden_act"]],
    }


def read_preparation(path: Path, resolution: int) -> dict[str, Any]:
    """Returns how ``preprocessor_config.json`` prepares images, as attributes of a description.

    Raises:
        UserError: the file is damaged, or has a preparation that is not implemented.
    """
    settings = read_settings(path)
    check_kinds(path, settings, PREPROCESSOR_KINDS)
    for name in ("do_resize", "do_normalize", "do_rescale"):
        if settings.get(name, True) is not True:
            raise UserError(f"{path} has {name}=false: use a CLIP whose images are resized and normalised")
    size, crop = settings.get("size", resolution), settings.get("crop_size", resolution)
    whole = {"height": resolution, "width": resolution}
    if settings.get("do_center_crop", True) and size in (resolution, {"shortest_edge": resolution}):
        resize = "shortest"
    elif size == whole:
        resize = "squash"
    else:
        raise UserError(f"{path} has size={size!r}: use a CLIP whose images get {resolution} pixels, as its tower")
    if settings.get("do_center_crop", True) and crop not in (resolution, whole):
        raise UserError(f"{path} has crop_size={crop!r}: use a CLIP whose images get {resolution} pixels, as its tower")
    resample = settings.get("resample", 3)
    if not isinstance(resample, int) or resample not in RESAMPLINGS:
        raise UserError(f"{path} has resample={resample!r}: use a CLIP with 3 (bicubic) or 2 (bilinear)")
    found: dict[str, Any] = {"resize": resize, "interpolation": RESAMPLINGS[resample]}
    if "image_mean" in settings:
        found["mean"] = settings["image_mean"]
    if "image_std" in settings:
        found["deviation"] = settings["image_std"]
    return found


def write_configs(description: Description) -> dict[str, dict[str, Any]]:
    """Returns the contents of the JSON files of a folder by name; the inverse of ``read_config``.

    Raises:
        UserError: the CLIP of transformers has no such towers.
    """
    check_exportable(description)
    image, text = description.image, description.text
    whole = {"height": image["resolution"], "width": image["resolution"]}
    squash = description.resize == "squash"
    config = {
        "architectures": ["CLIPModel"],
        "model_type": "clip",
        "projection_dim": description.embedding,
        "vision_config": {
            "model_type": "clip_vision_model",
            "image_size": image["resolution"],
            "patch_size": image["patch"],
            "projection_dim": description.embedding,
            **write_transformer(image),
        },
        "text_config": write_text_config(description),
    }
    preparation = {
        "image_processor_type": "CLIPImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": whole if squash else {"shortest_edge": image["resolution"]},
        "resample": {name: number for number, name in RESAMPLINGS.items()}[description.interpolation],
        "do_center_crop": not squash,
        "crop_size": whole,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(description.mean),
        "image_std": list(description.deviation),
    }
    tokenizer = {"tokenizer_class": "CLIPTokenizer", "model_max_length": text["context"]}
    return {"preprocessor_config.json": preparation, "tokenizer_config.json": tokenizer, "config.json": config}


def write_text_config(description: Description) -> dict[str, Any]:
    """Returns the settings of the text tower, a transformer that ends at its end token."""
    text = description.text
    return {
        "model_type": "clip_text_model",
        "vocab_size": text["vocabulary"],
        "max_position_embeddings": text["context"],
        "projection_dim": description.embedding,
        "bos_token_id": max(text["end"] - 1, 0),
        "eos_token_id": text["end"],
        "pad_token_id": text["end"],
        **write_transformer(text),
    }


def write_transformer(tower: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the settings of a tower; the inverse of ``transformer_fields``."""
    return {
        "hidden_size": tower["width"],
        "num_hidden_layers": tower["layers"],
        "num_attention_heads": tower["heads"],
        "intermediate_size": tower["hidden"],
        "hidden_act": tower["activation"],
        "layer_norm_eps": ARCHITECTURE["layer_norm_eps"],
    }


def check_exportable(description: Description) -> None:
    """Checks that the CLIP of transformers has these towers.

    Raises:
        UserError: it has not. The message says what it lacks.
    """
    needed = {
        "image.name": (description.image["name"], "vision_transformer"),
        "image.pool": (description.image.get("pool"), "class_token"),
        "image.first_norm": (description.image.get("first_norm"), True),
        "text.name": (description.text["name"], "transformer"),
        "text.pool": (description.text.get("pool"), "end"),
        "text.causal": (description.text.get("causal"), True),
        "text.projection_bias": (description.text.get("projection_bias"), False),
        "logit_bias": (description.logit_bias, False),
        "clean": (description.clean, "lower"),
        "stripped_token": (description.stripped_token, ""),
    }
    for name, (found, wanted) in needed.items():
        if found != wanted:
            raise UserError(
                f"the CLIP of transformers has {name}={wanted!r}, and this one has {found!r}: export it with "
                "--format=imagen_jax"
            )
    if description.text["end"] == WRONG_END:
        raise UserError(
            f"transformers takes the end token {WRONG_END} for the last of the vocabulary: export with "
            "--format=imagen_jax"
        )
