"""unCLIP's second upsampler: an ADM U-Net without attention from 256 to 1024 px, told nothing but the image.

Command:   imagen-jax train --config=configs/unclip/upsampler_1024.py --workdir=runs/unclip/upsampler_1024 \
               --config.data.options.folder=IMAGES
Hardware:  not printed.
Result:    not yet run beyond the smoke size.
Variants:  as_printed (default); with ",smoke" a size that trains in seconds, for the tests.

Printed in Table 3 (Ramesh et al. 2022): width 192, depth 2, multiples 1, 1, 2, 2, 4, 4; no dropout; linear schedule of
1000 steps; batches of 512, 1M updates, learning rate 1e-4; crops of a quarter; DDIM of 15 steps. Appendix C: BSR
degradation, that of Rombach et al. 2022 and BSRGAN, corrupts the low-resolution image in training. ``upsampling`` has
the rest.

Not printed, and taken from elsewhere: the numbers of the degradation (those of BSRGAN's code, ``data/degradations``).
Which 15 steps is not printed either: we took them evenly spaced with both ends.

The network has 282.1M parameters where Table 3 says 300M.
"""

from ml_collections import ConfigDict

from ..quickstart import read_variant
from .upsampling import shrink, upsampler


def get_config(variant: str = "as_printed") -> ConfigDict:
    """The config of one variant.

    Raises:
        ValueError: an unknown variant.
    """
    _, smoke = read_variant(variant, ("as_printed",))
    config = upsampler(256, 1024, channels=192, channel_multipliers=(1, 1, 2, 2, 4, 4), blocks_per_level=2, dropout=0.0)
    config.stage.update({"schedule": "linear", "corruption": "bsr"})
    config.training.batch_size = 512
    config.optimizer.learning_rate = 1e-4
    config.sampling.update({"steps": 15, "spacing": "both_ends"})
    return shrink(config) if smoke else config
