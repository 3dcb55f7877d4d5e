"""unCLIP's diffusion prior: a causal transformer from a caption and its embedding z_t to CLIP's image embedding z_i.

Command:   imagen-jax train --config=configs/unclip/prior.py --workdir=runs/unclip/prior \
               --config.data.options.folder=DATA --config.embedding.clip=CLIP
Hardware:  not printed.
Result:    not yet run beyond the smoke size.
Variants:  as_printed (default); with ",smoke" a size that trains in seconds, for the tests. Its CLIP is one of
           configs/emoji_clip.py:frozen,smoke.

Printed (Ramesh et al. 2022, section 2.2, appendix C and Table 3): 24 blocks of width 2048 with 32 heads; the sequence,
the causal mask, and z_i itself as output with a plain squared error; embeddings scaled by 17.2; cosine schedule; batch
4,096, 600K steps, Adam with decoupled weight decay 0.06, learning rate 1.1e-4, β2 0.96, ε 1e-6; average 0.9999; caption
and z_t dropped together for 10%; of two draws the one with the larger z_i·z_t.

Not printed, and chosen here:

- The caption enters as the states of the CLIP's own text tower, at most 77 tokens. Table 3 gives this column a text
  encoder of 24 × 2048 with 256 tokens, which is also the size of the prior itself; the text has no second one.
- The schedule of the learning rate: a warm-up of 10,000 steps, and a cosine to 0 at the end.
- No guidance: "guiding the prior hurt results" (section 5.5).
- 20 steps of DPM-Solver++(2M), which keep the variance of a Gaussian to 0.6%. The paper takes 64 steps with an analytic
  variance (Bao et al. 2022), which is the sampler ``analytic``.

The printed model size is 1B. 24 blocks of 2048 are 1.21B.
"""

from ml_collections import ConfigDict

from .. import emoji_unclip
from ..base import base
from ..quickstart import read_variant

STEPS = 600_000
EMBEDDING = 1024


def get_config(variant: str = "as_printed") -> ConfigDict:
    """The config of one variant.

    Raises:
        ValueError: an unknown variant.
    """
    _, smoke = read_variant(variant, ("as_printed",))
    config = base()
    # The CLIP sees 256 px.
    config.data.update({"source": "prepared", "options": {"folder": ""}, "resolution": 256, "num_workers": 16})
    config.text.update({"encoder": "clip", "width": 1024, "length": 77})
    config.stage.update({"vector": EMBEDDING, "text_vector": EMBEDDING, "prediction": "x0"})
    config.network = ConfigDict({"name": "prior", "width": 2048, "layers": 24, "heads": 32, "dtype": "bfloat16"})
    config.training.update(
        {
            "steps": STEPS,
            "batch_size": 4096,
            "caption_dropout": 0.1,
            "drop": {"text_vector": 0.1},
            "drop_together": True,
            "preview_every": 0,
            "evaluate_every": 10_000,
        }
    )
    config.optimizer.update(
        {
            "name": "adamw",
            "learning_rate": 1.1e-4,
            "b2": 0.96,
            "epsilon": 1e-6,
            "weight_decay": 6e-2,
            "warm_up_steps": 10_000,
            "decay_steps": STEPS,
        }
    )
    config.sampling.update(
        {"sampler": "dpm_solver_2m", "steps": 20, "guidance": 1.0, "thresholding": "none", "candidates": 2}
    )
    config.preview.update({"prompts": (), "samples": 1000})
    config.mesh.fsdp = 8
    return shrink(config) if smoke else config


def shrink(config: ConfigDict) -> ConfigDict:
    """The smoke size: the same parts, narrow, on drawings."""
    small = emoji_unclip.get_config("prior,smoke")
    config.data, config.text = small.data, small.text
    config.stage.update({"vector": small.stage.vector, "text_vector": small.stage.text_vector})
    config.network.update({"width": 16, "layers": 2, "heads": 2, "dtype": "float32"})
    config.training.update({"batch_size": 8, "steps": 2, "log_every": 1, "checkpoint_every": 1, "evaluate_every": 2})
    config.optimizer.update({"warm_up_steps": 1, "decay_steps": 4})
    config.sampling.steps = 2
    config.preview.samples = 16
    config.mesh.fsdp = 1
    return config
