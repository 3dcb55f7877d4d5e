"""How fast a CPU attends, and in how much memory: as it is written, in our way, and with PyTorch.

From the repository's root, with the extra ``parity`` for PyTorch's column::

    python -m tests.benchmarks.attention

For each shape a forward pass, and one with all gradients: milliseconds, all in turn, medians; and the memory that the
compiled program with gradients takes for what lies between (PyTorch does not tell).
"""

import importlib.util
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from imagen_jax.models.attending import attend, attend_as_written
from imagen_jax.runtime.backend import compiler_options
from tests.benchmarks.convolutions import measure

SHAPES = [
    # Batch, queries, keys, heads, channels of a head: of the networks in peers.md and of the quickstart.
    (8, 1024, 1101, 4, 48),
    (8, 256, 333, 6, 48),
    (8, 64, 141, 8, 48),
    (64, 64, 100, 8, 64),
    (2, 4096, 4173, 2, 64),
]

Run = Callable[[], None]
Arrays = list[np.ndarray]


def of_jax(function: Callable[..., jax.Array], arrays: Arrays) -> tuple[Run, Run, float]:
    """What runs a forward pass, and one with gradients; and MiB that the second takes."""
    mask = jnp.ones(arrays[1].shape[:2], bool)

    def forward(*arrays: jax.Array) -> jax.Array:
        return function(*arrays, mask)

    def with_gradients(*arrays: jax.Array) -> tuple[jax.Array, ...]:
        answers, pull_back = jax.vjp(forward, *arrays)
        return answers, *pull_back(answers)

    one, other = (
        jax.jit(function).lower(*arrays).compile(compiler_options=compiler_options("cpu"))
        for function in (forward, with_gradients)
    )
    given = [jnp.asarray(array) for array in arrays]
    memory = other.memory_analysis().temp_size_in_bytes / 2**20
    return lambda: jax.block_until_ready(one(*given)), lambda: jax.block_until_ready(other(*given)), memory


def of_torch(arrays: Arrays) -> tuple[Run, Run]:
    """The same with PyTorch, heads first as its users have them."""
    import torch

    given = [torch.from_numpy(array.swapaxes(1, 2).copy()) for array in arrays]
    attend = torch.nn.functional.scaled_dot_product_attention

    def forward() -> None:
        with torch.no_grad():
            attend(*given)

    def with_gradients() -> None:
        wanted = [array.requires_grad_() for array in given]
        answers = attend(*wanted)
        torch.autograd.grad(answers, wanted, answers.detach())

    return forward, with_gradients


def main() -> None:
    """Prints the table."""
    with_torch = importlib.util.find_spec("torch") is not None
    print("| batch, queries, keys, heads, channels | as written | ours |" + " PyTorch |" * with_torch)
    print("|---|---|---|" + "---|" * with_torch, flush=True)
    for batch, queries, keys, heads, channels in SHAPES:
        generator = np.random.default_rng(0)
        lengths = (queries, keys, keys)
        arrays = [generator.standard_normal((batch, length, heads, channels), np.float32) for length in lengths]
        memory, ways = {}, {}
        for name, function in {"as written": attend_as_written, "ours": attend}.items():
            *ways[name], memory[name] = of_jax(function, arrays)
        if with_torch:
            ways["PyTorch"] = of_torch(arrays)
        cells = []
        for name, (forward, both) in measure(ways).items():
            memory_text = f", {memory[name]:.0f} MiB" if name in memory else ""
            cells.append(f"{1000 * forward:.0f} / {1000 * both:.0f} ms{memory_text}")
        print(f"| {batch}, {queries}, {keys}, {heads}, {channels} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
