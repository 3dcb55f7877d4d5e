"""unCLIP (DALL·E 2) of emoji: a CLIP, a prior from captions to its image embeddings, a 64-px decoder and an upsampler.

Command:   imagen-jax train --config=configs/emoji_unclip.py:clip --workdir=runs/unclip/clip
           imagen-jax train --config=configs/emoji_unclip.py:prior --workdir=runs/unclip/prior
               --config.embedding.clip=runs/unclip/clip
           the same with :decoder, and with :upsampler without a CLIP, each with its own workdir
Hardware:  two CPU cores. clip: 7 minutes, of which 5 render and embed images; prior: 12, and 5 to render and embed;
           decoder: 40.
Result:    the bundled cascade emoji_unclip and its model card, imagen_jax/pretrained/emoji_unclip/README.md. The
           upsampler was not yet trained.
Variants:  clip, prior (default), decoder, upsampler (64 to 256 px); with ",smoke" a size that trains in seconds.

Shared with Ramesh et al. 2022: the prior's sequence and objective, embeddings scaled to the deviation of pixels, text
and text embedding dropped together for 10%, the better of two draws; the decoder is told the embedding beside the time
and as four tokens, and drops it (10%) and the caption (50%) independently; the upsampler is told nothing but the image.
Ours, for so small a data set: the networks, dropout in the prior, Muon and the clean image as the decoder's output.
Decoder and upsampler go on from the bundled text-to-image cascade: from random numbers, half an hour gave blots.

The images are those of three fonts, so that a caption has up to three, and captions that name the style choose one.
``--config.data.options.fonts=openmoji`` trains on OpenMoji alone, which needs no other package.
"""

from ml_collections import ConfigDict

from . import emoji_clip, openmoji_small, quickstart
from .base import base


def get_config(variant: str = "prior") -> ConfigDict:
    """The config of one variant.

    Raises:
        ValueError: an unknown variant.
    """
    name, smoke = quickstart.read_variant(variant, STAGES)
    config = STAGES[name]()
    return shrink(config, name) if smoke else config


def clip() -> ConfigDict:
    """The CLIP: heads on frozen features. Equal captions are no negatives, for a caption has up to three images."""
    config = emoji_clip.frozen()
    config.data.update({"source": SOURCE, "validation_fraction": HELD_OUT})
    config.data.options = dict(OPTIONS)
    config.clip.equal_captions = "ignored"
    config.training.update({"steps": 600, "evaluate_every": 100})
    config.optimizer.decay_steps = 600
    return config


def prior() -> ConfigDict:
    """The diffusion prior, in the space of the CLIP."""
    config = base()
    share(config)
    config.stage.update({"vector": EMBEDDING, "text_vector": EMBEDDING, "prediction": "x0"})
    config.network = ConfigDict({"name": "prior", "width": 256, "layers": 2, "heads": 4, "dropout": 0.2})
    config.training.update(
        {
            "steps": 1000,
            "batch_size": 128,
            "drop": {"text_vector": 0.1},
            "drop_together": True,
            "ema_decay": 0.998,
            "log_every": 100,
            "checkpoint_every": 250,
            "keep_checkpoints": 2,
            "preview_every": 0,
            "evaluate_every": 250,
        }
    )
    config.optimizer.update(
        {
            "name": "adamw",
            "learning_rate": 5e-4,
            "b2": 0.96,
            "epsilon": 1e-6,
            "weight_decay": 6e-2,
            "warm_up_steps": 100,
            "decay_steps": 1000,
        }
    )
    config.sampling.update(
        {"sampler": "dpm_solver_2m", "steps": 20, "guidance": 1.0, "thresholding": "none", "candidates": 2}
    )
    config.preview.update({"prompts": (), "samples": 400})
    return config


