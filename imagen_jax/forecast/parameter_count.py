"""Counts a network's parameters by part of the network and by kind."""

import math
import re
from collections.abc import Iterator
from typing import Any

import jax

KINDS = ("convolutions", "resampling", "attention", "text", "embeddings")
"""Kinds of parameters. Each kind includes its normalisations.

convolutions: residual blocks, the first and the last layer.
resampling: convolutions, or whole residual blocks, that change the resolution.
attention: attention within the image, and the feed-forward network after it.
text: layers that read token embeddings or the pooled text, including the keys and values in attention.
embeddings: embeddings of noise and augmentation level, and each residual block's layer that reads the embedding.
"""

ENDS = ("conv_in", "conv_out", "norm_out", "out", "input_gates")
COMES_FIRST = ("conditioning", "input and output", "down", "middle", "up")

Counts = dict[str, dict[str, int]]
"""Numbers of parameters as ``counts[part][kind]``: parts from the input to the output, kinds as in ``KINDS``."""


def part_of(module: str) -> str:
    """Returns the part that a network's top-level module belongs to: "middle", or "down 2" for ``down_2_0``, say."""
    if found := re.match(r"(down|up)_(\d+)", module):
        return f"{found[1]} {found[2]}"
    if module in ENDS:
        return "input and output"
    return "middle" if module.startswith("middle") else module


def kind_of(path: tuple[str, ...]) -> str:
    """Returns the kind of the parameter at a path of module names."""
    top = path[0]
    if any(name.startswith(("text_", "pooled_", "tokens_")) for name in path):
        return "text"
    if top.endswith(("attention", "feed_forward")):
        return "attention"
    if top == "conditioning" or "embedding" in path:
        return "embeddings"
    return "resampling" if re.fullmatch(r"(down|up)_\d+_(conv|resample)", top) else "convolutions"


def sort_key_of(part: str) -> tuple[int, int, str]:
    """Returns a sort key that orders parts from the input to the output; unknown parts come last."""
    name, _, level = part.partition(" ")
    known = [COMES_FIRST.index(one) for one in (part, name) if one in COMES_FIRST]
    number = int(level) if level.isdigit() else 0
    return (known[0] if known else len(COMES_FIRST), -number if name == "up" else number, part)


def count_parameters(params: Any) -> Counts:
    """Counts parameters, given as arrays or as shapes from ``cascade.stage.abstract_params``."""
    counts: Counts = {}
    for path, array in jax.tree_util.tree_flatten_with_path(params)[0]:
        names = tuple(str(entry.key) for entry in path)
        of_part = counts.setdefault(part_of(names[0]), dict.fromkeys(KINDS, 0))
        of_part[kind_of(names)] += math.prod(array.shape)
    return {part: counts[part] for part in sorted(counts, key=sort_key_of)}


def total_of(counts: Counts) -> int:
    """Returns the total number of parameters."""
    return sum(sum(kinds.values()) for kinds in counts.values())


def format_counts(counts: Counts) -> Iterator[str]:
    """Yields the lines of a table: a row for each part, a column for each kind, and totals."""
    totals = {kind: sum(kinds[kind] for kinds in counts.values()) for kind in KINDS}
    yield f"{'parameters':>16}" + "".join(f" {title:>14}" for title in (*KINDS, "total"))
    for part, kinds in [*counts.items(), ("total", totals)]:
        numbers = [*(kinds[kind] for kind in KINDS), sum(kinds.values())]
        yield f"{part:>16}" + "".join(f" {number:>14,}" for number in numbers)
