"""Imports and exports stages of DeepFloyd IF, an open model similar to Imagen, in the folder layout of diffusers.

    FOLDER/unet/{config.json, diffusion_pytorch_model.safetensors} -> network and its parameters
    FOLDER/scheduler/, FOLDER/image_noising_scheduler/             -> schedules, thresholding
    FOLDER/text_encoder/, FOLDER/tokenizer/                        -> the text encoder's options

IF differs from Imagen in these config keys:

- ``stage.noise_conditioning``: the network is conditioned on the number of one of 1000 discrete steps.
- ``stage.schedule``: the steps are those of a cosine schedule (``discrete_cosine``).
- ``network.out_channels``: 6, because the network learns the variance.
- ``stage.enlarge_before_noise``: the low-resolution image of stage II is enlarged before noise is added.
- ``text.options.encode_padding``: all 77 tokens of a caption are used, including padding.
- ``text.null``: the null prompt is the empty caption.
- ``sampling.max_threshold``: dynamic thresholding has a max threshold.
"""

from collections.abc import Mapping
from typing import Any

from imagen_jax.cascade.checkpoint_export import NO_CHOICES, ImportChoices, name_params, write_files
from imagen_jax.cascade.experiment import ModelConfig, read_model
from imagen_jax.cascade.loading import TrainedStage
from imagen_jax.cascade.stage import abstract_params, build_stage
from imagen_jax.encoders.t5_files import find_tokenizer
from imagen_jax.errors import UserError, nearest_name
from imagen_jax.models.deepfloyd_unet import DeepFloydUNet
from imagen_jax.storage.paths import Path, absolute
from imagen_jax.weight_formats.deepfloyd_tensors import (
    export_deepfloyd_weights,
    import_deepfloyd_weights,
    read_network,
    write_settings,
)
from imagen_jax.weights.checksums import check_checksums
from imagen_jax.weights.json_settings import FLAG, POSITIVE, SHARE, TEXT, check_kinds, read_settings
from imagen_jax.weights.named_tensors import flatten_shapes
from imagen_jax.weights.safetensors_folder import SafetensorsFolder

LICENCE_NOTICE = """\
These are weights of DeepFloyd IF. They are not ours and do not come under this project's licence:
  DeepFloyd is licensed under the DeepFloyd License, Copyright (c) Stability AI Ltd. All Rights Reserved.
  It allows non-commercial research only. It also covers the output of the weights and all derivatives.
  If you pass them on, converted or not, pass on that licence and the line above too (read LICENSE-MODEL of IF).
"""

TOKENS = 77
"""Number of tokens to which IF's training padded captions."""

SCALE = 4
"""Upscaling factor of stages II and III."""

GUIDANCE = {"stage I": 7.0, "stage II": 4.0}
STEPS = {"stage I": 100, "stage II": 50}
"""Guidance weights and numbers of steps by stage: the defaults of IF's own pipelines."""

AUGMENTATION_STEP = 250
"""The step whose noise level stage II's condition gets in sampling: IF's default, about a quarter of 1000 steps."""

BETA_SCHEDULES = {"squaredcos_cap_v2": "discrete_cosine", "linear": "linear"}

SCHEDULER = {
    "_class_name": "DDPMScheduler",
    "clip_sample_range": 1.0,
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
    "rescale_betas_zero_snr": False,
    "steps_offset": 0,
    "timestep_spacing": "leading",
    "trained_betas": None,
    "variance_type": "learned_range",
}
"""Values that keys of an IF scheduler must have where present.

``variance_type`` must be present in ``scheduler/`` and is ignored in ``image_noising_scheduler/``.
"""

SCHEDULER_KINDS = {
    "beta_end": POSITIVE,
    "beta_schedule": TEXT,
    "beta_start": POSITIVE,
    "clip_sample": FLAG,
    "dynamic_thresholding_ratio": SHARE,
    "sample_max_value": POSITIVE,
    "thresholding": FLAG,
}
"""The keys that differ between IF's schedulers, and the valid kinds of their values."""