def decoder() -> ConfigDict:
    """The 64-px decoder: the bundled base, one block smaller, which is told the embedding too and trained further."""
    config = openmoji_small.base()
    share(config)
    config.stage.image_vector = EMBEDDING
    config.network.update({"vector_tokens": 4, "blocks": (1, 2, 1)})
    config.training.update(
        {
            "init_from": "openmoji/base",
            "steps": 820,
            "batch_size": 32,
            "caption_dropout": 0.5,
            "drop": {"image_vector": 0.1},
            "ema_decay": 0.998,
            "log_every": 10,
            "checkpoint_every": 100,
            "keep_checkpoints": 2,
            "preview_every": 250,
        }
    )
    config.optimizer.update({"learning_rate": 0.008, "decay_steps": 820, "warm_up_steps": 30})
    config.sampling.update({"sampler": "ddim", "steps": 16, "guidance": 1.5})
    return config


def upsampler() -> ConfigDict:
    """From 64 to 256 px, on quarter crops, without captions: the bundled super-resolution stage, trained further."""
    config = openmoji_small.super_resolution()
    config.data.update({"source": SOURCE, "validation_fraction": HELD_OUT})
    config.data.options = dict(OPTIONS)
    config.stage.text = False
    config.training.update(
        {
            "init_from": "openmoji/super_resolution",
            "ema_decay": 0.99,
            "batch_size": 64,
            "steps": 200,
            "checkpoint_every": 50,
            "keep_checkpoints": 2,
            "log_every": 10,
            "preview_every": 0,
        }
    )
    config.optimizer.update({"learning_rate": 0.003, "decay_steps": 200, "warm_up_steps": 10})
    return config


def share(config: ConfigDict) -> None:
    """Sets what prior and decoder share: images, the CLIP, and its text encoder."""
    config.data.update(
        {"source": SOURCE, "resolution": 256, "validation_fraction": HELD_OUT, "cache": True, "mirror": False}
    )
    config.data.options = dict(OPTIONS)
    config.embedding.clip = "emoji_unclip/clip"  # the bundled one
    # The text tower of the CLIP is a head on MiniLM, so captions have MiniLM's tokens.
    config.text.update({"encoder": "clip", "width": 384, "length": 12, "options": {"max_tokens": 12}})


SOURCE = "emoji_fonts"
OPTIONS = {"skin_tones": False, "name_styles": True, "fonts": "openmoji,noto,fluent"}

HELD_OUT = 0.05
"""The fraction of the bundled stages' training, so that what they have not seen is held out here too."""

EMBEDDING = 256
"""Number of channels of the CLIP's embeddings."""

STAGES = {"clip": clip, "prior": prior, "decoder": decoder, "upsampler": upsampler}


def shrink(config: ConfigDict, name: str) -> ConfigDict:
    """The smoke size of a variant: of OpenMoji alone, with a CLIP that must be named."""
    config.data.source = "openmoji"
    config.data.options = {"skin_tones": False}
    if "embedding" in config:
        config.embedding.clip = ""
    return SHRINK[name](config)


def shrink_prior(config: ConfigDict) -> ConfigDict:
    """The smoke size of the prior, for the CLIP of the smoke size."""
    config.data.resolution = 16
    config.stage.update({"vector": SMOKE_EMBEDDING, "text_vector": SMOKE_EMBEDDING})
    config.network.update({"width": 16, "layers": 1, "heads": 2})
    quickstart.shorten(config)
    config.training.update({"preview_every": 0, "evaluate_every": 2})
    config.preview.samples = 16
    return config


def shrink_decoder(config: ConfigDict) -> ConfigDict:
    """The smoke size of the decoder, for the same CLIP."""
    config.stage.image_vector = SMOKE_EMBEDDING
    return shrink_upsampler(config)


def shrink_upsampler(config: ConfigDict) -> ConfigDict:
    """The smoke size of a stage of images, from random numbers."""
    config.training.init_from = ""
    return quickstart.shrink(config)


SMOKE_EMBEDDING = 8
SHRINK = {"clip": emoji_clip.shrink, "prior": shrink_prior, "decoder": shrink_decoder, "upsampler": shrink_upsampler}
