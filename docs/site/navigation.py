"""Navigation: each section of an index.md is a group, each item of its list a page."""

from __future__ import annotations

import re

_SECTION = re.compile(r"^## (?P<title>.+)\n(?P<body>(?:(?!## ).*\n)*)", re.M)
_ITEM = re.compile(r"^- \[(?P<title>[^]]+)\]\((?P<page>[\w/-]+)\.md\)", re.M)


def groups(index: str) -> dict[str, list[tuple[str, str]]]:
    """Titles and names, without ``.md``, of the pages in each section of an index.md."""
    return {
        section["title"]: [
            (item["title"], item["page"]) for item in _ITEM.finditer(section["body"])
        ]
        for section in _SECTION.finditer(index)
    }


def toctrees(index: str) -> str:
    """The groups in MyST's words, for the end of index.md: they show in the sidebar alone."""
    lines = []
    for group, pages in groups(index).items():
        lines += ["", "```{toctree}", ":hidden:", f":caption: {group}", ""]
        lines += [*(f"{title} <{page}>" for title, page in pages), "```"]
    return "\n".join([*lines, ""])
