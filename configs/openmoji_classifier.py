"""A classifier of noisy OpenMoji drawings by Unicode's nine groups: an example of classifier guidance.

Command:   python -m imagen_jax train_classifier --config=configs/openmoji_classifier.py --workdir=runs/classifier
Hardware:  two CPU cores.
Variants:  none; ",smoke" trains in seconds, for the tests.
"""

from ml_collections import ConfigDict

from configs import quickstart


def get_config(variant: str = "") -> ConfigDict:
    """The config.

    Raises:
        ValueError: an unknown variant.
    """
    _, smoke = quickstart.read_variant(variant, [""])
    config = ConfigDict(
        {
            "seed": 0,
            "data": quickstart.common().data.to_dict() | {"mirror": True},
            "classifier": {
                "classes": "openmoji_groups",
                "resolution": 32,  # of the stage that it leads
                "schedule": "cosine",  # of that stage
                "channels": (48, 96),
                "blocks": 1,
                "patch": 2,
                "dropout": 0.1,
            },
            "training": {
                "steps": 1000,
                "batch_size": 64,
                "log_every": 20,
                "checkpoint_every": 250,
                "keep_checkpoints": 2,
                "keep_every": 0,  # steps from one checkpoint that stays for ever to the next; 0: none stays
                "max_consecutive_nonfinite": 10,  # steps without finite numbers, each left out, before the next is done
                "on_nonfinite": "stop",  # or "rewind": to a good checkpoint, and on with the data after them
                "max_rewinds": 3,
                "ema_decay": 0.995,
                "ema_warm_up": True,
            },
            "optimizer": {
                "name": "adam",
                "learning_rate": 1e-3,
                "warm_up_steps": 50,
                "decay_steps": 1000,
                "clip_norm": 1.0,
            },
        }
    )
    if smoke:
        config.classifier.update({"resolution": 8, "channels": (8, 8), "patch": 1})
        config.data.resolution = 16
        config.training.update({"steps": 4, "batch_size": 8, "log_every": 1, "checkpoint_every": 2})
        config.optimizer.update({"warm_up_steps": 1, "decay_steps": 5})
    return config
