"""The documentation as a site: `make docs` runs Sphinx over the Markdown of docs/.

The same files are read on their own, so nothing in them is for Sphinx alone. What only the site has
comes in as a page is read: navigation from the lists of index.md, the references that the code
itself gives, in the place of blocks `generated: NAME`, and copies of files outside docs/ that
pages link to.
"""

from __future__ import annotations

from importlib import metadata
from typing import Any

from sphinx.application import Sphinx

from docs.site.generated import fill_in
from docs.site.links import as_files
from docs.site.navigation import toctrees

project = "Moesaic"
version = release = metadata.version("moesaic")
extensions = ["myst_parser", "sphinx.ext.autodoc", "numpydoc"]
exclude_patterns = ["site"]
smartquotes = False  # `--option` in a docstring or a help text stays as it is typed
highlight_language = "none"  # of a block that names no language

html_theme = "furo"
html_title = f"{project} {version}"
html_copy_source = False
html_show_copyright = False

myst_heading_anchors = 4  # as GitHub makes them, so that the same links work in both

autodoc_default_options = {"members": True, "show-inheritance": True}
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
default_role = "code"  # docstrings have Markdown's `name`
numpydoc_show_class_members = False  # autodoc shows them


def _read(app: Sphinx, page: str, source: list[str]) -> None:
    source[0] = fill_in(as_files(source[0], app.env.doc2path(page), app.srcdir))
    if page.rpartition("/")[2] == app.config.root_doc:
        source[0] += toctrees(source[0])


def _signature(*about: Any) -> tuple[str, str] | None:
    """Write a default that a factory makes as Python that Sphinx can read."""
    *_, arguments, result = about
    if arguments and "<factory>" in arguments:
        return arguments.replace("<factory>", "..."), result
    return None


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.connect("source-read", _read)
    app.connect("autodoc-process-signature", _signature)
