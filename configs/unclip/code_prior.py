"""DALL·E 2's autoregressive prior (Ramesh et al. 2022, section 2.2), with the sizes of the paper's table 3.

Command:   imagen-jax train --config=configs/unclip/code_prior.py --workdir=runs/code_prior \
               --config.data.options.folder=DATA --config.codes.clip=CLIP
Hardware:  not printed.
Result:    not yet run beyond the smoke size.
Variants:  as_printed (default); with ",smoke" a size that trains in seconds, for the tests. Its CLIP is one of
           configs/emoji_clip.py:scratch,smoke.

Printed: 24 blocks of width 1664 with 26 heads and a context of 384; 319 of 1,024 components in 1,024 buckets; batch
4,096, 1M steps, Adam with decoupled weight decay 0.04, learning rate 1.6e-4, β2 0.91, ε 1e-10; average 0.999; caption
and z_t dropped for 10%; z_i·z_t drawn from its top half.

Not printed, and chosen here:

- The schedule of the learning rate: a warm-up of 10,000 steps, and a cosine to 0 at the end.
- The caption enters as the states of the CLIP's own text tower, at most 64 tokens: with z_t, the similarity code and
  318 codes these are the printed 384. The printed text encoder of 24 blocks of width 2,048 is left out.
- Buckets by quantiles, and 1,024 of them for z_i·z_t. No guidance, and temperature 1.
- No clipping of gradients.

The printed model size, 1B, does not add up: 24 blocks of 1664 are 0.80B and a text encoder of 24 × 2,048 is 1.21B. Ours
counts 0.81B. The CLIP is ``configs/clip/published.py:h16``, whose embeddings have 1,024 channels.
"""

from ml_collections import ConfigDict

from ..base import codes_base
from ..quickstart import read_variant

STEPS = 1_000_000


def get_config(variant: str = "as_printed") -> ConfigDict:
    """The config of one variant.

    Raises:
        ValueError: an unknown variant.
    """
    _, smoke = read_variant(variant, ("as_printed",))
    config = codes_base()
    # The folder of a prepared data set, whose images are not smaller than the CLIP's.
    config.data.update({"source": "prepared", "options": {"folder": ""}, "resolution": 256, "num_workers": 16})
    config.codes.update({"clip": "", "channels": 1024, "text_width": 1024, "text_length": 64, "components": 319})
    config.network.update({"name": "code_prior", "dtype": "bfloat16"})
    with config.unlocked():
        config.network.update(
            {"width": 1664, "layers": 24, "heads": 26, "dropout": 0.0, "remat": "blocks", "scan": True}
        )
    config.training.update({"steps": STEPS, "batch_size": 4096, "ema_decay": 0.999, "caption_dropout": 0.1})
    config.optimizer.update(
        {"name": "adamw", "learning_rate": 1.6e-4, "warm_up_steps": 10_000, "decay_steps": STEPS, "clip_norm": None}
    )
    with config.unlocked():
        config.optimizer.update({"b2": 0.91, "epsilon": 1e-10, "weight_decay": 0.04})
    return shrink(config) if smoke else config


def shrink(config: ConfigDict) -> ConfigDict:
    """The smoke size: narrow, on drawings."""
    config.data.update({"source": "openmoji", "options": {}, "resolution": 16, "num_workers": 0, "mirror": True})
    config.codes.update({"channels": 8, "text_width": 16, "text_length": 8, "components": 6, "buckets": 8})
    config.codes.similarity_buckets = 4
    config.network.update({"width": 16, "layers": 2, "heads": 2, "dtype": "float32"})
    config.training.update({"steps": 4, "batch_size": 8, "log_every": 1, "checkpoint_every": 2})
    config.optimizer.update({"warm_up_steps": 1, "decay_steps": 5})
    return config
