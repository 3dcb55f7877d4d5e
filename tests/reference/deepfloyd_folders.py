"""Writes a small DeepFloyd IF cascade with seeded weights in the layout of diffusers' folders."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

from safetensors.numpy import save_file

from tests.reference.deepfloyd_models import SETTINGS, make_tensors
from tests.reference.t5_folders import write_t5_folder

SIZES = {"stage_1": 16, "stage_2": 64}

SCHEDULER = {
    "_class_name": "DDPMScheduler",
    "beta_end": 0.02,
    "beta_schedule": "squaredcos_cap_v2",
    "beta_start": 0.0001,
    "clip_sample": True,
    "clip_sample_range": 1.0,
    "dynamic_thresholding_ratio": 0.95,
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
    "sample_max_value": 1.5,
    "thresholding": True,
    "trained_betas": None,
    "variance_type": "learned_range",
}
NOISING = SCHEDULER | {"thresholding": False, "sample_max_value": 1.0, "variance_type": "fixed_small"}

Shapes = Mapping[str, tuple[int, ...]]


def write_json(path: Path, settings: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(settings, indent=2))


def settings_of(name: str) -> dict:
    """The ``config.json`` of a stage's U-Net."""
    return SETTINGS[name] | {"sample_size": SIZES[name], "_diffusers_version": "0.42.1", "norm_num_groups": 32}


def write_stage(folder: Path, name: str, shapes: Shapes) -> Path:
    """Writes one stage with all that comes with it, and returns ``folder``.

    Args:
        folder: made.
        name: "stage_1" or "stage_2".
        shapes: of the U-Net's tensors, by diffusers' names.
    """
    write_json(folder / "unet" / "config.json", settings_of(name))
    save_file(make_tensors(shapes), folder / "unet" / "diffusion_pytorch_model.safetensors", metadata={"format": "pt"})
    bound = 1.5 if name == "stage_1" else 1.0
    write_json(folder / "scheduler" / "scheduler_config.json", SCHEDULER | {"sample_max_value": bound})
    if name == "stage_2":
        write_json(folder / "image_noising_scheduler" / "scheduler_config.json", NOISING)
    write_t5_folder(folder / "text_encoder")
    (folder / "tokenizer").mkdir()
    shutil.move(folder / "text_encoder" / "spiece.model", folder / "tokenizer" / "spiece.model")
    return folder
