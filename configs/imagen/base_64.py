"""Imagen's base: an ADM U-Net that draws 64-px images from captions.

Command:   imagen-jax train --config=configs/imagen/base_64.py:2b --workdir=runs/imagen/base \
               --config.data.options.folder=IMAGES --config.text.options.folder=T5
Hardware:  the paper trained the 2B base on 256 TPU v4.
Result:    not yet run beyond the smoke size.
Variants:  2b (default), 1b, 500m, 300m; with ",smoke" a size that trains in seconds, for the tests.

As printed (appendix F): embed_dim 512 × (1, 2, 3, 4), 3 residual blocks a level, attention at 32, 16 and 8 px with 64
channels a head, no dropout, cosine schedule in continuous time, Adafactor with optax's defaults, guidance 1.35 for the
FID of 7.27; ``recipe`` has the rest. Those widths have 2.14B parameters.

The paper compares bases from 300M up without printing their widths. We chose multiples of 64, so that each attention
has whole heads of 64 channels, and blocks that bring the counts within 5% of the names (``imagen_jax count``):

    1b      320 × (1, 2, 3, 4), 4 blocks
    500m    320 × (1, 2, 3, 3), 2 blocks
    300m    192 × (1, 2, 3, 4), 3 blocks
"""

from ml_collections import ConfigDict

from ..quickstart import read_variant
from .recipe import common, shrink

SIZES = {
    "2b": {"channels": 512, "channel_multipliers": (1, 2, 3, 4), "blocks_per_level": 3},
    "1b": {"channels": 320, "channel_multipliers": (1, 2, 3, 4), "blocks_per_level": 4},
    "500m": {"channels": 320, "channel_multipliers": (1, 2, 3, 3), "blocks_per_level": 2},
    "300m": {"channels": 192, "channel_multipliers": (1, 2, 3, 4), "blocks_per_level": 3},
}


def get_config(variant: str = "2b") -> ConfigDict:
    """The config of one variant.

    Raises:
        ValueError: an unknown variant.
    """
    size, smoke = read_variant(variant, SIZES)
    config = common()
    config.network = ConfigDict(
        {
            "name": "unet",
            **SIZES[size],
            "attention_resolutions": (32, 16, 8),
            "head_channels": 64,
            "text_heads": 8,
            "text_channels": 512,
            "dropout": 0.0,
            "remat": "none",  # what is computed again for the gradient, see models/remat.py
            "dtype": "bfloat16",
        }
    )
    config.optimizer.name = "adafactor"
    return shrink(config) if smoke else config
