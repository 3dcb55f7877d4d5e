"""The table with which the sampler ``analytic`` knows how uncertain a prior's estimates are (Bao et al. 2022).

    training pairs -> noise -> the network's estimate x̂, at each log-SNR -> E|x - x̂|²/d -> estimate_errors.json

A prior's training writes the table at each evaluation, and ``loading`` puts it into ``config.sampling``. Bao et al.
compute the same number from the mean of the squared score; near pure noise that is a small difference of large numbers.
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
from imagen_jax.diffusion.process import add_noise
from imagen_jax.errors import UserError
from imagen_jax.sampling.estimates import split_estimate
from imagen_jax.sampling.sampler import fold_into_each, normal_for_each
from imagen_jax.sampling.step_rules import ERROR_LOG_SNRS
from imagen_jax.storage.json_text import read_json
from imagen_jax.storage.paths import Path, write_whole

FILE = "estimate_errors.json"


def make_estimate_errors(stage: Stage) -> Callable[[Params, Inputs, Samples], Float[Array, " levels"]]:
    """Makes ``errors(params, inputs, clean)``: the mean squared error of x̂, at each of ``ERROR_LOG_SNRS``.

    Guidance would change the estimate, so there is none.
    """
    unguided = replace(stage, settings=stage.settings._replace(guidance_weight=1.0))

    def errors(params: Params, inputs: Inputs, clean: Samples) -> Float[Array, " levels"]:
        denoise = make_guided_denoiser(unguided, params, inputs)

        def at_level(number: jax.Array) -> jax.Array:
            levels = jnp.full(len(clean), jnp.asarray(ERROR_LOG_SNRS, jnp.float32)[number])
            noise = normal_for_each(fold_into_each(inputs.keys, number), clean.shape[1:])
            estimate, _ = split_estimate(denoise(add_noise(clean, noise, levels), levels))
            return jnp.mean(jnp.square(estimate - clean))

        return jax.lax.map(at_level, jnp.arange(len(ERROR_LOG_SNRS)))

    return errors


def write_estimate_errors(workdir: Path, errors: Any) -> None:
    """Writes the table into a workdir."""
    values = [float(f"{float(value):.4g}") for value in np.asarray(errors)]
    write_whole(workdir / FILE, (json.dumps({"log_snrs": ERROR_LOG_SNRS, "errors": values}) + "\n").encode())


def with_estimate_errors(config: ModelConfig, workdir: Path) -> ModelConfig:
    """Returns a prior's config with the table of its workdir, if there is one and the config has none.

    Raises:
        UserError: the file is damaged.
    """
    if not config.stage.vector or config.sampling.estimate_errors or not (workdir / FILE).is_file():
        return config
    try:
        table = ",".join(f"{float(value):g}" for value in read_json(workdir / FILE)["errors"])
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{workdir / FILE} is damaged: remove it, and the sampler analytic can't be used ({error})"
        ) from error
    return replace(config, sampling=replace(config.sampling, estimate_errors=table))
