"""A classifier of noisy OpenMoji drawings by Unicode's nine groups: an example of classifier guidance.

Command:   imagen-jax train_classifier --config=configs/openmoji_classifier.py --workdir=runs/classifier
Hardware:  two CPU cores.
Variants:  none; ",smoke" trains in seconds, for the tests.
"""

from ml_collections import ConfigDict

from . import quickstart
from .base import classifier_base


def get_config(variant: str = "") -> ConfigDict:
    """The config.

    Raises:
        ValueError: an unknown variant.
    """
    _, smoke = quickstart.read_variant(variant, [""])
    config = classifier_base()
    config.data = quickstart.common().data
    config.data.mirror = True
    config.classifier.update(
        {
            "classes": "openmoji_groups",
            "resolution": 32,  # of the stage that it leads
            "schedule": "cosine",  # of that stage
            "channels": (48, 96),
            "blocks": 1,
            "patch": 2,
            "dropout": 0.1,
        }
    )
    config.training.update(
        {
            "steps": 1000,
            "batch_size": 64,
            "log_every": 20,
            "checkpoint_every": 250,
            "keep_checkpoints": 2,
            "ema_decay": 0.995,
        }
    )
    config.optimizer.update({"name": "adam", "learning_rate": 1e-3, "warm_up_steps": 50, "decay_steps": 1000})
    if smoke:
        config.classifier.update({"resolution": 8, "channels": (8, 8), "patch": 1})
        config.data.resolution = 16
        config.training.update({"steps": 4, "batch_size": 8, "log_every": 1, "checkpoint_every": 2})
        config.optimizer.update({"warm_up_steps": 1, "decay_steps": 5})
    return config
