"""The configs of the pages at a size that trains in a second: ``--config=smoke_configs.py:configs.own_images:base``."""

import importlib
import inspect

from ml_collections import ConfigDict

from tests.small_networks import ONE_LEVEL


def get_config(named: str) -> ConfigDict:
    """The smoke variant of a config of the checkout, one step of one block; ``named`` is a module and its variant."""
    module, _, variant = named.partition(":")
    make = importlib.import_module(module).get_config
    (parameter,) = inspect.signature(make).parameters.values()
    variant = (variant or parameter.default).removesuffix(",smoke")
    config = make(f"{variant},smoke")
    if config.data.source == "openmoji":
        # To render all its drawings takes a minute.
        config.data.source = "folder"
        config.data.options = ConfigDict({"folder": "FOLDER"})
    config.data.update({"data_dir": "drawn", "validation_fraction": 0.2})
    # A preview of the second stage compiles the first one's program too.
    preview_every = 0 if "super_res" in named else 1
    config.training.update({"steps": 1, "batch_size": 8, "checkpoint_every": 1})
    if "preview_every" in config.training:
        config.training.preview_every = preview_every
    if "network" in config and config.network.name == "efficient_unet":
        config.network.update(ONE_LEVEL | {"patch": 2})
    elif "network" in config and config.network.name == "unet":
        config.network.update({"channel_multipliers": (1,), "attention_resolutions": ()})
    if "sampling" in config:
        config.sampling.steps = 1
        config.preview.prompts = ("square",) if preview_every else ()
        config.mesh.fsdp = 1
    if "text" in config and config.text.encoder == "t5":
        config.text.options.folder = "T5"
        config.text.width = 24
    return config
