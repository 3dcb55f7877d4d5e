"""The table with which the sampler ``analytic`` knows how uncertain a prior is (Bao et al. 2022, equation 12).

    training pairs -> noise -> the network's estimate of the noise, at each log-SNR -> E|ε̂|²/d -> noise_norms.json

A prior's training writes the table at each evaluation, and ``loading`` puts it into ``config.sampling.noise_norms``.
"""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from imagen_jax.array_types import Samples
from imagen_jax.cascade.experiment import ModelConfig
from imagen_jax.cascade.stage import Params, Stage
from imagen_jax.cascade.stage_inputs import Inputs
from imagen_jax.cascade.stage_sampler import make_guided_denoiser
from imagen_jax.diffusion.process import add_noise, noise_from_clean
from imagen_jax.sampling.estimates import split_estimate
from imagen_jax.sampling.sampler import fold_into_each, normal_for_each
from imagen_jax.sampling.step_rules import NORM_LOG_SNRS
from imagen_jax.storage.json_text import read_json
from imagen_jax.storage.paths import Path, write_whole

FILE = "noise_norms.json"


def make_noise_norms(stage: Stage) -> Callable[[Params, Inputs, Samples], Float[Array, " levels"]]:
    """Makes ``norms(params, inputs, clean)``: the mean of ε̂² over examples and channels, at each ``NORM_LOG_SNRS``.

    Guidance would change the estimate, so there is none.
    """
    unguided = replace(stage, settings=stage.settings._replace(guidance_weight=1.0))

    def norms(params: Params, inputs: Inputs, clean: Samples) -> Float[Array, " levels"]:
        denoise = make_guided_denoiser(unguided, params, inputs)

        def at_level(number: jax.Array) -> jax.Array:
            levels = jnp.full(len(clean), jnp.asarray(NORM_LOG_SNRS)[number])
            noise = normal_for_each(fold_into_each(inputs.keys, number), clean.shape[1:])
            noisy = add_noise(clean, noise, levels)
            estimate, _ = split_estimate(denoise(noisy, levels))
            return jnp.mean(jnp.square(noise_from_clean(estimate, noisy, levels)))

        return jax.lax.map(at_level, jnp.arange(len(NORM_LOG_SNRS)))

    return norms


def write_noise_norms(workdir: Path, norms: Any) -> None:
    """Writes the table into a workdir."""
    values = [round(float(value), 6) for value in np.asarray(norms)]
    write_whole(workdir / FILE, (json.dumps({"log_snrs": NORM_LOG_SNRS, "noise_norms": values}) + "\n").encode())


def with_noise_norms(config: ModelConfig, workdir: Path) -> ModelConfig:
    """Returns the config with the table of its workdir, if there is one and the config has none."""
    if config.sampling.noise_norms or not (workdir / FILE).is_file():
        return config
    table = ",".join(f"{value:g}" for value in read_json(workdir / FILE)["noise_norms"])
    return replace(config, sampling=replace(config.sampling, noise_norms=table))
