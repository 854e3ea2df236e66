"""What all charts have in common: Vega-Lite specifications as plain values.

A colour is written as ``@name``: the page puts in the one that its theme has under that name.
"""

from __future__ import annotations

from typing import Any

Spec = dict[str, Any]

ROW = 22
"""Height of a row of bars, pixels."""


def chart(height: int, values: list[Spec], label: str, **rest: Any) -> Spec:
    """A chart as wide as its place; ``label`` is what is read out for it."""
    return {
        "width": "container",
        "height": height,
        "autosize": {"type": "fit-x", "contains": "padding"},
        "description": label,
        "data": {"values": values},
        **rest,
    }


def scale(names: list[str], colours: list[str]) -> Spec:
    """Names and the colours that stand for them, so that they are the same in all charts."""
    return {"domain": names, "range": [f"@{colour}" for colour in colours]}


def rows_of(order: list[str]) -> Spec:
    """An axis of layers in this order."""
    return {"field": "layer", "type": "nominal", "sort": order, "title": None}


def cycles_axis(title: str) -> Spec:
    """Title and ticks of an axis of cycles."""
    return {"title": title, "axis": {"format": ",d", "tickCount": 5}}


def legend(label: int) -> Spec:
    """The chart's legend has labels of so many pixels: the page knows how many go in a row."""
    return {"usermeta": {"label": label}}
