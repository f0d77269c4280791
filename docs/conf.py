"""Configuration of the documentation."""

import os
import sys
from pathlib import Path

# Kernels are shown as the functions they are, and nothing is compiled for it.
os.environ["NUMBA_DISABLE_JIT"] = "1"

import nbkv

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

project = "nbkv"
author = "The nbkv authors"
copyright = "The nbkv authors, Apache-2.0"
release = version = nbkv.__version__

extensions = [
    "myst_parser",
    "numpydoc",
    "records",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
]
exclude_patterns = ["_build", "_ext"]
html_theme = "furo"
html_title = f"nbkv {release}"
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autosummary_generate = True
numpydoc_show_class_members = False
