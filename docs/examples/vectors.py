"""A diffusion model of vectors, as of embeddings, with the pure functions alone: no config, no cascade.

vectors (batch, d) -> denoising_loss -> Adam -> a denoiser -> sample
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from imagen_jax.diffusion.loss import denoising_loss
from imagen_jax.diffusion.noise_levels import times
from imagen_jax.diffusion.process import PREDICTIONS
from imagen_jax.diffusion.schedules import cosine
from imagen_jax.sampling.sampler import sample
from imagen_jax.sampling.solvers import dpm_solver_2m
from imagen_jax.sampling.spacings import space_in_log_snr

PREDICTION = PREDICTIONS["x0"]


class Network(nn.Module):
    """Two residual layers, told the log-SNR."""

    width: int = 256

    @nn.compact
    def __call__(self, noisy, log_snr):
        level = log_snr[:, None] * jnp.array([[0.1, 0.3, 1.0]])
        x = nn.Dense(self.width)(jnp.concatenate([noisy, jnp.sin(level), jnp.cos(level)], axis=-1))
        for _ in range(2):
            x = x + nn.Dense(self.width)(nn.gelu(nn.Dense(self.width)(nn.LayerNorm()(x))))
        return nn.Dense(noisy.shape[-1])(nn.LayerNorm()(x))


def fit(vectors, steps, batch=256, seed=0):
    """Trains a network on vectors, (count, d), and returns its denoiser: ``denoise(noisy, log_snr) -> clean``."""
    network, optimizer = Network(), optax.adam(1e-3)
    params = network.init(jax.random.key(seed), vectors[:1], jnp.zeros(1))

    def loss(params, key):
        choice_key, loss_key = jax.random.split(key)
        chosen = vectors[jax.random.randint(choice_key, (batch,), 0, len(vectors))]

        def predict(noisy, log_snr):
            return network.apply(params, noisy, log_snr)

        return denoising_loss(predict, chosen, loss_key, levels=times(cosine), prediction=PREDICTION)

    def step(state, key):
        params, moments = state
        updates, moments = optimizer.update(jax.grad(loss)(params, key), moments)
        return (optax.apply_updates(params, updates), moments), None

    keys = jax.random.split(jax.random.key(seed + 1), steps)
    (params, _), _ = jax.jit(lambda state: jax.lax.scan(step, state, keys))((params, optimizer.init(params)))
    return lambda noisy, log_snr: PREDICTION.to_clean(network.apply(params, noisy, log_snr), noisy, log_snr)


def draw(denoise, count, width, steps=20, seed=0):
    """Samples vectors, (count, width), with DPM-Solver++(2M)."""
    keys = jax.random.split(jax.random.key(seed), count)
    log_snrs = space_in_log_snr(cosine, steps)
    return jax.jit(lambda keys: sample(denoise, dpm_solver_2m(), log_snrs, keys, (width,)))(keys)
