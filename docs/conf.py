"""Settings of Sphinx. ``bash launch/docs.sh`` builds the site, and ``tests/docs`` builds it with warnings as errors."""

import os
import re
import sys
from pathlib import Path

DOCS = Path(__file__).parent
CHECKOUT = DOCS.parent
sys.path[:0] = [str(CHECKOUT), str(DOCS / "extensions")]
os.environ.setdefault("JAX_PLATFORMS", "cpu")

project = "imagen-jax"
author = "the authors of imagen-jax"
package = (CHECKOUT / "imagen_jax" / "__init__.py").read_text(encoding="utf-8")
(version,) = re.findall(r'^__version__ = "(.+)"$', package, flags=re.MULTILINE)
release = version

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "api_pages",
    "docstrings",
    "links",
    "mathml",
]
exclude_patterns = ["extensions"]

# Pages
myst_enable_extensions = ["amsmath", "attrs_inline", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 4
# The outputs of notebooks are committed, and the tests run the cells.
nb_execution_mode = "off"
nb_merge_streams = True

highlight_language = "text"

# The API reference
autodoc_default_options = {"members": True, "member-order": "bysource"}
autodoc_preserve_defaults = True
autodoc_typehints = "signature"
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_attr_annotations = False
napoleon_use_rtype = False
add_module_names = False
maximum_signature_line_length = 88
python_use_unqualified_type_names = True

# A reference that leads nowhere is an error, unless it leads into another library.
nitpicky = True
nitpick_ignore_regex = [("py:.*", r"(?!imagen_jax).*")]

# The site
html_theme = "furo"
html_title = "imagen-jax"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_math_renderer = "mathml"
html_copy_source = False
html_show_sourcelink = False
html_show_copyright = False
