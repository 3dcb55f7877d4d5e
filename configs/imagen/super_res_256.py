"""Imagen's first super-resolution stage: an Efficient U-Net from 64 to 256 px.

Command:   imagen-jax train --config=configs/imagen/super_res_256.py --workdir=runs/imagen/super_res_256 \
               --config.data.options.folder=IMAGES --config.text.options.folder=T5
Hardware:  the paper trained on 128 TPU v4.
Result:    not yet run beyond the smoke size.
Variants:  as_printed (default), size_matched; with ",smoke" a size that trains in seconds, for the tests.

As printed (appendix F): channels 128, 256, 512, 1024 with 2, 4, 8, 8 residual blocks, each level at half the resolution
of the one before, self-attention of 8 heads in the last block alone, the text in its keys and values; no dropout,
cosine schedule, Adam, guidance 8 and a clean low-resolution image for the FID of 7.27; ``recipe`` has the rest.

That network has 486M parameters where the paper speaks of 600M. ``size_matched`` has 11 blocks in the last level
instead of 8, and 606M. What else would close the gap is not printed.
"""

from ml_collections import ConfigDict

from ..quickstart import read_variant
from .recipe import shrink, super_resolution

BLOCKS = {"as_printed": (2, 4, 8, 8), "size_matched": (2, 4, 8, 11)}


def get_config(variant: str = "as_printed") -> ConfigDict:
    """The config of one variant.

    Raises:
        ValueError: an unknown variant.
    """
    name, smoke = read_variant(variant, BLOCKS)
    config = super_resolution(64, 256)
    config.network.update({"blocks": BLOCKS[name], "self_attention": (False, False, False, True)})
    config.sampling.steps = 128
    return shrink(config) if smoke else config
