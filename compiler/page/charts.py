"""The charts of a task: cycles against bounds, what the array does, and the timeline."""

from __future__ import annotations

from moesaic.compiler.page.facts import TaskFacts
from moesaic.compiler.page.marks import experts, points
from moesaic.compiler.page.specs import ROW, Spec, chart, cycles_axis, legend, rows_of, scale
from moesaic.compiler.page.timeline import Timeline
from moesaic.spec.layers import KINDS

WHYS = {
    "products": "products of the model",
    "padding": "padding and second passes",
    "weights": "waits for weights",
    "vector unit": "waits for the vector unit",
    "order": "waits for other results",
    "tile loads": "waits for a tile to load",
    "short passes": "passes over few rows",
}
"""What the array does, by the names of the cost model."""
COLOURS = {
    **{name: name for name in ("products", "padding", "weights", "order")},
    "vector unit": "vector",
    "tile loads": "tiles",
    "short passes": "short",
}
BOUNDS = {"products": "products", "weights": "weight bytes", "vector": "vector work"}


def task_charts(task: TaskFacts, timeline: Timeline) -> dict[str, Spec]:
    """All charts of a task by name; those without data are left out."""
    charts = {
        "roofline": roofline(task),
        "array": array_time(task),
        "timeline": units(timeline, {layer.short for layer in task.layers}),
    }
    if task.experts:
        charts["experts"] = experts(task)
    if any(point.clipped for point in task.points):
        label = f"Share of values beyond the range of each point of {task.name}"
        charts["clipped"] = points(task.points, "clipped", label)
    if any(point.decibels is not None for point in task.points):
        label = f"SQNR of {task.name} with each point rounded and nothing else"
        charts["decibels"] = points(task.points, "decibels", label)
    return charts


def roofline(task: TaskFacts) -> Spec:
    """Cycles of every layer as bars, and its three bounds as marks."""
    order = [layer.short for layer in task.layers]
    bars = [{"layer": layer.short, "cycles": layer.cycles} for layer in task.layers]
    marks = [
        {"layer": layer.short, "bound": BOUNDS[name], "cycles": round(value, 1)}
        for layer in task.layers
        for name, value in (
            ("products", layer.product_cycles),
            ("weights", layer.weight_cycles),
            ("vector", layer.vector_cycles),
        )
    ]
    x = {"field": "cycles", "type": "quantitative", **cycles_axis("cycles of a frame")}
    return chart(
        ROW * len(order),
        [],
        f"Cycles of each layer of {task.name} and their bounds",
        **legend(120),
        encoding={"y": rows_of(order)},
        layer=[
            {
                "data": {"values": bars},
                "mark": {"type": "bar", "color": "@bar", "height": {"band": 0.72}},
                "encoding": {
                    "x": x,
                    "tooltip": [{"field": "layer"}, {"field": "cycles", "format": ","}],
                },
            },
            {
                "data": {"values": marks},
                "mark": {"type": "tick", "thickness": 3, "height": {"band": 0.9}, "opacity": 1},
                "encoding": {
                    "x": x,
                    "color": {
                        "field": "bound",
                        "type": "nominal",
                        "title": "least cycles by",
                        "scale": scale(list(BOUNDS.values()), list(BOUNDS)),
                    },
                    "tooltip": [
                        {"field": "layer"},
                        {"field": "bound"},
                        {"field": "cycles", "format": ",.0f"},
                    ],
                },
            },
        ],
    )


def array_time(task: TaskFacts) -> Spec:
    """What the array does with its cycles, layer by layer."""
    order = [layer.short for layer in task.layers]
    values = []
    for layer in task.layers:
        parts = {"products": layer.useful_cycles, "padding": layer.padding_cycles, **layer.waits}
        values += [
            {
                "layer": layer.short,
                "why": WHYS[name],
                "cycles": round(cycles, 1),
                "share": cycles / task.estimate.cycles,
                "place": place,
            }
            for place, (name, cycles) in enumerate(parts.items())
            if cycles >= 0.5
        ]
    named = [name for name in WHYS if any(value["why"] == WHYS[name] for value in values)]
    return chart(
        ROW * len(order),
        values,
        f"What the matrix array does in the layers of {task.name}",
        **legend(190),
        mark={"type": "bar", "height": {"band": 0.72}},
        encoding={
            "y": rows_of(order),
            "x": {
                "field": "cycles",
                "type": "quantitative",
                "stack": "zero",
                **cycles_axis("cycles of the array"),
            },
            "order": {"field": "place"},
            "color": {
                "field": "why",
                "type": "nominal",
                "title": None,
                "scale": scale([WHYS[name] for name in named], [COLOURS[name] for name in named]),
            },
            "tooltip": [
                {"field": "layer"},
                {"field": "why"},
                {"field": "cycles", "format": ",.0f"},
                {"field": "share", "format": ".2%", "title": "of the frame"},
            ],
        },
    )


def units(timeline: Timeline, layers: set[str]) -> Spec:
    """The timeline. Its bars come as columns, ``bars`` of the page's data: there are many."""
    kinds = list(KINDS)
    if any(bar.layer not in layers for bar in timeline.bars):
        kinds.append("other")
    pixels = "(datum.end - datum.begin) * width / (to - from)"
    colour = {"field": "kind", "type": "nominal", "title": "layers", "scale": scale(kinds, kinds)}
    return {
        **chart(34 * len(timeline.tracks), [], f"What the units do when, by {timeline.source}"),
        **legend(100),
        "data": {"name": "bars"},
        "params": [{"name": "from", "value": 0}, {"name": "to", "value": timeline.cycles}],
        "mark": {"type": "rect", "clip": True, "height": {"band": 0.8}},
        "encoding": {
            "y": {"field": "track", "type": "nominal", "sort": timeline.tracks, "title": None,
                  "scale": {"domain": timeline.tracks}},
            "x": {
                "field": "begin",
                "type": "quantitative",
                "scale": {"domainMin": {"expr": "from"}, "domainMax": {"expr": "to"},
                          "nice": False, "zero": False},
                "axis": {"format": ",d", "tickCount": 5, "labelFlush": True},
                "title": "cycle of the frame",
            },
            "x2": {"field": "end"},
            "fill": colour,
            # Bars are set apart when there is room, and still seen where they are hairlines.
            "stroke": {"condition": {"test": f"{pixels} > 4", "value": "@surface"},
                       **colour},
            "strokeWidth": {"condition": {"test": f"{pixels} < 1 || {pixels} > 4", "value": 1},
                            "value": 0},
            "tooltip": [
                {"field": "layer"},
                {"field": "what"},
                {"field": "begin", "format": ",.0f"},
                {"field": "end", "format": ",.0f"},
                {"field": "share", "format": ".0%", "title": "of it on data"},
            ],
        },
    }  # fmt: skip
