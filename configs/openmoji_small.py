"""The cascade in the box (``imagen_jax/pretrained/openmoji``): a 64-px base and super-resolution to 256 px.

Command:   imagen-jax train --config=configs/openmoji_small.py:base --workdir=runs/openmoji_small/base
               --config.network.dtype=bfloat16
           the same with :super_resolution and a workdir of its own.
Hardware:  one H100: 140 s for the base and 62 s for super-resolution, and 100 s and 60 s before that to compile.
Result:    the model card, imagen_jax/pretrained/openmoji/README.md, has pictures and numbers.
Variants:  base, super_resolution; with ",smoke" a size that trains in seconds, for the tests.

The quickstart's recipe at four times its resolution: networks that work on blocks of pixels, predict the clean image
and begin by returning what they are given; Muon. Both together have 12.2M parameters, 24.4 MB in bfloat16. One set of
256-px drawings serves both stages.
"""

from ml_collections import ConfigDict

from . import quickstart


def get_config(variant: str = "base") -> ConfigDict:
    """The config of one variant.

    Raises:
        ValueError: an unknown variant.
    """
    name, smoke = quickstart.read_variant(variant, STAGES)
    config = STAGES[name]()
    return quickstart.shrink(config) if smoke else config


def common() -> ConfigDict:
    """What both stages share."""
    config = quickstart.common()
    config.data.resolution = 256
    config.training.update(
        {
            "batch_size": 256,
            "ema_decay": 0.999,
            "time_exponent": 1.5,
            "log_every": 50,
            "checkpoint_every": 1000,
            "preview_every": 1000,
        }
    )
    config.optimizer.warm_up_steps = 200
    return config


def base() -> ConfigDict:
    """The 64-px base."""
    config = common()
    config.stage.resolution = 64
    config.network = ConfigDict(
        {
            "name": "efficient_unet",
            "channels": (96, 144, 176),
            "blocks": (1, 2, 2),
            "strides": (1, 2, 2),
            "self_attention": (False, True, True),
            "cross_attention": (False, False, False),
            "heads": 4,
            "text_heads": 8,
            "embedding_width": 384,
            "patch": 2,
            "input_gates": True,
            "dropout": 0.0,
            "remat": "none",  # what is computed again for the gradient, see models/remat.py
            "dtype": "float32",
        }
    )
    config.training.steps = config.optimizer.decay_steps = 3100
    config.sampling.update({"steps": 16, "guidance": 1.5})
    return config


def super_resolution() -> ConfigDict:
    """The 64→256-px super-resolution stage, trained on 64-px crops."""
    config = common()
    config.stage.update({"resolution": 256, "low_resolution": 64, "crop": 64})
    config.network = ConfigDict(
        {
            "name": "efficient_unet",
            "channels": (32, 64, 128),
            "blocks": (2, 1, 1),
            "strides": (1, 2, 2),
            "self_attention": (False, False, False),
            "cross_attention": (False, False, False),
            "heads": 4,
            "text_heads": 8,
            "embedding_width": 128,
            "patch": 2,
            "input_gates": True,
            "dropout": 0.0,
            "remat": "none",  # what is computed again for the gradient, see models/remat.py
            "dtype": "float32",
        }
    )
    config.training.steps = config.optimizer.decay_steps = 1400
    config.sampling.update({"guidance": 1.0, "steps": 2, "augmentation_level": 0.1})
    return config


STAGES = {"base": base, "super_resolution": super_resolution}
