"""A network's parameters, by the part of the network that they sit in and by what they do."""

import math
import re
from collections.abc import Iterator
from typing import Any

import jax

KINDS = ("convolutions", "resampling", "attention", "text", "embeddings")
"""What parameters do.

convolutions: residual blocks, the first and the last layer; each kind counts its normalisations.
resampling: convolutions, or whole residual blocks, that change the resolution.
attention: to other places of the image, and the feed-forward network after it.
text: all that reads token embeddings, the keys and values in attention too, or the pooled text.
embeddings: of noise and augmentation level, and each residual block's layer that reads the embedding.
"""

ENDS = ("conv_in", "conv_out", "norm_out", "out", "input_gates")
COMES_FIRST = ("conditioning", "input and output", "down", "middle", "up")

Counts = dict[str, dict[str, int]]
"""``counts[part][kind]``: parts from the input to the output, kinds as in ``KINDS``."""


def part_of(module: str) -> str:
    """The part that a top module of a network belongs to, such as "middle", or "down 2" for ``down_2_0``."""
    if found := re.match(r"(down|up)_(\d+)", module):
        return f"{found[1]} {found[2]}"
    if module in ENDS:
        return "input and output"
    return "middle" if module.startswith("middle") else module


def kind_of(path: tuple[str, ...]) -> str:
    """The kind of the parameter at a path of module names."""
    top = path[0]
    if any(name.startswith(("text_", "pooled_")) for name in path):
        return "text"
    if top.endswith(("attention", "feed_forward")):
        return "attention"
    if top == "conditioning" or "embedding" in path:
        return "embeddings"
    return "resampling" if re.fullmatch(r"(down|up)_\d+_(conv|resample)", top) else "convolutions"


def place_of(part: str) -> tuple[int, int, str]:
    """Sorts parts from the input to the output; those that no network of ours has come last."""
    name, _, level = part.partition(" ")
    known = [COMES_FIRST.index(one) for one in (part, name) if one in COMES_FIRST]
    number = int(level) if level.isdigit() else 0
    return (known[0] if known else len(COMES_FIRST), -number if name == "up" else number, part)


def count_parameters(params: Any) -> Counts:
    """Counts parameters, or shapes of parameters as ``cascade.stage.abstract_params`` gives them."""
    counts: Counts = {}
    for path, array in jax.tree_util.tree_flatten_with_path(params)[0]:
        names = tuple(str(entry.key) for entry in path)
        of_part = counts.setdefault(part_of(names[0]), dict.fromkeys(KINDS, 0))
        of_part[kind_of(names)] += math.prod(array.shape)
    return {part: counts[part] for part in sorted(counts, key=place_of)}


def total_of(counts: Counts) -> int:
    """All parameters."""
    return sum(sum(kinds.values()) for kinds in counts.values())


def format_counts(counts: Counts) -> Iterator[str]:
    """The lines of a table: a row a part, a column a kind, and totals."""
    totals = {kind: sum(kinds[kind] for kinds in counts.values()) for kind in KINDS}
    yield f"{'parameters':>16}" + "".join(f" {title:>14}" for title in (*KINDS, "total"))
    for part, kinds in [*counts.items(), ("total", totals)]:
        numbers = [*(kinds[kind] for kind in KINDS), sum(kinds.values())]
        yield f"{part:>16}" + "".join(f" {number:>14,}" for number in numbers)
