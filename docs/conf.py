"""Settings of the documentation: `sphinx-build -W -b html docs OUT`, from the root of the repository."""

from __future__ import annotations

import sys
from pathlib import Path

import jaxconvex

sys.path.insert(0, str(Path(__file__).parent))  # the modules beside this one

project = "jaxconvex"
author = copyright = "The jaxconvex developers"
version = release = jaxconvex.__version__

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "from_code"]
exclude_patterns = ["_generated"]
default_role = "code"  # single backticks in docstrings

nb_execution_mode = "off"  # notebooks stand here as they were executed
nb_mime_priority_overrides = [("html", "text/html", 0)]
myst_enable_extensions = ["dollarmath", "deflist"]
myst_heading_anchors = 4
myst_heading_slug_func = "from_code.anchor"

autodoc_default_options = {"members": True}
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
python_maximum_signature_line_length = 88
nitpicky = True  # what a page refers to, as {func} or {obj}, stands in the API
nitpick_ignore_regex = [("py:class", ".*")]  # types in signatures, most of them of other libraries
napoleon_numpy_docstring = False
napoleon_use_rtype = False

html_theme = "furo"
html_title = f"jaxconvex {release}"
html_copy_source = html_show_sourcelink = False
