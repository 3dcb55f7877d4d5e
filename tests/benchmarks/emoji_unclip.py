"""What an unCLIP of emoji has learned: numbers and pictures of what Ramesh et al. 2022 claim, on held-out concepts.

    python -m tests.benchmarks.emoji_unclip OUT --stages=emoji_unclip [--images=24] [--parts=prior,variations]

Each claim is measured beside a control: the prior, what the decoder is told (figure 8), variations, interpolations,
text differences, and guidance. Later stages are left out. OUT gets ``results.json``, ``results.md`` and strips of
images. Each part is kept in OUT, so that a second call goes on. The data set is the one of the decoder's training.
"""

import argparse
import json
import platform
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax

sys.path.insert(0, str(Path(__file__).parents[2]))

from imagen_jax.runtime.main import enable_compilation_cache
from tests.benchmarks import emoji_unclip_parts as parts
from tests.benchmarks.emoji_unclip_images import Study, open_study

PARTS: dict[str, Callable[[Study, Path], dict[str, Any]]] = {
    "prior": parts.measure_prior_of,
    "reconstruction": parts.measure_reconstruction,
    "conditionings": parts.measure_conditionings,
    "variations": parts.measure_variations,
    "interpolations": parts.measure_interpolations,
    "text differences": parts.measure_text_differences,
    "guidance": parts.measure_guidance,
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures what is not measured yet, and writes all of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--stages", required=True, help="folders of the prior and the decoder")
    parser.add_argument(
        "--images", type=int, default=24, help="held-out images that are manipulated; 4 times as many captions"
    )
    parser.add_argument("--parts", default=",".join(PARTS), help="what is measured")
    options = parser.parse_args(arguments)
    enable_compilation_cache()
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / "results.json"
    results = json.loads(path.read_text()) if path.exists() else {}
    study = open_study(options.stages, options.images)
    for name in options.parts.split(","):
        if name not in results:
            print(f"== {name}", flush=True)
            results[name] = PARTS[name](study, options.out)
            path.write_text(json.dumps(results, indent=1, default=float) + "\n")
    table = write_tables(results) + f"\n{study.describe()}; {platform.machine()}, jax {jax.__version__}\n"
    (options.out / "results.md").write_text(table)
    print(table)


def write_tables(results: dict[str, Any]) -> str:
    """Returns all numbers as Markdown, one table for each part."""
    lines = []
    for part, rows in results.items():
        columns = list(dict.fromkeys(name for row in rows.values() for name in row))
        lines += [f"\n**{part}**\n", f"| | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
        for name, row in rows.items():
            lines.append(f"| {name} | {' | '.join(show(row.get(column)) for column in columns)} |")
    return "\n".join(lines) + "\n"


def show(value: Any) -> str:
    """A number, or a mean with its standard error."""
    if value is None:
        return ""
    if isinstance(value, Sequence):
        return f"{value[0]:.3f} ± {value[1]:.3f}"
    return str(value) if isinstance(value, int) or float(value).is_integer() else f"{value:.3f}"


if __name__ == "__main__":
    main()
