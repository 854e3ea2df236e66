"""The table of what runs where, of every report that a manifest may hold."""

from __future__ import annotations

import io
from dataclasses import asdict
from typing import Any

import pytest
from rich.console import Console

from moesaic.cli.placement_view import placement_table
from moesaic.spec.manifest import CutReport, FrontReport, HostNodeReport, HostReport


def front(macs: int | None) -> dict[str, Any]:
    node = HostNodeReport("stem[0]", "Conv", "padding must be 0")
    cut = CutReport("stream", (1, 50, 192), 40.0)
    return asdict(FrontReport(cut, {"image": (1, 3, 32, 32)}, "it pads", 7, [node], macs))


def tail(macs: int | None, cuts: int) -> dict[str, Any]:
    node = HostNodeReport("resize", "Resize", "there is no unit for Resize")
    taps = [CutReport(f"tap{number}", (1, number + 4, 192), 30.0) for number in range(cuts)]
    return asdict(HostReport(taps, {"map": (1, 5, 64, 64)}, 7, [node], macs))


@pytest.mark.parametrize("cuts", [0, 1, 3])
@pytest.mark.parametrize("macs", [2_000_000, None])
@pytest.mark.parametrize("fronted", [True, False])
def test_every_cut_and_node_is_shown(fronted: bool, macs: int | None, cuts: int) -> None:
    if not (fronted or cuts):
        return
    report = {
        "front": front(macs) if fronted else None,
        "host": tail(macs, cuts) if cuts else None,
        "layers": 3,
        "macs": 6_000_000,
    }
    written = io.StringIO()
    Console(width=200, file=written).print(placement_table("seg", report))
    shown = written.getvalue()
    parts = bool(cuts) + fronted
    for number in range(cuts):
        assert f"'tap{number}' 1x{number + 4}x192" in shown
    assert ("'stream' 1x50x192" in shown and "stem[0]" in shown) == fronted
    assert "7 nodes" in shown and shown.count("\u2502 host") == parts
    share = f"6.0 of {6 + 2 * parts:.1f} M MAC ({6 / (6 + 2 * parts):.0%})"
    assert (share if macs else "6.0 M MAC") in shown
