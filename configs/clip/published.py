"""CLIPs of the published sizes, from scratch, with the hyperparameters of their papers.

Command:   imagen-jax train --config=configs/clip/published.py:b32 --workdir=runs/clip_b32 \
               --config.data.options.folder=DATA --config.clip.tokenizer=bpe_simple_vocab_16e6.txt.gz
Hardware:  not printed for B/32 and B/16; L/14 took 12 days on 256 V100 (Radford et al. 2021, section 2.5).
Result:    not yet run beyond the smoke size.
Variants:  b32 (default), b16, l14, l14_336 (on the weights of l14), h14 of open_clip, h16 of unCLIP; with ",smoke" a
           size that trains in seconds, for the tests.

Sizes and their sources:

    b32, b16, l14   OpenAI's published files; context 77 and 49,408 tokens
    l14_336         l14 at 336 px; "one additional epoch" (section 3.2)
    h14             open_clip's ViT-H-14: heads of 80 channels in the image tower
    h16             unCLIP's CLIP (Ramesh et al. 2022, appendix C): 256 px, ViT of width 1280 with 32 blocks, text
                    transformer of width 1024 with 24 blocks, 1,024 channels. Its heads are not printed; we took those
                    of open_clip's ViT-H-16: 16 heads in both towers

Hyperparameters:

- Section 2.5 prints the batch of 32,768, 32 epochs, cosine decay, decoupled weight decay and the temperature.
- The warm-up of 2,000 steps, decay 0.2, β2 0.98, ε 1e-6 and the learning rates are those of appendix F's tables, which
  the text that we read lacks. open_clip's "params from paper" agree where it has them.
- The learning rate of h14 is not printed with its weights: we took that of l14.
- The steps are 32 epochs of 400M pairs. Those of h16 are not printed: we took the same.
- unCLIP's appendix C prints for h16 the learning rate 3e-4, and SAM with ρ 0.1 on shares of 64; "the rest" as CLIP.

SAM on shares gives each share parameters of its own, so h16 is for ``mesh.fsdp=1``.
"""

from ml_collections import ConfigDict

from ..base import clip_base
from ..quickstart import read_variant

BATCH = 32_768
STEPS = 32 * 400_000_000 // BATCH


def vision(resolution: int, patch: int, width: int, layers: int, heads: int, activation: str = "gelu") -> ConfigDict:
    """A vision transformer, with perceptrons of four times its width."""
    sizes = {"resolution": resolution, "patch": patch, "width": width, "layers": layers, "heads": heads}
    others = {"activation": activation, "noise_conditioned": False}
    return ConfigDict({"name": "vision_transformer", **sizes, "hidden": 4 * width, **others, **SPEED})


def text(width: int, layers: int, heads: int, activation: str = "gelu") -> ConfigDict:
    """The text transformer with OpenAI's vocabulary, with perceptrons of four times its width."""
    sizes = {"vocabulary": 49_408, "context": 77, "width": width, "layers": layers, "heads": heads}
    others = {"hidden": 4 * width, "end": 49_407, "activation": activation}
    return ConfigDict({"name": "transformer", **sizes, **others, **SPEED})


SPEED = {"remat": "blocks", "scan": True, "dtype": "bfloat16"}
QUICK = "quick_gelu"
"""OpenAI's activation, x · sigmoid(1.702 x)."""

VARIANTS = {
    "b32": (vision(224, 32, 768, 12, 12, QUICK), text(512, 12, 8, QUICK), 512, 5e-4),
    "b16": (vision(224, 16, 768, 12, 12, QUICK), text(512, 12, 8, QUICK), 512, 5e-4),
    "l14": (vision(224, 14, 1024, 24, 16, QUICK), text(768, 12, 12, QUICK), 768, 4e-4),
    "l14_336": (vision(336, 14, 1024, 24, 16, QUICK), text(768, 12, 12, QUICK), 768, 2e-5),
    "h14": (vision(224, 14, 1280, 32, 16), text(1024, 24, 16), 1024, 4e-4),
    "h16": (vision(256, 16, 1280, 32, 16), text(1024, 24, 16), 1024, 3e-4),
}
"""Image tower, text tower, channels of the embeddings, learning rate."""


def get_config(variant: str = "b32") -> ConfigDict:
    """The config of one variant.

    Raises:
        ValueError: an unknown variant.
    """
    name, smoke = read_variant(variant, VARIANTS)
    image_tower, text_tower, embedding, learning_rate = VARIANTS[name]
    config = clip_base()
    resolution = image_tower.resolution
    # The folder of a prepared data set, whose images are not smaller than the resolution.
    config.data.update({"source": "prepared", "options": {"folder": ""}, "resolution": resolution, "crop": "random"})
    config.data.num_workers = 16
    config.clip.embedding = embedding
    config.image_tower, config.text_tower = image_tower.copy_and_resolve_references(), ConfigDict(text_tower)
    config.training.update({"steps": STEPS, "batch_size": BATCH, "evaluate_every": 5000})
    config.optimizer.update(
        {
            "name": "adamw",
            "learning_rate": learning_rate,
            "warm_up_steps": 2000,
            "decay_steps": STEPS,
            "clip_norm": None,
            "b2": 0.98,
            "epsilon": 1e-6,
            "weight_decay": 0.2,
        }
    )
    if name == "h16":
        config.training.update({"sam_rho": 0.1, "sam_share": 64})
    if name == "l14_336":
        config.training.steps = config.optimizer.decay_steps = STEPS // 32
    return shrink(config) if smoke else config


def shrink(config: ConfigDict) -> ConfigDict:
    """The smoke size of a variant: the same parts, narrow, on drawings, with a vocabulary of its own."""
    config.data.update({"source": "openmoji", "options": {}, "resolution": 16, "crop": "centre", "num_workers": 0})
    config.clip.update({"embedding": 8, "held_out": 16, "tokenizer": ""})
    config.image_tower.update({"resolution": 16, "patch": 8, "width": 16, "layers": 2, "heads": 2, "hidden": 32})
    config.text_tower.update({"width": 16, "layers": 2, "heads": 2, "hidden": 32})
    config.text_tower.update({"vocabulary": 300, "end": 299, "context": 8})
    config.training.update({"steps": 4, "batch_size": 8, "log_every": 1, "checkpoint_every": 2, "evaluate_every": 2})
    config.optimizer.update({"warm_up_steps": 1, "decay_steps": 5})
    if config.training.sam_share:
        config.training.sam_share = 4
    return config
