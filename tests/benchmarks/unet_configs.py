"""The two super-resolution networks that ``unet_efficiency`` compares, and all else that is the same for both.

Both are Imagen's 64→256 stage (``configs/imagen/super_res_256.py``) on OpenMoji, small enough for two CPU cores:

    efficient   appendix F's network at 3/16 of its width and half its blocks: most of both at low resolutions
    adm         ADM's 64→256 network (Dhariwal & Nichol 2021, their ``64_256_upsampler``) at 3/16 of its width of 192:
                multipliers 1, 1, 2, 2, 4, 4, two blocks a level, four heads; blocks spread evenly over the resolutions

The Efficient U-Net's embedding is as wide as ADM's, with which the parameters are equal to a thousandth. ADM has no
attention at 32, 16 and 8 px but that in its middle, for it looks for its places by their resolution, which a crop has
less of; so its sampling is a little cheaper here than with them, and both networks attend at their lowest resolution.
"""

from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from configs import openmoji
from tests.end_to_end.smoke_runs import draw_own_images

NAMES = ("efficient", "adm")

TITLES = {"efficient": "Efficient U-Net", "adm": "ADM U-Net"}

SHARED: dict[str, Any] = {"text_heads": 8, "text_channels": None, "dropout": 0.0, "remat": "none", "dtype": "float32"}

NETWORKS: dict[str, dict[str, Any]] = {
    "efficient": {
        "name": "efficient_unet",
        "channels": (24, 48, 96, 192),
        "blocks": (1, 2, 4, 4),
        "strides": (2, 2, 2, 2),
        "self_attention": (False, False, False, True),
        "cross_attention": (False, False, False, False),
        "heads": 8,
        "embedding_width": 144,
        **SHARED,
    },
    "adm": {
        "name": "unet",
        "channels": 36,
        "channel_multipliers": (1, 1, 2, 2, 4, 4),
        "blocks_per_level": 2,
        "attention_resolutions": (),
        "head_channels": 36,
        **SHARED,
    },
}

TINY: dict[str, dict[str, Any]] = {
    "efficient": {"channels": (8, 16), "blocks": (1, 1), "strides": (2, 2), "self_attention": (False, True),
                  "cross_attention": (False, False), "heads": 2, "text_heads": 2, "embedding_width": 32},
    "adm": {"channels": 8, "channel_multipliers": (1, 2), "blocks_per_level": 1, "head_channels": 8, "text_heads": 2},
}  # fmt: skip
"""What differs in the tiny size, which only shows that all parts run."""

HELD_OUT_IMAGES = 192
"""Crops of held-out images: each image about twice."""

STEPS = 1_000_000
"""Of a training that is never to end by itself, and whose learning rate hardly falls."""


def make_config(name: str, data_dir: str, tiny: bool = False) -> ConfigDict:
    """The config of one of the networks.

    Args:
        name: one of ``NAMES``.
        data_dir: where the images are drawn to.
        tiny: a size that trains in seconds, on a few shapes.
    """
    config = openmoji.get_config("super_res_256")
    config.network = ConfigDict(NETWORKS[name] | (TINY[name] if tiny else {}))
    config.data.update({"resolution": 256, "data_dir": data_dir, "cache": False})
    config.stage.crop = 128
    config.training.update(
        {
            "steps": STEPS,
            "batch_size": 4,
            "stratified_times": True,  # of four independent times most of the loss's noise would come
            "log_every": 20,
            "checkpoint_every": STEPS,
            "preview_every": STEPS,
        }
    )
    config.optimizer.update({"learning_rate": 5e-4, "warm_up_steps": 50, "decay_steps": STEPS})
    # What bounds the estimate is the same for both, and not what is measured.
    config.sampling.update({"guidance": 1.0, "thresholding": "static"})
    if tiny:
        config.data.update({"source": "folder", "resolution": 32, "validation_fraction": 0.4})
        config.data.options = ConfigDict({"folder": str(draw_shapes(Path(data_dir) / "images"))})
        config.stage.update({"resolution": 32, "low_resolution": 8, "crop": 16})
        config.training.update({"batch_size": 8, "log_every": 1})
    return config


def draw_shapes(folder: Path) -> Path:
    """Draws the images of the tiny size."""
    folder.mkdir(parents=True, exist_ok=True)
    return draw_own_images(folder)
