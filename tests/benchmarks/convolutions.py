"""How fast a CPU convolves: the compiler's own convolution, ours, and PyTorch's.

From the repository's root, with the extra ``parity`` for PyTorch's column::

    python -m tests.benchmarks.convolutions

For each shape a forward pass, and one with both gradients: GFLOP/s by the operations of the direct convolution,
whatever the way does, so that columns compare. All take turns; medians.
"""

import importlib.util
import statistics
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from imagen_jax.models.convolutions import convolve

ROUNDS = 7
SHAPES = [
    # Batch, side, taps, stride, inputs, outputs.
    (8, 64, 3, 1, 64, 64),
    (8, 64, 3, 1, 192, 192),
    (8, 32, 3, 1, 128, 128),
    (8, 32, 3, 1, 320, 128),
    (8, 16, 3, 1, 192, 192),
    (8, 8, 3, 1, 512, 256),
    (8, 32, 3, 2, 128, 256),
    (8, 64, 3, 1, 3, 64),
    (8, 32, 1, 1, 256, 128),
    (2, 64, 3, 1, 96, 96),
    (2, 32, 3, 1, 192, 192),
    (2, 16, 3, 1, 288, 288),
]

Run = Callable[[], None]


def of_jax(function: Callable[..., jax.Array], x: np.ndarray, kernel: np.ndarray, stride: int) -> tuple[Run, Run]:
    """What runs a forward pass, and one with gradients."""
    half = kernel.shape[0] // 2
    padding, layout = [(half, half)] * 2, ("NHWC", "HWIO", "NHWC")

    def forward(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return function(x, kernel, (stride, stride), padding, dimension_numbers=layout)

    def with_gradients(x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, ...]:
        y, pull_back = jax.vjp(forward, x, kernel)
        return y, *pull_back(y)

    arguments = jnp.asarray(x), jnp.asarray(kernel)
    one, other = jax.jit(forward), jax.jit(with_gradients)
    return lambda: jax.block_until_ready(one(*arguments)), lambda: jax.block_until_ready(other(*arguments))


def of_torch(x: np.ndarray, kernel: np.ndarray, stride: int) -> tuple[Run, Run]:
    """The same with PyTorch, channels first as its users have them."""
    import torch

    inputs = torch.from_numpy(x.transpose(0, 3, 1, 2).copy())
    weights = torch.from_numpy(kernel.transpose(3, 2, 0, 1).copy())

    def forward() -> None:
        with torch.no_grad():
            torch.nn.functional.conv2d(inputs, weights, stride=stride, padding=kernel.shape[0] // 2)

    def with_gradients() -> None:
        wanted = inputs.requires_grad_(), weights.requires_grad_()
        y = torch.nn.functional.conv2d(*wanted, stride=stride, padding=kernel.shape[0] // 2)
        torch.autograd.grad(y, wanted, y.detach())

    return forward, with_gradients


def measure(ways: dict[str, tuple[Run, Run]]) -> dict[str, list[float]]:
    """Seconds of a forward pass and of one with gradients, by way."""
    seconds: dict[str, list[list[float]]] = {name: [[], []] for name in ways}
    for turn in range(ROUNDS + 1):
        for name, runs in ways.items():
            for number, run in enumerate(runs):
                begin = time.perf_counter()
                run()
                if turn:  # The first compiles.
                    seconds[name][number].append(time.perf_counter() - begin)
    return {name: [statistics.median(times) for times in both] for name, both in seconds.items()}


def main() -> None:
    """Prints the table."""
    with_torch = importlib.util.find_spec("torch") is not None
    print("| batch, side, taps, stride, in→out | XLA | ours |" + " PyTorch |" * with_torch)
    print("|---|---|---|" + "---|" * with_torch)
    for batch, side, taps, stride, inputs, outputs in SHAPES:
        generator = np.random.default_rng(0)
        x = generator.standard_normal((batch, side, side, inputs), np.float32)
        kernel = generator.standard_normal((taps, taps, inputs, outputs), np.float32) / taps / inputs**0.5
        ways = {
            "XLA": of_jax(jax.lax.conv_general_dilated, x, kernel, stride),
            "ours": of_jax(convolve, x, kernel, stride),
        }
        if with_torch:
            ways["PyTorch"] = of_torch(x, kernel, stride)
        work = 2e-9 * batch * (side // stride) ** 2 * taps**2 * inputs * outputs
        speeds = [f"{work / forward:.0f} / {3 * work / both:.0f}" for forward, both in measure(ways).values()]
        shape = f"{batch}, {side}, {taps}×{taps}, {stride}, {inputs}→{outputs}"
        print(f"| {shape} | " + " | ".join(speeds) + " |", flush=True)


if __name__ == "__main__":
    main()
