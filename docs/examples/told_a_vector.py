"""A decoder that is told a vector of each image, as DALL·E 2's is told CLIP's image embedding.

Here the vector is the mean colour of each of four quarters: 12 numbers that anybody can check in the samples.
"""

import jax.numpy as jnp
import numpy as np

from imagen_jax import load_config
from imagen_jax.cascade.loading import load_encoder_of, load_stage
from imagen_jax.cascade.stage import with_settings
from imagen_jax.cascade.stage_inputs import keys_of_prompts, make_inputs
from imagen_jax.cascade.stage_sampler import make_draw_stage
from imagen_jax.diffusion.conditions import Conditions, Vectors
from imagen_jax.storage.paths import to_path
from imagen_jax.train import train

WIDTH = 12


def colours_of(images):
    """The mean colours of the quarters of images, (batch, 12), from images (batch, height, width, 3) in [-1, 1]."""
    batch, height, width, _ = images.shape
    quarters = images.reshape(batch, 2, height // 2, 2, width // 2, 3)
    return quarters.mean(axis=(2, 4)).reshape(batch, WIDTH)


def train_decoder(config, workdir):
    """Trains a stage that is told the colours: the config says how wide they are, the function what they are."""
    config = load_config(config) if isinstance(config, str) else config
    config.stage.image_vector = WIDTH
    config.training.drop = {"image_vector": 0.1}
    vectors = {"image_vector": lambda examples: colours_of(np.asarray(examples["image"]))}
    return train(config, workdir, vectors=vectors)


def draw(workdir, captions, colours, seed=0, **sampling):
    """Samples one image for each caption and its colours, (batch, height, width, 3) in [-1, 1].

    Settings are those of ``config.sampling``, as in ``draw(…, guidance=3.0, steps=32)``.
    """
    trained = load_stage(to_path(workdir))
    stage = with_settings(trained.stage, {**trained.config.sampling.to_dict(), **sampling})
    text = load_encoder_of(trained).encode(captions, stage.text_length)
    vector = Vectors(jnp.asarray(colours), jnp.ones(len(captions), bool))
    keys = keys_of_prompts(seed, captions, range(len(captions)))
    inputs = make_inputs(Conditions(text=text, image_vector=vector), keys)
    return make_draw_stage(stage)(trained.params, inputs)
