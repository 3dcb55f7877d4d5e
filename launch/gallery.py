"""Makes the pictures of docs/gallery.md: runs its blocks of code in order, then copies their grids to docs/figures.

    python launch/gallery.py

It runs in the checkout and writes to runs/gallery. A block whose results exist there is skipped, so it can be
interrupted. Half an hour on two cores the first time.
"""

import argparse
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

CHECKOUT = Path(__file__).parents[1]
PAGE = CHECKOUT / "docs" / "gallery.md"
FIGURES = CHECKOUT / "docs" / "figures" / "gallery"
WORK = CHECKOUT / "runs" / "gallery"
QUICKSTART = CHECKOUT / "runs" / "quickstart"

MAX_WIDTH = 800
"""Max width of a picture on the page, in pixels."""


def read_blocks(page: Path) -> Iterator[tuple[str, str]]:
    """Yields the language and the text of each block of bash or Python on a page."""
    yield from re.findall(r"^```(bash|python)\n(.*?)^```$", page.read_text("utf-8"), re.MULTILINE | re.DOTALL)


def list_results(text: str) -> list[Path]:
    """Returns the files that a block writes: the PNG file, or ``grid.png`` in the folder, that ``--out`` names."""
    named = [CHECKOUT / one for one in re.findall(r"--out=(\S+)", text)]
    return [one if one.suffix == ".png" else one / "grid.png" for one in named]


def run(language: str, text: str) -> None:
    """Runs one block in the checkout, with the programs of this Python's environment."""
    path = f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}"
    command = ["bash", "-ec", text] if language == "bash" else [sys.executable, "-c", text]
    subprocess.run(command, cwd=CHECKOUT, env=os.environ | {"PATH": path}, check=True)


def name_of(result: Path) -> str:
    """Returns the name of a result's figure: that of the file, or of the folder that a command has written."""
    return result.stem if result.parent == WORK else result.parent.name


def save_figure(result: Path) -> None:
    """Saves a result for the page, not wider than ``MAX_WIDTH``, with 256 colours: a third of the size."""
    image = Image.open(result).convert("RGB")
    if image.width > MAX_WIDTH:
        image = image.resize((MAX_WIDTH, round(image.height * MAX_WIDTH / image.width)), Image.Resampling.LANCZOS)
    FIGURES.mkdir(parents=True, exist_ok=True)
    image.quantize(256).save(FIGURES / f"{name_of(result)}.png", optimize=True)


def main() -> None:
    """Runs the blocks and saves the figures."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    for language, text in read_blocks(PAGE):
        results = list_results(text)
        if str(QUICKSTART.relative_to(CHECKOUT)) in text and not QUICKSTART.exists():
            print("Skipped, for it needs the stages of launch/quickstart.sh:", text, flush=True)
            continue
        if not results or not all(result.exists() for result in results):
            print(text, flush=True)
            run(language, text)
        for result in results:
            save_figure(result)


if __name__ == "__main__":
    main()
