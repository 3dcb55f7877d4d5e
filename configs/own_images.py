"""Your own images and captions: a folder of pictures, each with its caption in a text file of the same name.

Command:   imagen-jax train --config=own_images:base --workdir=runs/own/base \
               --config.data.options.folder=FOLDER
           the same with :super_resolution and another workdir for the second stage.
Previews:  of a few captions of the folder; of others with --config.preview.prompts="('red apple', 'panda')".
Result:    not yet run beyond the smoke size.
Hardware:  as it stands, the quickstart's networks and budget: two CPU cores and half an hour for a few thousand simple
           pictures. For photographs make training.steps, optimizer.decay_steps and the networks larger.
Variants:  base, super_resolution; with ",smoke" a size whose steps take seconds, for the tests.
"""

from ml_collections import ConfigDict

from . import quickstart


def get_config(variant: str = "base") -> ConfigDict:
    """The quickstart's config of the same variant, on a folder of images."""
    config = quickstart.get_config(variant)
    config.data.source = "folder"
    config.data.options = ConfigDict({"folder": ""})
    config.preview.prompts = ()  # a few captions of the folder
    return config
