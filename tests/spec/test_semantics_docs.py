"""``docs/numerics.md`` promises exactly the bounds that the tests hold."""

from __future__ import annotations

import re
from pathlib import Path

from tests.spec.semantics_bounds import BOUNDS

NUMERICS = Path(__file__).parents[2] / "docs" / "numerics.md"


def test_documented_bounds_are_the_tested_ones() -> None:
    table = NUMERICS.read_text().split("## Error bounds")[1].split("\n## ")[0]
    rows = re.findall(r"^\| ([^|]+) \| ([0-9.e-]+) \|", table, re.MULTILINE)
    assert {name: f"{bound:.3g}" for name, bound in BOUNDS.items()} == dict(rows)


def test_every_operator_is_documented() -> None:
    text = NUMERICS.read_text()
    source = (NUMERICS.parents[1] / "spec" / "semantics.py").read_text()
    names = set(re.findall(r"^def ([a-z]\w*)", source, re.MULTILINE)) - {"bit_length"}
    assert {name for name in names if f"`{name}`" not in text} == set()
