"""The documentation's site: `make docs` builds it from the Markdown files of the whole repository.

Links work in the repository as they stand, and on the site: the source folder is the repository's.
"""

from __future__ import annotations

import os
import re
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# Before autodoc does: without its greeting on standard error.
import_module("distrain.world.quick_import").import_tensorflow()

project = "distrain"
extensions = ["myst_parser", "sphinx.ext.autodoc"]
root_doc = "docs/index"
include_patterns = ["*.md", "docs/**", "docker/**", "k8s/*.md"]
# Sphinx looks for pages in each folder that is not left out, and environments and runs have many.
PAGES = ("docs", "docker", "k8s")
OTHERS = [path.name for path in ROOT.iterdir() if path.is_dir() and path.name not in PAGES]
exclude_patterns = [*OTHERS, "docker/horovod/patches"]
myst_heading_anchors = 4
html_theme = "furo"
html_title = "distrain"
html_copy_source = False
html_show_sphinx = False
html_theme_options = {"top_of_page_buttons": []}
pygments_style = "friendly"
autodoc_member_order = "bysource"
autodoc_typehints = "none"
autodoc_inherit_docstrings = False
autodoc_preserve_defaults = True

# Pages are read by people who may have no network: nothing is loaded from elsewhere, and the start page is a file.
START = (
    '<!doctype html><meta charset="utf-8"><title>distrain</title>'
    '<meta http-equiv="refresh" content="0; url=docs/index.html">'
)


def _as_rst(app: Any, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """Docstrings here are plain text with code between backticks; what else means something to Sphinx is text."""
    for number, line in enumerate(lines):
        parts = line.split("`")
        lines[number] = "".join(
            f"``{part}``" if odd % 2 else re.sub(r"([\\*|_])", r"\\\1", part) for odd, part in enumerate(parts)
        )


def _write_start(app: Any, error: Exception | None) -> None:
    if error is None:
        (Path(app.outdir) / "index.html").write_text(START, encoding="utf-8")


def setup(app: Any) -> None:
    """What Sphinx calls."""
    app.connect("autodoc-process-docstring", _as_rst)
    app.connect("build-finished", _write_start)
