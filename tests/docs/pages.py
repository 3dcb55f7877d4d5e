"""The pages of the documentation, and the blocks of code on them."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

CHECKOUT = Path(__file__).parents[2]
DOCS = CHECKOUT / "docs"
PAGES = [CHECKOUT / "README.md", *sorted(DOCS.rglob("*.md"))]
NOTEBOOKS = sorted((DOCS / "notebooks").glob("*.ipynb"))

NOT_RUN = re.compile(r"<!-- not run: (\S.*\S) -->")
OUTPUT = "<!-- output -->"


class Block(NamedTuple):
    """A fenced block of a page.

    Attributes:
        page: the page, relative to the checkout.
        line: the number of the line of its fence, from 1.
        language: what is written after the fence, such as ``bash``.
        text: the lines between the fences, without their common indentation.
        above: the nearest line above it that is not empty.
    """

    page: str
    line: int
    language: str
    text: str
    above: str

    @property
    def reason(self) -> str:
        """Why the block is not run; empty if it is."""
        found = NOT_RUN.fullmatch(self.above)
        return found[1] if found else ""


def name_of(page: Path) -> str:
    """Returns the path of a page, relative to the checkout."""
    return page.relative_to(CHECKOUT).as_posix()


def read_blocks(page: Path) -> Iterator[Block]:
    """Yields the fenced blocks of a page, in order."""
    lines = page.read_text(encoding="utf-8").split("\n")
    number = 0
    while number < len(lines):
        opened = re.fullmatch(r"( *)(`{3,}|:{3,})([\w{}-]*) *(.*)", lines[number])
        if opened is None or opened[2].startswith(":") or opened[3].startswith("{"):
            # The blocks within a note are blocks too, and so is what a directive contains, in a longer fence.
            number += 1 if opened is None or opened[2].startswith(":") else skip_directive(lines, number, opened[2])
            continue
        indent, fence = len(opened[1]), opened[2]
        end = next(at for at in range(number + 1, len(lines)) if lines[at].strip() == fence)
        text = "\n".join(line[indent:] for line in lines[number + 1 : end])
        above = next((line.strip() for line in reversed(lines[:number]) if line.strip()), "")
        yield Block(name_of(page), number + 1, opened[3], text, above)
        number = end + 1


def skip_directive(lines: list[str], number: int, fence: str) -> int:
    """Returns how many lines a directive takes that has no blocks within."""
    if len(fence) > 3:
        return 1
    return next(at for at in range(number + 1, len(lines)) if lines[at].strip() == fence) - number + 1
