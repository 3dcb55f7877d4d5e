"""OpenMoji in under 25 minutes on two CPU cores: a 32-px base and a super-resolution stage to 64 px.

Command:   bash launch/quickstart.sh, or
           imagen-jax train --config=configs/quickstart.py:base --workdir=runs/base
           imagen-jax train --config=configs/quickstart.py:super_resolution --workdir=runs/super_resolution
Hardware:  two CPU cores. Base: 1000 steps of 64, 17 minutes; super-resolution: 700 steps of 32, 3 minutes.
Result:    caption recall@10 in EfficientNet-Lite0 features: base alone 0.55, both 0.32 (launch/reports/quickstart).
Variants:  base, super_resolution; with ",smoke" a size that trains in seconds, for the tests.

Where it leaves the paper, and what that brought on the base (recall@10 of pixels after 5 to 6 minutes):

    Adam, uniform times, levels at 16, 8 and 4 px      0.14
    times drawn towards noise (exponent 4)             0.20   text alone can tell there what the picture is
    and blocks of 4 pixels, levels at 8 and 4 px       0.21   more parameters for the same operations
    and Muon                                           0.27   (0.93 after 17 minutes)

The network predicts the clean image: with few steps its first answer counts. A super-resolution stage that had to learn
to return its input left a texture on everything; ``input_gates`` give it that from the first step.
"""

from collections.abc import Collection

from ml_collections import ConfigDict

from imagen_jax.config import base as defaults


def get_config(variant: str = "base") -> ConfigDict:
    """The config of one variant.

    Raises:
        ValueError: an unknown variant.
    """
    name, smoke = read_variant(variant, STAGES)
    config = STAGES[name]()
    return shrink(config) if smoke else config


def read_variant(variant: str, known: Collection[str]) -> tuple[str, bool]:
    """The name in a variant, and whether ",smoke" follows it; every experiment reads its own so.

    Raises:
        ValueError: an unknown variant.
    """
    name, _, size = variant.partition(",")
    if name not in known or size not in ("", "smoke"):
        raise ValueError(f"unknown variant {variant!r}; known: {', '.join(known)}, each also with ',smoke'")
    return name, size == "smoke"


def common() -> ConfigDict:
    """What both stages share."""
    config = defaults.base()
    config.data.update(
        {"source": "openmoji", "options": {"skin_tones": False}, "resolution": 64, "validation_fraction": 0.05}
    )
    config.data.cache = True
    config.text.update({"encoder": "minilm", "width": 384, "length": 12})
    config.stage.update({"resolution": 32, "prediction": "x0"})
    config.training.update(
        {
            "steps": 1000,
            "batch_size": 64,
            "stratified_times": True,
            "time_exponent": 2.0,
            "ema_decay": 0.998,
            "log_every": 20,
            "checkpoint_every": 250,
            "preview_every": 500,
            "keep_checkpoints": 2,
        }
    )
    config.optimizer.update(
        {"name": "muon", "learning_rate": 0.02, "adam_ratio": 0.1, "warm_up_steps": 30, "decay_steps": 1000}
    )
    config.sampling.update({"sampler": "ddim", "steps": 4, "guidance": 1.5, "thresholding": "static"})
    config.preview.prompts = (
        "red apple",
        "panda",
        "sunflower",
        "pizza",
        "rocket",
        "snowman",
        "rainbow",
        "red heart",
    )
    return config.copy_and_resolve_references()


def base() -> ConfigDict:
    """The 32-px base."""
    config = common()
    config.network = ConfigDict(
        {
            "name": "efficient_unet",
            "channels": (128, 256),
            "blocks": (1, 2),
            "strides": (1, 2),
            "self_attention": (True, True),
            "cross_attention": (False, False),
            "heads": 4,
            "text_heads": 8,
            "embedding_width": 384,
            "patch": 4,
            "input_gates": True,
            "dropout": 0.0,
            "remat": "none",  # what is computed again for the gradient, see models/remat.py
            "dtype": "float32",
        }
    )
    return config


def super_resolution() -> ConfigDict:
    """The 32→64-px super-resolution stage, trained on 32-px crops."""
    config = common()
    config.stage.update({"resolution": 64, "low_resolution": 32, "crop": 32})
    config.network = ConfigDict(
        {
            "name": "efficient_unet",
            "channels": (32, 64, 128),
            "blocks": (1, 1, 2),
            "strides": (1, 2, 2),
            "self_attention": (False, False, False),
            "cross_attention": (False, False, True),
            "heads": 4,
            "text_heads": 8,
            "patch": 2,
            "input_gates": True,
            "dropout": 0.0,
            "remat": "none",  # what is computed again for the gradient, see models/remat.py
            "dtype": "float32",
        }
    )
    config.training.update(
        {"steps": 700, "batch_size": 32, "preview_every": 350, "ema_decay": 0.995, "time_exponent": 2.5}
    )
    config.optimizer.decay_steps = 700
    config.sampling.update({"guidance": 1.0, "steps": 2, "augmentation_level": 0.1})
    return config


STAGES = {"base": base, "super_resolution": super_resolution}


def shrink(config: ConfigDict) -> ConfigDict:
    """The smoke size of a config: the same parts, narrow and few, on images a quarter as large."""
    levels = len(config.network.channels)
    narrow = {"channels": (8, 16, 16)[:levels], "blocks": (1,) * levels, "heads": 2, "text_heads": 2}
    config.network.update(narrow)
    config.data.resolution //= 4
    for key in ("resolution", "low_resolution", "crop"):
        if config.stage[key] is not None:
            config.stage[key] //= 4
    shorten(config)
    return config


def shorten(config: ConfigDict) -> None:
    """Sets what all smoke sizes share: two steps of eight examples, each saved, and two steps of sampling."""
    config.training.update({"steps": 2, "batch_size": 8, "log_every": 1, "checkpoint_every": 1, "preview_every": 2})
    config.optimizer.update({"warm_up_steps": 1, "decay_steps": 4})
    config.sampling.steps = 2