RELEASED: dict[str, Any] = {
    "beta_schedule": "squaredcos_cap_v2",
    "dynamic_thresholding_ratio": 0.95,
    "thresholding": True,
}
"""The scheduler settings of IF's release, for a U-Net's folder without a scheduler beside it."""

MAX_THRESHOLD = {"stage I": 1.5, "stage II": 1.0}


def read_config(source: Path, choices: ImportChoices = NO_CHOICES) -> ModelConfig:
    """Returns the config of the stage in a folder: the sections that sampling reads.

    Args:
        source: the folder of a pipeline or of its U-Net.
        choices: options that the folder of weights does not determine.

    Raises:
        UserError: a file is missing, has values that IF does not have, or differs from its checksum.
    """
    check_checksums(find_unet(source))
    path = find_unet(source) / "config.json"
    settings = read_settings(path)
    network = read_network(settings, path)
    stage = "stage I" if settings["in_channels"] == 3 else "stage II"
    beside = find_unet(source).parent
    scheduler = read_scheduler(beside / "scheduler", RELEASED | {"sample_max_value": MAX_THRESHOLD[stage]})
    noising = read_noising_schedule(beside / "image_noising_scheduler")
    size = settings["sample_size"]
    return read_model(
        {
            "seed": 0,
            "text": {
                "encoder": "t5",
                "options": {
                    **find_text_encoder(source, choices.text_encoder),
                    "max_tokens": TOKENS,
                    "dtype": choices.text_dtype or "bfloat16",
                    "encode_padding": True,
                    "lowercase": True,
                },
                "width": settings["encoder_hid_dim"],
                "length": TOKENS,
                "null": "empty_caption",
            },
            "stage": {
                "resolution": size,
                "low_resolution": None if stage == "stage I" else size // SCALE,
                "schedule": BETA_SCHEDULES[scheduler.get("beta_schedule", "linear")],
                "augmentation_schedule": noising,
                "enlarge_before_noise": "corners",
                "noise_conditioning": "timestep",
                "prediction": "eps",
            },
            "network": network | {"dtype": choices.dtype or "float32"},
            "sampling": {
                "sampler": "ancestral",
                "steps": STEPS[stage],
                "spacing": "discrete",
                "guidance": GUIDANCE[stage],
                "augmentation_level": 0.0 if stage == "stage I" else (AUGMENTATION_STEP + 1) / 1000,
                **read_thresholding(scheduler),
            },
        }
    )


def find_unet(source: Path) -> Path:
    """Returns the folder of the U-Net in that of a pipeline; ``source`` itself if it has no folder ``unet``."""
    return source / "unet" if (source / "unet").is_dir() else source


def find_text_encoder(source: Path, text_encoder: Path | None) -> dict[str, str]:
    """Returns the encoder options ``folder`` and ``tokenizer`` with the absolute paths of T5 and its tokenizer.

    Raises:
        UserError: T5 is neither beside the U-Net nor in ``text_encoder``, or the tokenizer is missing.
    """
    folder = text_encoder or find_unet(source).parent / "text_encoder"
    if not folder.is_dir():
        raise UserError(
            f"{folder} is missing: pass the folder of T5 with --text_encoder, for example the one of IF's stage I"
        )
    tokenizer = find_tokenizer(folder, "")
    if not tokenizer.is_file():
        raise UserError(
            f"{tokenizer} is missing: download the tokenizer into that folder, or into tokenizer/ beside it"
        )
    return {"folder": str(absolute(folder)), "tokenizer": str(absolute(tokenizer))}


def read_scheduler(folder: Path, released: Mapping[str, Any]) -> Mapping[str, Any]:
    """Reads a scheduler's settings; returns ``released`` if there is no such folder.

    Raises:
        UserError: the scheduler's diffusion process is not that of IF.
    """
    if not folder.is_dir():
        return released
    path = folder / "scheduler_config.json"
    settings = read_settings(path)
    check_process(path, {"variance_type": "fixed_small"} | settings)
    return settings


