"""What points in 16 bits cost, without building them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import assert_never

from moesaic.compiler.estimate.tuning import fitting_schedule
from moesaic.compiler.points import layer_point, norm_point, rows_of, wide_features
from moesaic.compiler.schedule.options import Schedule
from moesaic.spec.arch import ArchConfig
from moesaic.spec.intgraph import (
    IntAttention,
    IntDense,
    IntGraph,
    IntLayer,
    IntMlp,
    IntMoe,
    IntRenorm,
    head_name,
)


def alike(graph: IntGraph, point: str) -> object:
    """Equal for points that cost the same: of the same kind in layers of the same sizes."""
    first, _, kind = point.partition(".")
    if not first.isdigit():
        return point
    number = int(first)
    readers = [number]
    if kind == "norm":
        readers = [n for n in range(len(graph.layers)) if rows_of(graph.layers, n) == number]
    return kind, tuple(_sizes(graph.layers[reader]) for reader in readers)


def _sizes(layer: IntLayer) -> tuple[object, ...]:
    match layer:
        case IntAttention():
            return "attention", layer.heads, layer.head_dim, layer.value_dim
        case IntDense():
            tokens = None if layer.tokens is None else tuple(layer.tokens)
            return "dense", layer.mlp.up.weight.shape, tokens
        case IntMoe():
            return "moe", *(expert.up.weight.shape for expert in layer.experts)
        case IntRenorm():
            return ("renorm",)
        case _:
            assert_never(layer)


def hidden_channels(graph: IntGraph, point: str) -> int:
    """Channels of the hidden rows at a point."""
    number, *expert, _ = point.split(".")
    layer = graph.layers[int(number)]
    if isinstance(layer, IntDense):
        return layer.mlp.hidden
    assert isinstance(layer, IntMoe), point
    return layer.experts[int(expert[0].removeprefix("expert"))].hidden


def cycles(graph: IntGraph, arch: ArchConfig, schedule: Schedule) -> int:
    """Cycles of a frame with a schedule, or with one of less memory if that does not fit.

    Raises
    ------
    UserError
        None fits.
    """
    return fitting_schedule(graph, arch, schedule)[1]


def widened(graph: IntGraph, points: Iterable[str]) -> IntGraph:
    """The graph as to its sizes with some points in 16 bits; its values mean nothing."""
    wide = wide_features(layer_point(point) for point in points)

    def mlp(number: int, part: IntMlp) -> IntMlp:
        channels = min(wide.get(f"{number}.hidden", part.wide), part.hidden)
        return replace(part, wide=channels, offset=0 if channels == part.hidden else part.offset)

    def layers() -> Iterator[IntLayer]:
        for number, layer in enumerate(graph.layers):
            rows = layer.wide or norm_point(graph.layers, number) in wide
            match layer:
                case IntAttention():
                    query = layer.wide_query or f"{number}.query" in wide
                    attended = layer.wide_attended or f"{number}.attention" in wide
                    yield replace(layer, wide=rows, wide_query=query, wide_attended=attended)
                case IntDense():
                    yield replace(layer, wide=rows, mlp=mlp(number, layer.mlp))
                case IntMoe():
                    experts = tuple(mlp(number, expert) for expert in layer.experts)
                    yield replace(layer, wide=rows, experts=experts)
                case IntRenorm():
                    yield layer
                case _:
                    assert_never(layer)

    heads = tuple(
        replace(head, wide=head.wide or f"{head_name(number)}.norm" in wide)
        for number, head in enumerate(graph.heads)
    )
    return replace(graph, layers=tuple(layers()), heads=heads)
