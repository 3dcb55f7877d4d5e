"""A stage of grey images: one channel in and out, of which the files are RGB as ever."""

from ml_collections import ConfigDict


def with_grey_images(config: ConfigDict) -> ConfigDict:
    """Turns the config of a stage into one of grey images. The network takes its channels from there."""
    config.stage.channels = 1
    return config
