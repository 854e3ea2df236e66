"""Charts of single values: tokens of experts, and quantised points."""

from __future__ import annotations

from moesaic.compiler.page.facts import PointFacts, TaskFacts
from moesaic.compiler.page.specs import ROW, Spec, chart, legend, rows_of, scale
from moesaic.compiler.points import layer_point

CATEGORIES = 10
"""Colours of things that have none of their own."""


def experts(task: TaskFacts) -> Spec:
    """Tokens of every expert, layer by layer."""
    values = [
        {"layer": layer.short, "expert": number, "tokens": tokens}
        for layer in task.experts
        for number, tokens in enumerate(layer.tokens)
    ]
    most = max(max(layer.tokens) for layer in task.experts)
    cell = f"width / {max(len(layer.tokens) for layer in task.experts)}"
    encoding = {
        "y": rows_of([layer.short for layer in task.experts]),
        "x": {
            "field": "expert",
            "type": "ordinal",
            "title": "expert",
            "axis": {"labelAngle": 0, "labelOverlap": True},
        },
    }
    return chart(
        30 * len(task.experts),
        values,
        f"Tokens of each expert in the layers of {task.name}",
        encoding=encoding,
        layer=[
            {
                "mark": {"type": "rect", "stroke": "@surface", "strokeWidth": 2},
                "encoding": {
                    "color": {
                        "field": "tokens",
                        "type": "quantitative",
                        "title": "tokens",
                        "scale": {"domain": [0, most], "range": ["@low", "@high"]},
                        "legend": None,
                    },
                    "tooltip": [{"field": "layer"}, {"field": "expert"}, {"field": "tokens"}],
                },
            },
            {
                "mark": {
                    "type": "text",
                    "color": "@ink",
                    # As large as two digits may be in a cell; none where they would be specks.
                    "fontSize": {"expr": f"{cell} < 12 ? 0 : min(12, 0.68 * {cell})"},
                },
                "encoding": {"text": {"field": "tokens"}},
            },
        ],
    )


def points(rows: list[PointFacts], field: str, label: str) -> Spec:
    """One figure of every quantised point, layer by layer: ``clipped`` or ``decibels``."""
    share = field == "clipped"
    rows = [row for row in rows if getattr(row, field) is not None and (row.clipped or not share)]
    named = {row.name if share else layer_point(row.name): row for row in rows}
    # Decibels are measured for all experts of a layer together.
    values = [
        {"point": name, "layer": row.layer, "kind": row.kind, field: getattr(row, field)}
        for name, row in named.items()
    ]
    order = list(dict.fromkeys(row.layer for row in rows))
    kinds = list(dict.fromkeys(row.kind for row in rows))
    shown: Spec = {"field": "kind", "type": "nominal", "title": "point"}
    colours = [f"category{number % CATEGORIES}" for number in range(len(kinds))]
    return chart(
        ROW * len(order),
        values,
        label,
        **legend(40 + min(8 * max(map(len, kinds)), 250)),
        mark={"type": "point", "filled": True, "size": 64, "opacity": 1},
        encoding={
            "y": {**rows_of(order), "axis": {"grid": True}},
            "x": {
                "field": field,
                "type": "quantitative",
                "title": "share of values that are clipped" if share else "SQNR with it alone, dB",
                "axis": {"format": "~%" if share else ".1~f", "tickCount": 5},
                "scale": {"zero": share},
            },
            "color": {**shown, "scale": scale(kinds, colours)},
            "shape": {**shown, "scale": {"domain": kinds}},
            "tooltip": [{"field": "point"}, {"field": field, "format": ".3%" if share else ".1f"}],
        },
    )
