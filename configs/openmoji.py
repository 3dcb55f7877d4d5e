"""OpenMoji at 1024 px: Imagen's cascade, a tenth as large, on the quickstart's drawings.

Command:   imagen-jax train --config=configs/openmoji.py:base --workdir=runs/openmoji/base
           the same with :super_res_256 and :super_res_1024 and workdirs of their own.
Hardware:  meant for one host with 8 accelerators.
Result:    not yet run beyond the smoke size.
Variants:  base, super_res_256, super_res_1024; with ",smoke" a size that trains in seconds, for the tests.

Objective, schedules, optimizers, attention and sampling are Imagen's (``configs/imagen``). Smaller are the networks,
with 139M, 122M and 70M parameters, the batches and the steps: some two thousand drawings are soon seen often. The text
comes from MiniLM, whose 384 channels need no projection. One set of 1024-px drawings serves all stages, which
``imagen_jax.evaluate`` needs.
"""

from ml_collections import ConfigDict

from . import quickstart
from .imagen import base_64, super_res_256, super_res_1024
from .imagen.recipe import shrink


def get_config(variant: str = "base") -> ConfigDict:
    """The config of one variant.

    Raises:
        ValueError: an unknown variant.
    """
    name, smoke = quickstart.read_variant(variant, STAGES)
    config = STAGES[name]()
    shared = quickstart.common()
    config.data, config.text, config.preview = shared.data, shared.text, shared.preview
    config.data.resolution = 1024
    config.network.text_channels = None
    config.training.update({"ema_decay": 0.999, "checkpoint_every": 2000, "preview_every": 2000})
    config.optimizer.update({"warm_up_steps": 1000, "decay_steps": config.training.steps})
    config.mesh.fsdp = 1
    return shrink(config) if smoke else config


def base() -> ConfigDict:
    """The 64-px base."""
    config = base_64.get_config()
    config.network.channels = 128
    config.training.update({"steps": 40_000, "batch_size": 256})
    return config


def to_256() -> ConfigDict:
    """From 64 to 256 px."""
    config = super_res_256.get_config()
    config.network.channels = (64, 128, 256, 512)
    config.training.update({"steps": 30_000, "batch_size": 128})
    return config


def to_1024() -> ConfigDict:
    """From 256 to 1024 px, on crops."""
    config = super_res_1024.get_config()
    config.network.update({"channels": (64, 128, 256, 512), "blocks": (2, 4, 4, 4)})
    config.training.update({"steps": 30_000, "batch_size": 128})
    return config


STAGES = {"base": base, "super_res_256": to_256, "super_res_1024": to_1024}
