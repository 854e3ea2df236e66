"""Links that leave docs/: on the site they open a copy of the file, as links to sources do."""

from __future__ import annotations

import re
from pathlib import Path

_MARKDOWN = re.compile(r"(?<=\]\()(?P<path>\.\./[^)#\s]+\.md)(?:#[^)\s]*)?(?=\))")


def as_files(text: str, page: Path, root: Path) -> str:
    """A page's text with links to Markdown outside ``root`` in MyST's words for a plain file.

    Without them MyST looks for a page of the site. Other files need no help.
    """

    def one(link: re.Match[str]) -> str:
        inside = (page.parent / link["path"]).resolve().is_relative_to(root.resolve())
        return link[0] if inside else f"path:{link['path']}"

    return _MARKDOWN.sub(one, text)
