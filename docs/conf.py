"""Configuration of the documentation: ``python -m sphinx -W -b html docs build/docs``."""

from __future__ import annotations

import gc
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

from vsgi_fcgi import __version__

# A build keeps most objects until its end. Looking through them again and again took a quarter of
# its time. Now it needs 200 MB of memory instead of 140 MB.
gc.set_threshold(500_000, 100, 1000)

project = "vsgi_fcgi"
author = "The vsgi_fcgi developers"
project_copyright = author
version = release = __version__

extensions = [
    "myst_parser",
    "settings",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
]
exclude_patterns = ["_ext"]

# The site loads nothing from the network, neither when it is built nor when it is read.
html_theme = "furo"
html_title = f"{project} {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_copyright = False

myst_enable_extensions = ["colon_fence", "deflist", "fieldlist"]
myst_heading_anchors = 3

# The copy button of a console session copies the commands only, without prompt and output.
copybutton_prompt_text = "$ "
copybutton_line_continuation_character = "\\"

# Every reference must have a target. Names of Python and its type system are documented elsewhere.
nitpicky = True
nitpick_ignore_regex = [
    ("py:.*", r"(collections|enum|socket|types|typing)\..*"),
    # Single backticks in docstrings become a link only if there is a target.
    ("py:obj", r".*"),
    (
        "py:class",
        r"App|vsgi_fcgi\.(addresses\..*|server\.main_context_calls\.T|protocol\.records\.E)",
    ),
    ("py:.*", r"(bool|bytes|bytearray|dict|float|frozenset|int|list|memoryview|object|str)"),
]
default_role = "py:obj"
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_type_aliases = {"App": "App"}
napoleon_google_docstring = True
napoleon_numpy_docstring = False
