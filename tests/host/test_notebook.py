"""How sessions, bundles, placements and outputs show themselves: shortly, and escaped."""

from __future__ import annotations

import dataclasses
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from moesaic.host import Placement, Session
from moesaic.spec.bundle import Bundle


class Cells(HTMLParser):
    """Tags and texts of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags, self.texts = set[str](), list[str]()
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.add(tag)

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


TAGS = {"table", "caption", "tr", "th", "td"}
EVIL = "<script>alert('&')</script>"


@pytest.fixture(scope="module")
def evil(two_tasks: Bundle) -> Bundle:
    """Names out of a file that somebody else has made."""
    graph = two_tasks.graphs["seg"]
    heads = tuple(dataclasses.replace(head, name=EVIL) for head in graph.heads)
    seg = dataclasses.replace(graph, input_name=EVIL, heads=heads)
    return dataclasses.replace(two_tasks, path=Path(EVIL), graphs={**two_tasks.graphs, "seg": seg})


def test_bundle(evil: Bundle) -> None:
    assert repr(evil) == f"<Bundle {str(evil.path)!r}: seg, depth for nano>"
    page = Cells(evil._repr_html_())
    assert page.tags == TAGS
    assert any(text.startswith(f"{EVIL} 1x") for text in page.texts)
    assert {"seg", "depth", "task", "M MAC"} <= set(page.texts)


def test_session_and_its_placement(evil: Bundle, faulty_devices: None) -> None:
    with Session(evil, "mock,cpu") as session:
        assert repr(session) == f"<Session of {str(evil.path)!r} on mock, cpu>"
        page = Cells(session._repr_html_())
        assert page.tags == TAGS and {"mock", "cpu", "first choice"} <= set(page.texts)
    assert repr(session).endswith("closed>")
    page = Cells(Placement("cpu", "passed over", EVIL)._repr_html_())
    assert page.tags == TAGS and EVIL in page.texts and "passed over" in page.texts


def test_outputs_of_any_size_are_one_line(two_tasks: Bundle) -> None:
    shape = two_tasks.graphs["seg"].input_shape[1:]
    with Session(two_tasks) as session:
        answer = session.run({"x": np.zeros((20, *shape), np.float32)}, task="seg")
    (name, array), *_ = answer.items()
    text = repr(answer)
    assert text.startswith("<Outputs of cpu in ") and len(text) < 120 and "\n" not in text
    assert f"{name} {'x'.join(map(str, array.shape))} float32>" in text
