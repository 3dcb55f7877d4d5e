"""Summarises a prepared data set in a few lines of text."""

from collections.abc import Iterator, Mapping
from typing import Any

from imagen_jax.data.preparation.statistics import quantile

UNITS = {1: "bytes", 10**3: "kB", 10**6: "MB", 10**9: "GB", 10**12: "TB"}


def format_manifest(manifest: Mapping[str, Any], out: str) -> Iterator[str]:
    """Yields the lines of a manifest's summary; ``out`` is the path of the data set."""
    counts = ", ".join(f"{count:,} {split}" for split, count in manifest["counts"].items())
    size = sum(shard["bytes"] for shard in manifest["shards"])
    yield f"{out}: {counts} images in {len(manifest['shards'])} shards, {format_size(size)}"
    named = {
        "shorter_side": ("shorter side", " px"),
        "width_by_height": ("width by height", ""),
        "words": ("words of a caption", ""),
    }
    for name, (meaning, unit) in named.items():
        # Older manifests have ranges under other names instead of histograms, so their quantiles are unknown.
        if counts := manifest["statistics"].get(name):
            lowest, low, middle, high, highest = (
                f"{quantile(counts, share):g}" for share in (0.0, 0.05, 0.5, 0.95, 1.0)
            )
            yield f"    {meaning}: {lowest} to {highest}{unit}, median {middle}, 90% between {low} and {high}"
    named_in = {"damaged": " (quarantine.jsonl names them)", "repeated": " (repeated.jsonl names them)"}
    for title in ("damaged", "dropped", "repeated"):
        listed = ", ".join(f"{count:,} {reason}" for reason, count in manifest[title].items() if count)
        if listed:
            yield f"    {title}: {listed}" + named_in.get(title, "")
    yield f"    {manifest['attribution']}"


def format_size(size: int) -> str:
    """Formats a number of bytes with three digits, in the largest unit that it reaches."""
    unit = max(unit for unit in UNITS if unit == 1 or size >= unit)
    return f"{size / unit:.3g} {UNITS[unit]}"


def format_duration(seconds: float) -> str:
    """Formats a duration in the largest of hours, minutes and seconds that it reaches, with one decimal."""
    for unit, name in ((3600, "hours"), (60, "minutes")):
        if seconds >= unit:
            return f"{seconds / unit:.1f} {name}"
    return f"{seconds:.1f} seconds"
