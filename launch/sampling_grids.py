"""Samples grids of settings with a base: samplers and steps, guidance weights, or thresholds.

    python launch/sampling_grids.py samplers --out=grid.png

Each cell is the same prompt and noise with another setting, so that a row shows what the setting changes.
"""

import argparse
import itertools
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image, ImageDraw, ImageFont

from imagen_jax import load_cascade
from imagen_jax.runtime.compilation_cache import enable_compilation_cache

BUNDLED = "imagen_jax/pretrained/openmoji/base"
PROMPTS = ("red apple", "panda", "sunflower", "pizza")
SAMPLERS = ("ancestral", "dpm_solver_2m_sde", "ddim", "dpm_solver_2m", "heun", "unipc")
CELL, GAP, LEFT, TOP, TEXT = 128, 10, 170, 30, 15


class Column(NamedTuple):
    """One column of a grid.

    Attributes:
        title: its heading.
        settings: the settings of sampling, keys of ``config.sampling``.
    """

    title: str
    settings: dict[str, Any]


class Row(NamedTuple):
    """One row of a grid.

    Attributes:
        title: its heading.
        prompt: the prompt of its images.
        settings: the settings of sampling that differ between rows.
    """

    title: str
    prompt: str
    settings: dict[str, Any]


GRIDS: dict[str, tuple[list[Row], list[Column]]] = {
    "samplers": (
        [Row(sampler, "red flower", {"sampler": sampler}) for sampler in SAMPLERS],
        [Column(f"{steps} step{'s' * (steps > 1)}", {"steps": steps}) for steps in (1, 2, 4, 16)],
    ),
    "guidance": (
        [Row(prompt, prompt, {}) for prompt in PROMPTS],
        [
            *(Column(f"weight {weight:g}", {"guidance": weight}) for weight in (1.0, 1.5, 3.0, 5.0, 8.0)),
            Column("8 in (-5, 3)", {"guidance": 8.0, "guidance_interval": (-5.0, 3.0)}),
        ],
    ),
    "thresholds": (
        [Row(kind, "sunflower", {"thresholding": kind}) for kind in ("none", "static", "dynamic")],
        [Column(f"weight {weight:g}", {"guidance": weight}) for weight in (1.0, 4.0, 8.0)],
    ),
}


def sample_grid(base: str, rows: list[Row], columns: list[Column]) -> dict[tuple[int, int], Image.Image]:
    """Samples all cells, by row and column. Rows that differ in their prompts alone are sampled together."""
    cascade = load_cascade([base])
    images = {}
    numbered = list(enumerate(rows))
    for column, (_, settings) in enumerate(columns):
        for _, group in itertools.groupby(numbered, lambda one: repr(one[1].settings)):
            members = list(group)
            merged = members[0][1].settings | settings
            sampled = cascade.sample([row.prompt for _, row in members], **merged)
            images |= {(number, column): image for (number, _), image in zip(members, sampled, strict=True)}
        print(f"{column + 1} of {len(columns)} columns", flush=True)
    return images


def draw_grid(images: dict[tuple[int, int], Image.Image], rows: list[Row], columns: list[Column]) -> Image.Image:
    """Arranges the cells with the titles of their rows and columns."""
    size = (LEFT + len(columns) * (CELL + GAP), TOP + len(rows) * (CELL + GAP))
    sheet, font = Image.new("RGB", size, "white"), ImageFont.load_default(TEXT)
    draw = ImageDraw.Draw(sheet)
    for column, (title, _) in enumerate(columns):
        draw.text((LEFT + column * (CELL + GAP) + CELL / 2, TOP / 2), title, fill="black", font=font, anchor="mm")
    for number, row in enumerate(rows):
        middle = TOP + number * (CELL + GAP) + CELL / 2
        draw.text((LEFT - 14, middle), row.title, fill="black", font=font, anchor="rm")
    for (number, column), image in images.items():
        enlarged = image.resize((CELL, CELL), Image.Resampling.NEAREST)
        sheet.paste(enlarged, (LEFT + column * (CELL + GAP), TOP + number * (CELL + GAP)))
    return sheet


def main() -> None:
    """Samples one grid and writes it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("grid", choices=GRIDS)
    parser.add_argument("--base", default=BUNDLED, help="Folder of the base (the bundled one).")
    parser.add_argument("--out", required=True, type=Path, help="The PNG file.")
    arguments = parser.parse_args()
    rows, columns = GRIDS[arguments.grid]
    enable_compilation_cache()
    sheet = draw_grid(sample_grid(arguments.base, rows, columns), rows, columns)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    # 256 colours: a third of the size, and no visible difference in drawings.
    sheet.quantize(256).save(arguments.out, optimize=True)
    print(f"{len(rows) * len(columns)} images: {arguments.out}")


if __name__ == "__main__":
    main()
