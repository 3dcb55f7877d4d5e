"""What a prepared data set is, in a few lines that people can read."""

from collections.abc import Iterator, Mapping
from typing import Any

from imagen_jax.data.statistics import quantile


def format_manifest(manifest: Mapping[str, Any], out: str) -> Iterator[str]:
    """The lines of a manifest; ``out`` is where the data set lies."""
    counts = ", ".join(f"{count:,} {split}" for split, count in manifest["counts"].items())
    size = sum(shard["bytes"] for shard in manifest["shards"])
    yield f"{out}: {counts} images in {len(manifest['shards'])} shards, {size / 2**30:.2f} GiB"
    statistics = manifest["statistics"]
    named = {"side": "px of the shorter side", "aspect": "width by height", "words": "words a caption"}
    for name, meaning in named.items():
        low, middle, high = (quantile(statistics[name], share) for share in (0.05, 0.5, 0.95))
        yield f"    {meaning}: {middle:g}, nine tenths from {low:g} to {high:g}"
    named_in = {"damaged": " (quarantine.jsonl names them)", "repeated": " (repeated.jsonl names them)"}
    for title in ("damaged", "dropped", "repeated"):
        told = ", ".join(f"{count:,} {reason}" for reason, count in manifest[title].items() if count)
        if told:
            yield f"    {title}: {told}" + named_in.get(title, "")
    yield f"    {manifest['attribution']}"
