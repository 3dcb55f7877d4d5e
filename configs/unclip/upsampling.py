"""What both upsamplers of unCLIP share, and their smoke size.

The paper prints (section 2.3, appendix C and Table 3): ADMNets without attention, told neither caption nor image
vector, so without guidance; trained on random crops of a quarter of the width; a corrupted low-resolution image; 1000
steps; 1M updates of Adam with β1 0.9, β2 0.999 and ε 1e-8; an average of the parameters with decay 0.9999; DDIM.

It does not print, and we took:

    entry of the embedding       adaptive group normalisation, as ADM; with --config.network.embedding_enters=addition,
                                 as Karlo has it, 64→256 has 691.6M parameters and 256→1024 has 267.1M
    what the network predicts    the noise; no variance, which DDIM does not read
    learning rate                a warm-up over 10k updates and a cosine decay to the last one; only its peak is printed
    gradient clipping            to a global norm of 1, as other reproductions have it
    weight decay                 none: the table has a dash
    thresholding                 static: the estimate is clipped to the range of images, as GLIDE's published code does
    warm-up of the average       yes, so that early previews show something
    mesh                         states cut over 8 chips, batches over all
"""

from typing import Any

from ml_collections import ConfigDict

from ..base import base
from ..quickstart import shorten

SMALL = {64: 8, 256: 16, 1024: 32}
"""Pixels of the smoke size, for each size of the paper's cascade."""


def upsampler(low_resolution: int, resolution: int, **network: Any) -> ConfigDict:
    """The config of an upsampler but for its corruption, optimizer and steps of sampling.

    Args:
        low_resolution: height and width of the image that it enlarges.
        resolution: height and width of its images.
        **network: fields of the network.
    """
    config = base()
    # The images of the folder must not be smaller than the resolution.
    config.data.update({"source": "folder", "options": {"folder": ""}, "resolution": resolution, "num_workers": 16})
    # The network is told no text, and no encoder is loaded.
    config.text.update({"encoder": "minilm", "width": 384, "length": 12})
    config.stage.update(
        {"resolution": resolution, "low_resolution": low_resolution, "crop": resolution // 4, "text": False}
    )
    config.network = ConfigDict(
        {
            "name": "unet",
            "attention_resolutions": (),
            "middle_attention": False,
            "embedding_enters": "scale_shift",
            "remat": "none",  # what is computed again for the gradient, see models/remat.py
            "dtype": "bfloat16",
            **network,
        }
    )
    config.training.update({"steps": 1_000_000, "ema_decay": 0.9999})
    config.optimizer.update({"name": "adam", "warm_up_steps": 10_000, "decay_steps": 1_000_000})
    config.optimizer.update({"b1": 0.9, "b2": 0.999, "epsilon": 1e-8})
    config.sampling.update({"sampler": "ddim", "guidance": 1.0, "thresholding": "static"})
    config.preview.prompts = ()
    config.mesh.fsdp = 8
    return config.copy_and_resolve_references()


def shrink(config: ConfigDict) -> ConfigDict:
    """The smoke size of an upsampler: the same parts, two levels and narrow."""
    config.network.update({"channels": 8, "channel_multipliers": (1, 2), "blocks_per_level": 1, "dtype": "float32"})
    config.data.update({"resolution": SMALL[config.data.resolution], "validation_fraction": 0.1, "num_workers": 0})
    for key in ("resolution", "low_resolution", "crop"):
        config.stage[key] = SMALL[config.stage[key]]
    shorten(config)
    config.sampling.sections = "2"
    config.mesh.fsdp = 1
    return config
