"""Renders formulas as MathML, which browsers show by themselves: no script, and nothing from another machine."""

import html
import re
from typing import Any

from docutils import nodes
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx
from sphinx.util import logging

FUNCTION = r"\\(?:cos|exp|lim|log|ln|max|min|sin|tan)(?![a-zA-Z])"

logger = logging.getLogger(__name__)


def to_mathml(latex: str, node: nodes.Node, as_block: bool) -> str:
    """Converts a formula; one that can't be converted is a warning, and is shown as its source."""
    # A function of a function has a space between their names.
    latex = re.sub(rf"({FUNCTION})\s*(?={FUNCTION})", r"\1\\,", latex)
    # Brackets have the size of their content there, and the converter knows no commands for it.
    latex = re.sub(r"\\[bB]igg?[lrm]?(?![a-zA-Z])", "", latex)
    try:
        return tex2mathml(latex.strip(), as_block=as_block)
    except (MathError, ValueError, IndexError, KeyError) as error:
        logger.warning("this formula can't be converted to MathML (%s): %s", error, latex, location=node)
        return f"<code>{html.escape(latex)}</code>"


def visit_inline(translator: Any, node: nodes.math) -> None:
    """Writes a formula of a line of text."""
    translator.body.append(to_mathml(node.astext(), node, as_block=False))
    raise nodes.SkipNode


def visit_block(translator: Any, node: nodes.math_block) -> None:
    """Writes a formula of its own, with its number if it has one."""
    translator.body.append(translator.starttag(node, "div", CLASS="math"))
    translator.body.append(to_mathml(node.astext(), node, as_block=True))
    if node["number"]:
        translator.body.append(f'<span class="eqno">({node["number"]})</span>')
    translator.body.append("</div>")
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, Any]:
    """Registers the renderer as ``mathml``, for ``html_math_renderer``."""
    app.add_html_math_renderer("mathml", (visit_inline, None), (visit_block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
