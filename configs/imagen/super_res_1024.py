"""Imagen's second super-resolution stage: an Efficient U-Net from 256 to 1024 px, trained on crops.

Command:   imagen-jax train --config=configs/imagen/super_res_1024.py --workdir=runs/imagen/super_res_1024 \
               --config.data.options.folder=IMAGES --config.text.options.folder=T5
Hardware:  the paper trained on 128 TPU v4.
Result:    not yet run beyond the smoke size.
Variants:  as_printed (default), size_matched; with ",smoke" a size that trains in seconds, for the tests.

As printed (appendix F): the network of the 64→256 stage without self-attention, and with cross-attention to the text in
its last block; trained from 64 to 256 px on random crops of 1024-px images; the 1000-step linear schedule, in
continuous time; Adam, guidance 8 and a clean low-resolution image; ``recipe`` has the rest.

That network has 482M parameters where the paper speaks of 400M. ``size_matched`` has 6 blocks in the last level instead
of 8, and 402M. What else would close the gap is not printed.
"""

from ml_collections import ConfigDict

from ..quickstart import read_variant
from .recipe import shrink, super_resolution

BLOCKS = {"as_printed": (2, 4, 8, 8), "size_matched": (2, 4, 8, 6)}


def get_config(variant: str = "as_printed") -> ConfigDict:
    """The config of one variant.

    Raises:
        ValueError: an unknown variant.
    """
    name, smoke = read_variant(variant, BLOCKS)
    config = super_resolution(256, 1024, crop=256)
    config.network.update({"blocks": BLOCKS[name], "cross_attention": (False, False, False, True)})
    config.stage.schedule = "linear"
    config.sampling.steps = 64
    return shrink(config) if smoke else config
