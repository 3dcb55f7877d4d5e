"""Makes the figures of docs/how_it_works.md from the package's own functions.

python docs/make_figures.py [FOLDER]

Needs the extras ``train`` (Matplotlib) and ``openmoji``. Without a folder, it writes to ``docs/figures``.
"""

import io
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from imagen_jax.array_types import Denoiser, PerExample, Samples
from imagen_jax.data.sources.sources import list_images
from imagen_jax.diffusion.process import add_noise, signal_and_noise_scale
from imagen_jax.diffusion.schedules import SCHEDULES, cosine
from imagen_jax.sampling.sampler import begin, take_steps
from imagen_jax.sampling.step_rules import StepRule, ancestral, ddim

CAPTION = "panda"
MODES = (-0.6, 0.6)
DEVIATION = 0.07
STEPS = 64
NUM_PATHS = 14


def main() -> None:
    """Makes all figures."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "figures"
    folder.mkdir(parents=True, exist_ok=True)
    plt.rcParams.update({"font.size": 10, "axes.spines.top": False, "axes.spines.right": False, "savefig.dpi": 110})
    plot_schedules(folder / "schedules.png")
    plot_noised(folder / "noised.jpg")
    plot_paths(folder / "paths.png")


def save(figure: Figure, file: Path) -> None:
    """Writes a figure as a small file: a JPEG, or a PNG of at most 128 colours."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    plt.close(figure)
    image = Image.open(buffer).convert("RGB")
    image = image if file.suffix == ".jpg" else image.quantize(128)
    image.save(file, quality=85, optimize=True)


def plot_schedules(file: Path) -> None:
    """Plots the log-SNR and the scales of each schedule over time."""
    time = jnp.linspace(0.0, 1.0, 400)
    figure, (left, right) = plt.subplots(1, 2, figsize=(8.5, 3.2), layout="constrained")
    for name, schedule in SCHEDULES.items():
        log_snr = schedule(time)
        alpha, sigma = (np.ravel(scale) for scale in signal_and_noise_scale(log_snr, time[:, None]))
        # The two cosine schedules are almost the same curve.
        style = {"linewidth": 4.0 if name == "cosine" else 1.5}
        (line,) = left.plot(time, log_snr, label=name, **style)
        style["color"] = line.get_color()
        right.plot(time, alpha, **style)
        right.plot(time, sigma, linestyle=(0, (4, 2)), **style)
    left.axhline(0.0, color="lightgrey", linewidth=1, zorder=0)
    left.set(xlabel="time t", ylabel="log-SNR λ")
    left.legend(frameon=False)
    right.set(xlabel="time t", ylabel="scale: α solid, σ dashed")
    save(figure, file)


def plot_noised(file: Path) -> None:
    """Shows one image at equally spaced times, under two schedules."""
    drawing = next(image for image in list_images("openmoji", {}) if image.caption == CAPTION)
    image = jnp.asarray(drawing.render(128), jnp.float32)[None] / 127.5 - 1.0
    noise = jax.random.normal(jax.random.key(0), image.shape)
    times = jnp.linspace(0.0, 1.0, 7)
    figure, rows = plt.subplots(2, len(times), figsize=(8.5, 2.7), layout="constrained")
    for name, row in zip(("cosine", "linear"), rows, strict=True):
        for axes, time in zip(row, times, strict=True):
            noisy = add_noise(image, noise, SCHEDULES[name](time[None]))
            axes.imshow(np.clip((noisy[0] + 1.0) / 2.0, 0.0, 1.0))
            axes.set(xticks=[], yticks=[])
            if name == "cosine":
                axes.set_title(f"t = {time:.2f}", fontsize=10)
        row[0].set_ylabel(name)
    save(figure, file)


def plot_paths(file: Path) -> None:
    """Plots paths of images of one pixel from noise to two modes, over the exact density at each time."""
    times = jnp.linspace(1.0, 0.0, STEPS + 1)
    keys = jax.random.split(jax.random.key(3), NUM_PATHS)
    figure, both = plt.subplots(1, 2, figsize=(8.5, 3.2), sharey=True, layout="constrained")
    for axes, rule, title in zip(both, (ddim(), ancestral()), ("DDIM, η = 0", "ancestral, γ = 0"), strict=True):
        values = jnp.linspace(-2.6, 2.6, 300)
        density = jnp.stack([density_of(values, cosine(time)) for time in times], axis=1)
        axes.imshow(
            np.sqrt(density / density.max(axis=0, keepdims=True)),
            aspect="auto",
            cmap="Blues",
            extent=(1, 0, 2.6, -2.6),
            vmax=1.8,
        )
        axes.plot(times, trace_paths(denoise_exactly, rule, cosine(times), keys), linewidth=0.9, color="#c0392b")
        axes.invert_yaxis()
        axes.set(xlabel="time t: noise left, image right", title=title)
    both[0].set_ylabel("pixel z")
    save(figure, file)


def density_of(values: jax.Array, log_snr: jax.Array) -> jax.Array:
    """Returns the density of the noisy pixel at ``values``, up to a constant."""
    alpha, sigma = (scale.ravel() for scale in signal_and_noise_scale(log_snr[None], jnp.zeros((1, 1))))
    deviation = jnp.sqrt(jnp.square(alpha * DEVIATION) + jnp.square(sigma))
    return sum(jnp.exp(-0.5 * jnp.square((values - alpha * mode) / deviation)) / deviation for mode in MODES)


def denoise_exactly(noisy: Samples, log_snr: PerExample) -> Samples:
    """Returns the mean of the clean pixel, given the noisy one: each mode's own mean, weighted by its probability."""
    alpha, sigma = signal_and_noise_scale(log_snr, noisy)
    modes = jnp.asarray(MODES).reshape(1, 1, 1, -1)
    variance = jnp.square(alpha * DEVIATION) + jnp.square(sigma)
    probability = jax.nn.softmax(-0.5 * jnp.square(noisy - alpha * modes) / variance, axis=-1)
    means = modes + alpha * DEVIATION**2 / variance * (noisy - alpha * modes)
    return (probability * means).sum(axis=-1, keepdims=True)


def trace_paths(denoise: Denoiser, rule: StepRule, log_snrs: jax.Array, keys: jax.Array) -> np.ndarray:
    """Returns the pixel after each step, ``(steps + 1, samples)``."""
    step = jax.jit(lambda state, number: take_steps(denoise, rule, log_snrs, keys, state, number, number + 1))
    states = [begin(rule, keys, (1, 1, 1))]
    for number in range(len(log_snrs) - 1):
        states.append(step(states[-1], number))
    return np.stack([np.ravel(state.noisy) for state in states])


if __name__ == "__main__":
    main()
