"""All Markdown: links lead to files and headings that are there, Python in it compiles."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from urllib.parse import unquote

import pytest
from markdown_it import MarkdownIt
from markdown_it.token import Token

from tests.documents import ROOT

FILES = sorted(
    [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").glob("*.md")]
)
NAMES = [path.relative_to(ROOT).as_posix() for path in FILES]


def tokens(text: str) -> list[Token]:
    """Blocks, and what is in their lines, in order."""
    blocks = MarkdownIt("gfm-like", {"linkify": False}).parse(text)
    return [token for block in blocks for token in (block, *(block.children or ()))]


def links(text: str) -> list[str]:
    """Targets of links and images that are neither addresses of the net nor mail."""
    found = [
        str(token.attrGet("href" if token.type == "link_open" else "src"))
        for token in tokens(text)
        if token.type in ("link_open", "image")
    ]
    return [target for target in found if not re.match(r"[a-z]+:", target)]


def anchors(text: str) -> set[str]:
    """Anchors of headings as GitHub makes them; of equal ones the second ends in -1."""
    found = list[str]()
    blocks = tokens(text)
    for number, token in enumerate(blocks):
        if token.type != "heading_open":
            continue
        inside = blocks[number + 1].children or ()
        title = "".join(part.content for part in inside if part.type in ("text", "code_inline"))
        plain = re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")
        equal = sum(
            re.fullmatch(rf"{re.escape(plain)}(-\d+)?", other) is not None for other in found
        )
        found.append(f"{plain}-{equal}" if equal else plain)
    return set(found)


@cache
def anchors_of(path: Path) -> set[str]:
    return anchors(path.read_text())


def broken(document: Path, text: str) -> list[str]:
    """Links of a document that lead nowhere."""
    found = []
    for link in links(text):
        place, _, anchor = unquote(link).partition("#")
        target = (document.parent / place).resolve() if place else document
        there = target.exists() and target.is_relative_to(ROOT)
        if there and anchor:
            known = anchors(text) if target == document else anchors_of(target)
            there = target.suffix == ".md" and anchor in known
        if not there:
            found.append(link)
    return found


@pytest.mark.parametrize("name", NAMES)
def test_links_lead_somewhere(name: str) -> None:
    assert broken(ROOT / name, (ROOT / name).read_text()) == []


def test_broken_links_are_found() -> None:
    text = "# One `two`: three\n## Same\n## Same\n" + "\n".join(
        f"[x]({target})"
        for target in (
            "isa.md", "#one-two-three", "#same-1", "../README.md#install-it", "images/demo.png",
            "https://example.org/no", "gone.md", "#same-2", "isa.md#gone", "../../outside.md",
            "../setup.py#gone",
        )
    )  # fmt: skip
    expected = ["gone.md", "#same-2", "isa.md#gone", "../../outside.md", "../setup.py#gone"]
    assert broken(ROOT / "docs" / "index.md", text) == expected
    assert sum(len(links(path.read_text())) for path in FILES) > 60


def blocks_of(text: str) -> list[str]:
    """Blocks that say they are Python."""
    fences = [token for token in tokens(text) if token.type == "fence"]
    return [token.content for token in fences if token.info.split()[:1] in (["python"], ["py"])]


PYTHON = [
    pytest.param(name, code, id=f"{name}-{number}")
    for name in NAMES
    for number, code in enumerate(blocks_of((ROOT / name).read_text()))
]


@pytest.mark.parametrize(("name", "code"), PYTHON)
def test_python_compiles(name: str, code: str) -> None:
    compile(code, name, "exec")


def test_python_that_does_not_compile_is_found() -> None:
    assert PYTHON
    (code,) = blocks_of("```python\nimport = 1\n```\n```\nimport = 2\n```\n")
    with pytest.raises(SyntaxError):
        compile(code, "here", "exec")


_PLACE = re.compile(
    r"(?P<path>(?:api|cli|compiler|docs|examples|firmware|host|hw|models|sim|spec|tests)/[\w./*-]+)"
    r"(?:::(?P<name>\w+)(?:\[.*\])?)?"
)


def missing(text: str) -> list[str]:
    """Files that a document names in code spans and that are not there, and tests in them."""
    found = []
    for token in tokens(text):
        place = _PLACE.fullmatch(token.content) if token.type == "code_inline" else None
        if place is None:
            continue
        path = place["path"].replace("NAME", "*")
        files = [*ROOT.glob(path), *ROOT.glob(f"{path}.*")]  # a module may stand without .py
        if not files or place["name"] and f"def {place['name']}(" not in files[0].read_text():
            found.append(token.content)
    return found


@pytest.mark.parametrize("name", [name for name in NAMES if name != "CHANGELOG.md"])
def test_named_files_and_tests_are_there(name: str) -> None:
    """The changelog tells of what was."""
    assert missing((ROOT / name).read_text()) == []


def test_a_file_or_test_that_is_gone_is_found() -> None:
    there = "`spec/isa.py` `tests/test_markdown.py::missing` `docs/site` `compiler/estimate/cycles`"
    gone = ["spec/gone.py", "tests/test_markdown.py::test_gone"]
    assert missing(f"{there} `{gone[0]}` `{gone[1]}`") == gone
