"""A training that is soon started and has much that a restart could lose: random flips, captions, moments, averages."""

from ml_collections import ConfigDict

from configs import own_images
from tests.small_networks import ONE_LEVEL


def get_config(variant: str) -> ConfigDict:
    """A base of one small block on the prepared data set in the folder ``variant``."""
    config = own_images.get_config("base,smoke")
    config.data.update({"source": "prepared", "data_dir": "unused", "cache": False, "mirror": True})
    config.data.options = ConfigDict({"folder": variant})
    config.network.update(ONE_LEVEL)
    adam = {"name": "adam", "learning_rate": 1e-3, "warm_up_steps": 1, "decay_steps": 400, "clip_norm": 1.0}
    config.optimizer = ConfigDict(adam)
    config.preview.prompts = ("red circle", "blue square")
    config.sampling.steps = 1
    return config
