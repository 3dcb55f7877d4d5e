"""Seconds for each code that an autoregressive prior draws, by the number of codes: with its cache, and without.

From the repository's root::

    python -m tests.benchmarks.code_decoding [--codes=32,64,128,319] [--width=256] [--layers=4] [--batch=4] [--rounds=3]

With the cache each further code reads one position, and attends over a cache of the whole sequence. Without it, a
program of one length runs the whole sequence again for each code; one run of it is timed. The network always has room
for the largest number of codes, so that the cost of a code is that of the same network. Medians of the rounds.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from imagen_jax.array_types import Text
from imagen_jax.cascade.code_stage import make_code_decoder
from imagen_jax.diffusion.conditions import Conditions, Vectors
from imagen_jax.models.code_prior import CodePrior
from imagen_jax.sampling.codes import CodeSettings, draw_codes
from imagen_jax.sharding.axes import remove_logical_axes

TEXT_LENGTH, TEXT_WIDTH, CHANNELS, BUCKETS = 64, 256, 512, 1024


def median_seconds(run: Callable[[], Any], rounds: int) -> float:
    """Returns the median time of a run, after one that compiles it."""
    jax.block_until_ready(run())
    seconds = []
    for _ in range(rounds):
        began = time.perf_counter()
        jax.block_until_ready(run())
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--codes", default="32,64,128,319")
    for name, default in (("width", 256), ("layers", 4), ("heads", 4), ("batch", 4), ("rounds", 3)):
        parser.add_argument(f"--{name}", type=int, default=default)
    given = parser.parse_args()
    counts, batch = [int(one) for one in given.codes.split(",")], given.batch
    network = CodePrior(
        codes=max(counts),
        buckets=BUCKETS,
        similarity_buckets=BUCKETS,
        text_length=TEXT_LENGTH,
        width=given.width,
        layers=given.layers,
        heads=given.heads,
    )
    text = Text(jnp.ones((batch, TEXT_LENGTH, TEXT_WIDTH)), jnp.ones((batch, TEXT_LENGTH), bool))
    conditions = Conditions(text=text, text_vector=Vectors(jnp.ones((batch, CHANNELS)), jnp.ones(batch, bool)))
    similarity, codes = jnp.zeros(batch, jnp.int32), jnp.zeros((batch, max(counts)), jnp.int32)
    variables = jax.jit(network.init)(jax.random.key(0), conditions, similarity, codes)
    params = remove_logical_axes(variables["params"])
    keys = jax.random.split(jax.random.key(1), batch)

    whole = jax.jit(lambda params: network.apply({"params": params}, conditions, similarity, codes).codes)
    of_whole = median_seconds(lambda: whole(params), given.rounds)
    print("| codes | seconds | milliseconds for a code | without a cache, milliseconds for a code |\n|---|---|---|---|")
    for count in counts:

        def draw(params: Any, count: int = count) -> Any:
            return draw_codes(make_code_decoder(network, params, conditions), keys, count, CodeSettings())

        compiled = jax.jit(draw).lower(params).compile()
        seconds = median_seconds(lambda compiled=compiled: compiled(params), given.rounds)
        print(f"| {count} | {seconds:.3f} | {1000 * seconds / count:.2f} | {1000 * of_whole:.2f} |", flush=True)


if __name__ == "__main__":
    main()
