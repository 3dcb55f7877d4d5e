"""What the three stages of Imagen share, and their smoke size.

The paper states: ε-prediction with every time weighed alike, times drawn uniformly, text zeroed for 10% of examples,
batches of 2048 for 2.5M steps, a linear warm-up over 10k steps to 1e-4 and a cosine decay to step 2.5M (its printed end
value is a misprint: it is the number of steps), the frozen T5-XXL encoder, ancestral sampling, dynamic thresholding at
the 99.5th percentile in the figure that shows it.

It leaves open, and we chose:

    average of the parameters    0.9999, with a warm-up so that early previews show something
    gradient clipping            to a global norm of 1, as other reproductions have it
    tokens of a caption          128, as other reproductions have it
    width of the text            4096 projected to 512, see ``ConditioningEmbedding``: the counts then are as printed
    augmentation's schedule      cosine
    sampling steps               256, 128 and 64: fewer where the low-resolution image leaves less to decide
    mesh                         states cut over 8 chips, batches over all
"""

from ml_collections import ConfigDict

from ..base import base
from ..quickstart import shorten

SMALL = {64: 8, 256: 16, 1024: 32}
"""Pixels of the smoke size, for each size of the paper's cascade."""


def common() -> ConfigDict:
    """The config of a stage but for its network and sizes."""
    config = base()
    # The images of the folder must not be smaller than the resolution.
    config.data.update({"source": "folder", "options": {"folder": ""}, "resolution": 64, "num_workers": 16})
    config.text.update({"encoder": "t5", "width": 4096, "length": 128})
    config.text.options = ConfigDict({"folder": "", "tokenizer": "", "dtype": "bfloat16", "max_tokens": 128})
    config.stage.resolution = 64
    config.training.update({"steps": 2_500_000, "batch_size": 2048})
    config.optimizer.update({"name": "adam", "learning_rate": 1e-4, "warm_up_steps": 10_000, "decay_steps": 2_500_000})
    config.sampling.update({"steps": 256, "guidance": 1.35})
    config.preview.prompts = (
        "a red bicycle leaning against a blue door",
        "two otters asleep on a wooden pier at dusk",
        "a bowl of lemons, painted in watercolour",
        "a lighthouse in a snowstorm, seen from the sea",
        "a teapot shaped like a tortoise",
        "an astronaut watering tomatoes in a greenhouse",
        "a shop sign that says 'open late'",
        "a close photograph of a dandelion after rain",
    )
    config.mesh.fsdp = 8
    return config.copy_and_resolve_references()


def super_resolution(low_resolution: int, resolution: int, crop: int | None = None) -> ConfigDict:
    """The config of a super-resolution stage, with the Efficient U-Net but for its blocks and attention."""
    config = common()
    config.data.resolution = resolution
    config.stage.update({"resolution": resolution, "low_resolution": low_resolution, "crop": crop})
    config.network = ConfigDict(
        {
            "name": "efficient_unet",
            "channels": (128, 256, 512, 1024),
            "blocks": (2, 4, 8, 8),
            "strides": (2, 2, 2, 2),
            "self_attention": (False,) * 4,
            "cross_attention": (False,) * 4,
            "heads": 8,
            "text_heads": 8,
            "text_channels": 512,
            "dropout": 0.0,
            "remat": "none",  # what is computed again for the gradient, see models/remat.py
            "scan": False,  # whether equal blocks are one loop of the program; with remat, or memory is short
            "dtype": "bfloat16",
        }
    )
    config.sampling.guidance = 8.0
    return config


def shrink(config: ConfigDict) -> ConfigDict:
    """The smoke size of a stage: the same parts, two levels and narrow, and the encoder that needs no files."""
    network = config.network
    if network.name == "unet":
        network.update({"channels": 8, "channel_multipliers": (1, 2), "blocks_per_level": 1, "head_channels": 4})
        network.attention_resolutions = (4,)
    else:
        network.update({"channels": (8, 16), "blocks": (1, 1), "strides": network.strides[-2:], "heads": 2})
        for kind in ("self_attention", "cross_attention"):
            network[kind] = network[kind][-2:]
    if network.text_channels is not None:
        network.text_channels = 16
    network.update({"text_heads": 2, "dtype": "float32"})
    config.text = ConfigDict(
        {"encoder": "minilm", "options": {}, "width": 384, "length": 12, "null": "zeros", "embeddings": "stored"}
    )
    config.data.update({"resolution": SMALL[config.data.resolution], "validation_fraction": 0.1, "num_workers": 0})
    for key in ("resolution", "low_resolution", "crop"):
        if config.stage[key] is not None:
            config.stage[key] = SMALL[config.stage[key]]
    shorten(config)
    config.mesh.fsdp = 1
    return config
