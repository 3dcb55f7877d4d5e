"""Lets pages link to files of the checkout: the site gets a copy of each, also of Markdown outside ``docs/``.

MyST takes a link to such a Markdown file for one to a page, and there is none.
"""

import re
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

LINK = re.compile(r"\]\((\.\./[^)\s:#]+\.md)(?:#[^)\s]*)?\)")


def link_files(app: Sphinx, docname: str, source: list[str]) -> None:
    """Marks the links of a page to Markdown outside ``docs/`` as links to files."""
    docs = Path(app.srcdir)
    folder = (docs / docname).parent

    def mark(match: re.Match[str]) -> str:
        is_page = (folder / match[1]).resolve().is_relative_to(docs)
        return match[0] if is_page else f"](path:{match[1]})"

    source[0] = LINK.sub(mark, source[0])


def setup(app: Sphinx) -> dict[str, Any]:
    """Connects the step to the reading of a page."""
    app.connect("source-read", link_files)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
