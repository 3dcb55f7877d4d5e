"""A CLIP of OpenMoji drawings and their names, on two CPU cores.

Command:   imagen-jax train --config=configs/emoji_clip.py:frozen --workdir=runs/emoji_clip
           the same with :scratch and a workdir of its own; --config.data.source=emoji_fonts adds two more fonts
Hardware:  two CPU cores.
Result:    frozen: docs/clip.md has the numbers, with their standard errors. scratch: not yet run beyond the smoke size.
Variants:  frozen (default): a linear head for each tower, on features of EfficientNet-Lite0 and of MiniLM;
           scratch: a small vision transformer and a small text transformer, from random numbers;
           with ",smoke" a size that trains in seconds, for the tests.

A fifth of the concepts is held out. The numbers of held-out pairs count: a CLIP of so few pairs knows its own by heart.
"""

from ml_collections import ConfigDict

from .base import clip_base
from .quickstart import read_variant


def get_config(variant: str = "frozen") -> ConfigDict:
    """The config of one variant.

    Raises:
        ValueError: an unknown variant.
    """
    name, smoke = read_variant(variant, VARIANTS)
    config = VARIANTS[name]()
    return shrink(config) if smoke else config


def common() -> ConfigDict:
    """What both variants share."""
    config = clip_base()
    config.data.update({"source": "openmoji", "validation_fraction": 0.2, "cache": True, "mirror": True})
    config.clip.update({"embedding": 256, "classes": "openmoji_groups", "templates": "emoji"})
    config.optimizer.update({"name": "adamw", "b2": 0.98, "epsilon": 1e-6, "weight_decay": 0.2})
    return config


def frozen() -> ConfigDict:
    """Heads on the features of frozen networks."""
    config = common()
    config.data.resolution = 224
    config.image_tower = ConfigDict(
        {"name": "frozen_features", "network": "efficientnet_lite0", "features": 1280, "hidden": 0, "dropout": 0.5}
    )
    config.text_tower = ConfigDict(
        {"name": "frozen_features", "network": "minilm", "features": 384, "hidden": 0, "dropout": 0.2}
    )
    config.training.update(
        {
            "steps": 200,
            "batch_size": 512,
            "ema_decay": 0.98,
            "log_every": 20,
            "checkpoint_every": 100,
            "keep_checkpoints": 2,
            "evaluate_every": 50,
        }
    )
    config.optimizer.update({"learning_rate": 1e-3, "warm_up_steps": 20, "decay_steps": 200})
    return config


def scratch() -> ConfigDict:
    """Both towers from random numbers."""
    config = common()
    config.data.resolution = 64
    config.image_tower = ConfigDict(
        {
            "name": "vision_transformer",
            "resolution": 64,
            "patch": 8,
            "width": 192,
            "layers": 6,
            "heads": 3,
            "hidden": 768,
            "patch_dropout": 0.25,
            "activation": "gelu",
            "noise_conditioned": False,
        }
    )
    config.text_tower = ConfigDict(
        {
            "name": "transformer",
            "vocabulary": 1024,
            "context": 24,
            "width": 192,
            "layers": 4,
            "heads": 3,
            "hidden": 768,
            "end": 1023,
        }
    )
    config.training.update(
        {
            "steps": 1200,
            "batch_size": 256,
            "ema_decay": 0.995,
            "log_every": 20,
            "checkpoint_every": 200,
            "keep_checkpoints": 2,
            "evaluate_every": 100,
        }
    )
    config.optimizer.update({"learning_rate": 5e-4, "warm_up_steps": 50, "decay_steps": 1200})
    return config


VARIANTS = {"frozen": frozen, "scratch": scratch}


def shrink(config: ConfigDict) -> ConfigDict:
    """The smoke size of a variant."""
    config.clip.update({"embedding": 8, "held_out": 16, "classes": ""})
    config.data.resolution = 16
    if config.image_tower.name == "vision_transformer":
        config.image_tower.update({"resolution": 16, "width": 16, "layers": 1, "heads": 2, "hidden": 32})
        config.text_tower.update(
            {"width": 16, "layers": 1, "heads": 2, "hidden": 32, "vocabulary": 300, "end": 299, "context": 8}
        )
    config.training.update({"steps": 4, "batch_size": 8, "log_every": 1, "checkpoint_every": 2, "evaluate_every": 2})
    config.optimizer.update({"warm_up_steps": 1, "decay_steps": 5})
    return config
