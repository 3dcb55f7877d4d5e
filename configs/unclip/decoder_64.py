"""unCLIP's decoder: an ADM U-Net that makes 64-px images from CLIP's image embedding z_i and the caption's tokens.

Command:   imagen-jax train --config=configs/unclip/decoder_64.py --workdir=runs/unclip/decoder \
               --config.data.options.folder=DATA --config.text.tokenizer=bpe_simple_vocab_16e6.txt.gz \
               --config.embedding.clip=CLIP
Hardware:  not printed.
Result:    not yet run beyond the smoke size.
Variants:  paper (default); with ",smoke" a size that trains in seconds, for the tests.

Numbers and their sources. U is Ramesh et al. 2022; G is GLIDE (Nichol et al. 2021), whose network the decoder is:

    512 channels × (1, 2, 3, 4), 3 blocks a level             U, Table 3
    attention at 32, 16 and 8 px, 64 channels a head          U, Table 3
    text transformer 24 × 2048, 32 heads, 256 tokens          U, Table 3
    last state added to the time, all states as tokens        G, section 4.1; each attention projects them itself
    padding embeddings, last norm                             G's code; in neither paper
    z_i of 1,024 channels: added to the time, and 4 tokens    U, section 2.1 and appendix C
    dropout 0.1, inside residual blocks as in ADM             U, Table 3
    captions dropped for 50%, z_i for 10%, independently      U, section 2.1; so 5% have neither (section 5.1)
    1,000 steps, cosine schedule                              U, Table 3; the network predicts the noise, as in G
    learned variance, with the hybrid loss                    U, Table 3; Nichol & Dhariwal 2021
    250 strided steps                                         U, Table 3
    batches of 2048, 800K steps, learning rate 1.2e-4         U, Table 3
    Adam, β1 0.9, β2 0.999, ε 1e-8, no weight decay           U, appendix C and Table 3
    average of the parameters 0.9999                          U, Table 3; with our warm-up

Not printed, and our choice:

    guidance                   1.25, with which U reports its FID (Table 2); U's figures have 1 to 4
    rate over the steps        a warm-up of 10,000 steps and a cosine to 0, as in ``configs.imagen``
    gradient clipping          to a global norm of 1
    vocabulary                 CLIP's; that of GLIDE is another
    form of z_i                its direction, with channels near 1
    time                       continuous, where U has 1,000 steps
    thresholding               static
    mesh                       states sharded over 8 chips, batches over all
"""

from ml_collections import ConfigDict

from ..base import base
from ..quickstart import read_variant, shorten

STEPS = 800_000


def get_config(variant: str = "paper") -> ConfigDict:
    """The config of one variant.

    Raises:
        ValueError: an unknown variant.
    """
    _, smoke = read_variant(variant, ("paper",))
    config = base()
    # The images of the folder must not be smaller than the resolution.
    config.data.update({"source": "prepared", "options": {"folder": ""}, "resolution": 64, "num_workers": 16})
    config.text.update({"length": 256, "tokenizer": ""})
    config.stage.update({"resolution": 64, "text": False, "tokens": True, "image_vector": 1024})
    config.network = ConfigDict(
        {
            "name": "unet",
            "channels": 512,
            "channel_multipliers": (1, 2, 3, 4),
            "blocks_per_level": 3,
            "attention_resolutions": (32, 16, 8),
            "head_channels": 64,
            "vector_tokens": 4,
            "text_transformer": {"width": 2048, "layers": 24, "heads": 32, "context": 256, "vocabulary": 49_408},
            "dropout": 0.1,
            "out_channels": 6,  # the noise, and the variance of a step
            "remat": "none",  # what is computed again for the gradient, see models/remat.py
            "dtype": "bfloat16",
        }
    )
    config.training.update({"steps": STEPS, "batch_size": 2048, "caption_dropout": 0.5, "drop": {"image_vector": 0.1}})
    config.optimizer.update(
        {
            "name": "adam",
            "learning_rate": 1.2e-4,
            "warm_up_steps": 10_000,
            "decay_steps": STEPS,
            "b1": 0.9,
            "b2": 0.999,
            "epsilon": 1e-8,
        }
    )
    config.sampling.update({"steps": 250, "guidance": 1.25, "thresholding": "static"})
    config.preview.prompts = (
        "a teapot in the shape of a fox",
        "two rowing boats on a lake at dawn",
        "an oil painting of a greenhouse at night",
        "a stack of pancakes with blueberries",
    )
    config.mesh.fsdp = 8
    return shrink(config) if smoke else config


def shrink(config: ConfigDict) -> ConfigDict:
    """The smoke size: the same parts, two levels and narrow, on drawings, with the tokenizer that needs no file."""
    config.data.update({"source": "openmoji", "options": {}, "resolution": 8, "validation_fraction": 0.1})
    config.data.num_workers = 0
    config.text.update({"length": 12, "tokenizer": "minilm"})
    config.stage.update({"resolution": 8, "image_vector": 16})
    config.network.update({"channels": 8, "channel_multipliers": (1, 2), "blocks_per_level": 1, "head_channels": 4})
    config.network.update({"attention_resolutions": (4,), "dtype": "float32"})
    config.network.text_transformer.update({"width": 16, "layers": 2, "heads": 2, "context": 16, "vocabulary": 30_522})
    shorten(config)
    config.mesh.fsdp = 1
    return config
