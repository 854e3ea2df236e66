"""The site: navigation names every page, code fills in what pages ask for, nothing is missing."""

from __future__ import annotations

import html
import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer

import moesaic
from docs.site.generated import GENERATED, fill_in
from docs.site.links import as_files
from docs.site.navigation import groups, toctrees
from moesaic.cli.application import app
from moesaic.compiler.frontend.layout import DATA_INPUTS
from moesaic.compiler.frontend.operators import OPERATORS
from moesaic.spec.presets import PRESETS
from tests.documents import ROOT

DOCS = ROOT / "docs"
PAGES = sorted(path.relative_to(DOCS).with_suffix("").as_posix() for path in DOCS.rglob("*.md"))
GROUPS = ["Tutorial", "How to", "Reference", "Explanation"]


def index_of(page: str) -> Path:
    """The page whose lists should name a page: the one of its folder, or else the first of all."""
    folder = DOCS / Path(page).parent
    return folder / "index.md" if Path(page).name != "index" else DOCS / "index.md"


@pytest.mark.parametrize("page", [page for page in PAGES if page != "index"])
def test_navigation_names_every_page_once(page: str) -> None:
    index = index_of(page)
    listed = [name for group in groups(index.read_text()).values() for _, name in group]
    assert listed.count((DOCS / page).relative_to(index.parent).as_posix()) == 1, index


def test_navigation_has_the_four_kinds() -> None:
    found = groups((DOCS / "index.md").read_text())
    assert list(found) == GROUPS and all(found.values())
    tree = toctrees((DOCS / "index.md").read_text())
    assert tree.count("```{toctree}") == len(GROUPS)
    assert "Registers <registers>" in tree


def test_every_block_is_asked_for_once() -> None:
    asked = [
        name
        for page in PAGES
        for name in re.findall(r"<!-- generated: ([\w-]+)", (DOCS / f"{page}.md").read_text())
    ]
    assert sorted(asked) == sorted(GENERATED)
    with pytest.raises(KeyError):
        fill_in("<!-- generated: nonsense -->\n<!-- end -->")
    assert fill_in("a\n<!-- generated: layout-operators -->\nb\n<!-- end -->\nc").count("\n") == 2


def test_links_out_of_the_documents_are_to_files() -> None:
    page = DOCS / "decisions" / "index.md"
    for text, wanted in {
        "[a](../../README.md#there)": "[a](path:../../README.md)",
        "[a](../isa.md#there)": "[a](../isa.md#there)",
        "[a](../../spec/isa.py)": "[a](../../spec/isa.py)",
    }.items():
        assert as_files(text, page, DOCS) == wanted


def build(source: Path, place: Path) -> subprocess.CompletedProcess[str]:
    """What `make docs` does, with a source and a place of the test's."""
    if importlib.util.find_spec("sphinx") is None:
        pytest.skip("needs the extra docs")
    makefile = (ROOT / "Makefile").read_text()
    recipe = re.search(r"python (-m sphinx .*) docs build/docs$", makefile, re.M)
    assert recipe
    options = recipe[1].replace("build/cache/docs", str(place / "trees")).split()
    command = [sys.executable, *options, source, place / "html"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("site")
    done = build(DOCS, place)
    assert done.returncode == 0, done.stderr
    return place / "html"


def test_a_warning_is_an_error(tmp_path: Path) -> None:
    """An anchor and a page that are gone, and a page that no list names."""
    source = tmp_path / "docs"
    source.mkdir()
    (source / "index.md").write_text("# A\n\n[x](#gone) [y](missing.md)\n")
    (source / "alone.md").write_text("# B\n")
    done = build(source, tmp_path)
    assert done.returncode != 0
    assert all(word in done.stderr for word in ("gone", "missing.md", "alone.md"))


def text_of(page: Path) -> str:
    """What a reader sees of a page."""
    return html.unescape(re.sub(r"<[^>]+>", "", page.read_text()))


def test_site_has_every_page_and_what_code_gives(site: Path) -> None:
    assert all((site / f"{page}.html").is_file() for page in PAGES)
    operators = text_of(site / "operators.html")
    known = [*DATA_INPUTS, *(name for _, name in OPERATORS)]
    assert all(name in operators for name in known)
    commands = text_of(site / "commands.html")
    group = typer.main.get_command(app)
    assert all(f"moesaic {name}" in commands for name in group.commands)  # type: ignore[attr-defined]
    assert "--target-sqnr" in commands
    python = text_of(site / "python.html")
    assert all(name in python for name in moesaic.__all__ if name != "__version__")
    assert "Runs the tasks of a bundle" in python and "~" not in python
    targets = text_of(site / "targets.html")
    assert all(name in targets for name in PRESETS) and '"additionalProperties": false' in targets


def test_site_loads_nothing_from_elsewhere(site: Path) -> None:
    for page in site.rglob("*.html"):
        loaded = re.findall(r"<(?:script|img|iframe)[^>]* src=\"([^\"]*)\"", page.read_text())
        loaded += re.findall(r"<link[^>]* href=\"([^\"]*)\"", page.read_text())
        assert loaded, page
        for place in loaded:
            assert "//" not in place, f"{page.name} loads {place}"
            assert (page.parent / place.partition("?")[0]).resolve().is_relative_to(site.resolve())
