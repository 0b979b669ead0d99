"""Sphinx configuration; the build needs no network."""

import zsbir

project = "zsbir"
author = "The zsbir authors"
copyright = "2026, The zsbir authors"
release = version = zsbir.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build"]
myst_enable_extensions = ["dollarmath", "colon_fence", "deflist"]
myst_heading_anchors = 3
html_theme = "furo"
html_title = "zsbir"
html_static_path = ["_static"]
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_member_order = "bysource"
autodoc_class_signature = "mixed"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
# Every reference must have a target, but for those of other projects and for names of types that stand for others.
nitpicky = True
nitpick_ignore_regex = [
    (r"py:.*", r"(torch|numpy|np|npt|PIL|Image|pathlib|collections|typing|nn|huggingface_hub)\..*"),
    (r"py:.*", r"Tensor|Path|T|C|Figure|zsbir\.\w+(\.\w+)?\.[TC]"),
    (r"py:.*", r"Device|Domain|Images|Kind|Labels|Model|Precision|Protocols|Rule|Source|Schedule"),
    (r"py:.*", r"Items|Keep|Opener|RecipeSet|SelectOn|Split|StoredFeatures|StrokeStyle|Unseen"),
    (r"py:.*", r"Count|Natural|NonNegative|OpenProportion|Positive|PositiveProportion|Proportion|Ratio"),
]
linkcheck_timeout = 20
linkcheck_retries = 2
copybutton_prompt_text = r"\$ |>>> "
copybutton_prompt_is_regexp = True