def read_noising_schedule(folder: Path) -> str:
    """Returns the name of the noise schedule of stage II's condition; the cosine one if there is no such folder.

    Raises:
        UserError: the scheduler's diffusion process is not that of IF.
    """
    if not folder.is_dir():
        return BETA_SCHEDULES["squaredcos_cap_v2"]
    path = folder / "scheduler_config.json"
    settings = read_settings(path)
    check_process(path, settings | {"variance_type": SCHEDULER["variance_type"]})
    return BETA_SCHEDULES[settings.get("beta_schedule", "linear")]


def check_process(path: Path, settings: Mapping[str, Any]) -> None:
    """Checks that a scheduler's settings are those of IF's diffusion process.

    Raises:
        UserError: they are not; names the key.
    """
    for key in settings:
        if not key.startswith("_") and key not in SCHEDULER_KINDS.keys() | SCHEDULER.keys():
            raise UserError(
                f"{path} has the key {key!r}, which the schedulers of DeepFloyd IF do not have"
                f"{nearest_name(key, SCHEDULER_KINDS.keys() | SCHEDULER.keys())}: fix the file"
            )
    check_kinds(path, settings, SCHEDULER_KINDS)
    for key, expected in SCHEDULER.items():
        if settings.get(key, expected) != expected:
            raise UserError(f"{path} has {key}={settings[key]!r}, but DeepFloyd IF has {expected!r}: fix the file")
    betas = settings.get("beta_schedule", "linear")
    bounds = (settings.get("beta_start", 1e-4), settings.get("beta_end", 0.02))
    if betas not in BETA_SCHEDULES or (betas == "linear" and bounds != (1e-4, 0.02)):
        raise UserError(
            f"{path} has beta_schedule={betas!r} from {bounds[0]} to {bounds[1]}: choose one of "
            f"{', '.join(sorted(BETA_SCHEDULES))}, the linear one from 0.0001 to 0.02"
        )


def read_thresholding(scheduler: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the thresholding keys of ``config.sampling``."""
    dynamic = {
        "percentile": 100.0 * scheduler.get("dynamic_thresholding_ratio", 0.995),
        "max_threshold": float(scheduler.get("sample_max_value", 1.0)),
    }
    if scheduler.get("thresholding", False):
        return {"thresholding": "dynamic", **dynamic}
    return {"thresholding": "static" if scheduler.get("clip_sample", True) else "none", **dynamic}


def read_params(source: Path, config: ModelConfig) -> dict:
    """Reads the U-Net's parameters, a nested dict of float32 arrays.

    Raises:
        UserError: the file is damaged, a pickle, or does not match ``config.json``; names file and tensor.
    """
    shapes = flatten_shapes(abstract_params(build_stage(config)))
    return import_deepfloyd_weights(
        SafetensorsFolder(find_unet(source)), shapes, len(config.network.fields["channels"])
    )


def check_network(network: Any, name: str) -> None:
    """Checks that diffusers implements a stage's network, so that it can be exported.

    Args:
        network: the stage's network.
        name: name of the stage in error messages.

    Raises:
        UserError: the network is not a ``DeepFloydUNet``.
    """
    if not isinstance(network, DeepFloydUNet):
        raise UserError(f"diffusers does not implement the network of {name}: export it with --format=imagen_jax")


def write(trained: TrainedStage, folder: Path, dtype: str = "float32") -> None:
    """Exports the U-Net as a folder that diffusers can load.

    Args:
        trained: the stage.
        folder: the output folder, created if missing.
        dtype: dtype of the stored parameters, "float32" or "bfloat16".

    Raises:
        UserError: the network is not a ``DeepFloydUNet``, the dtype is unknown, or the folder can't be written to.
    """
    stage = trained.stage
    check_network(stage.network, trained.name)
    assert isinstance(stage.network, DeepFloydUNet)
    settings = write_settings(stage.network, stage.resolution, stage.text_width, stage.low_resolution is None)
    tensors = export_deepfloyd_weights(name_params(trained.params), len(stage.network.channels))
    write_files(folder, settings, tensors, dtype, "diffusion_pytorch_model.safetensors")
