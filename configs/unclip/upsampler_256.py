"""unCLIP's first upsampler: an ADM U-Net without attention from 64 to 256 px, told nothing but the image.

Command:   imagen-jax train --config=configs/unclip/upsampler_256.py --workdir=runs/unclip/upsampler_256 \
               --config.data.options.folder=IMAGES
Hardware:  not printed.
Result:    not yet run beyond the smoke size.
Variants:  as_printed (default); with ",smoke" a size that trains in seconds, for the tests.

Printed in Table 3 (Ramesh et al. 2022): width 320, depth 3, multiples 1, 2, 3, 4; dropout 0.1; cosine schedule of 1000
steps; batches of 1024, 1M updates, learning rate 1.2e-4; crops of a quarter; DDIM of 27 steps. Appendix C: a Gaussian
blur of 3×3 pixels with a deviation of 0.6 corrupts the low-resolution image in training. ``upsampling`` has the rest.

Not printed, and taken from elsewhere: how often the image is blurred (half of them, as DALLE2-pytorch), and which 27
steps (GLIDE's sections 10, 10, 3, 2, 2, with step 997 for 999).

The network has 729.7M parameters where Table 3 says 700M.
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
    config = upsampler(64, 256, channels=320, channel_multipliers=(1, 2, 3, 4), blocks_per_level=3, dropout=0.1)
    config.stage.update({"schedule": "discrete_cosine", "corruption": "blur", "blur_probability": 0.5})
    config.training.batch_size = 1024
    config.optimizer.learning_rate = 1.2e-4
    config.sampling.update({"steps": 27, "spacing": "sections", "sections": "10,10,3,2,2"})
    return shrink(config) if smoke else config
