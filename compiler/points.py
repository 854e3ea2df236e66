"""Where the linear layers of a graph sit between its quantised points.

A *point* is a named tensor of the float run whose range sets a scale: ``input``, ``residual``,
``{i}.residual``, ``{i}.norm``, ``{i}.query``, ``{i}.hidden``, ``{i}.expert{e}.hidden``,
``head.norm``, ``output``, of a second head ``head1.norm``, ``output1`` and so on (see
``run_outputs``). Parallel layers read one point, the
``{i}.norm`` of the first of them.
"""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, assert_never

from moesaic.compiler import ir
from moesaic.spec.formats import INT8_LARGEST, INT16_LARGEST, UINT8_LARGEST
from moesaic.spec.intgraph import head_name

WIDE_KINDS = ("norm", "query", "attention", "hidden")
"""Ends of the names of points that can be held in 16 bits instead of eight."""
ALL_FEATURES = (1 << 31) - 1
_EXPERT = re.compile(r"\.expert\d+")


@dataclass(frozen=True)
class Site:
    """One linear layer: it reads the point ``source`` and sets the scale of ``target``."""

    role: str
    """Unique in the graph: ``embed``, ``3.query``, ``5.expert2.up``, ``head``, ``head1``."""
    linear: ir.Linear
    source: str
    target: str
    input_limit: int
    """Largest magnitude of an input code: 128 for int8, 255 for uint8, 32768 for int16."""


class MaybeParallel(Protocol):
    """A layer, in floats or integers."""

    @property
    def parallel(self) -> bool: ...


def rows_of(layers: Sequence[MaybeParallel], number: int) -> int:
    """Number of the layer whose normalised rows layer ``number`` reads: the first of those that are
    parallel, or itself."""
    while layers[number].parallel:
        number -= 1
    return number


def norm_point(layers: Sequence[MaybeParallel], number: int) -> str:
    """Point of the normalised rows that layer ``number`` reads."""
    return f"{rows_of(layers, number)}.norm"


def plain_points(graph: ir.Graph) -> set[str]:
    """Points of rows that are those of the residual stream itself, and not normalised."""
    found = {f"{n}.norm" for n, layer in enumerate(graph.layers) if layer.norm.plain}
    heads = enumerate(graph.heads)
    return found | {f"{head_name(n)}.norm" for n, head in heads if head.norm.plain}


def is_output(point: str) -> bool:
    """Whether a point is one of :func:`ir.output_point`."""
    return point.startswith("output")


def head_number(point: str) -> int:
    """The head that a point such as ``head1.norm`` or ``output1`` is of."""
    return int(point.partition(".")[0].lstrip(string.ascii_lowercase) or 0)


def first_layer(graph: ir.Graph, point: str) -> int:
    """The layer whose run a point is in, of parallel ones the first; -1 for the embedding, and of a
    head the number of layers in front of it."""
    name = point.partition(".")[0]
    if name in ("input", "residual"):
        return -1
    if name.isdigit():
        return rows_of(graph.layers, int(name))
    return graph.heads[head_number(point)].depth


def is_stream(point: str) -> bool:
    """Whether a point is one of :func:`ir.stream_points`."""
    return point.endswith("residual")


def mlp_hidden(layer: int, expert: int | None = None) -> str:
    """Point in front of the second product of a dense MLP or of an expert."""
    return f"{layer}.hidden" if expert is None else f"{layer}.expert{expert}.hidden"


def mlps(graph: ir.Graph) -> Iterator[tuple[str, ir.Mlp]]:
    """Hidden points and what they are inside of."""
    for number, layer in enumerate(graph.layers):
        match layer:
            case ir.Mlp():
                yield mlp_hidden(number), layer
            case ir.Moe():
                for index, expert in enumerate(layer.experts):
                    yield mlp_hidden(number, index), expert
            case ir.Attention() | ir.Renorm():
                pass
            case _:
                assert_never(layer)


def wide_features(names: Iterable[str]) -> dict[str, int]:
    """Points that have 16 bits, and in how many of their features.

    All of ``3.norm`` and ``5.hidden``; of ``5.hidden:64`` the 64 with the largest magnitudes. Of a
    point that is named twice the larger number.
    """
    result: dict[str, int] = {}
    for name in names:
        point, _, count = name.partition(":")
        result[point] = max(result.get(point, 0), int(count) if count else ALL_FEATURES)
    return result


def wide_points(graph: ir.Graph, names: Iterable[str]) -> dict[str, int]:
    """:func:`wide_features`, and what has 16 bits whoever asks: the rows of a head that reads the
    stream itself, whose outliers would leave 8 bits little, and those that become the stream."""
    found = wide_features(names)
    for number, layer in enumerate(graph.layers):
        if isinstance(layer, ir.Renorm):
            found[f"{number}.norm"] = ALL_FEATURES
    for number, head in enumerate(graph.heads):
        if head.norm.plain:
            found[f"{head_name(number)}.norm"] = ALL_FEATURES
    return found


def wide_name(point: str, features: int) -> str:
    """What :func:`wide_features` reads."""
    return point if features == ALL_FEATURES else f"{point}:{features}"


def layer_point(point: str) -> str:
    """The name that a layer's experts have in common for a point: ``5.hidden`` for
    ``5.expert2.hidden``; other names as they are."""
    return _EXPERT.sub("", point)


def _mlp_sites(
    mlp: ir.Mlp, norm: str, layer: int, expert: int | None, target: str
) -> Iterator[Site]:
    prefix = f"{layer}" if expert is None else f"{layer}.expert{expert}"
    hidden = mlp_hidden(layer, expert)
    if mlp.factor is None:
        yield Site(f"{prefix}.up", mlp.up, norm, hidden, INT8_LARGEST)
    else:
        yield Site(f"{prefix}.up", mlp.up, norm, f"{prefix}.active", INT8_LARGEST)
        yield Site(f"{prefix}.factor", mlp.factor, norm, f"{prefix}.factor", INT8_LARGEST)
    yield Site(f"{prefix}.down", mlp.down, hidden, target, UINT8_LARGEST)


def sites(graph: ir.Graph) -> Iterator[Site]:
    """All linear layers of a graph, in the order of execution."""
    if isinstance(graph.embed, ir.Embed):
        yield Site("embed", graph.embed.linear, "input", "residual", INT8_LARGEST)
    for number, (layer, stream) in enumerate(
        zip(graph.layers, ir.stream_points(graph.layers)[1:], strict=True)
    ):
        norm = norm_point(graph.layers, number)
        match layer:
            case ir.Attention():
                for part in ("query", "key", "value"):
                    point = f"{number}.{part}"
                    yield Site(point, getattr(layer, part), norm, point, INT8_LARGEST)
                source = f"{number}.attention"
                yield Site(f"{number}.output", layer.output, source, stream, INT8_LARGEST)
            case ir.Mlp():
                yield from _mlp_sites(layer, norm, number, None, stream)
            case ir.Moe():
                yield Site(f"{number}.gate", layer.gate, norm, f"{number}.logits", INT16_LARGEST)
                for index, expert in enumerate(layer.experts):
                    yield from _mlp_sites(expert, norm, number, index, stream)
            case ir.Renorm():
                yield Site(f"{number}.linear", layer.linear, norm, stream, INT16_LARGEST)
            case _:
                assert_never(layer)
    for number, head in enumerate(graph.heads):
        name = head_name(number)
        yield Site(name, head.linear, f"{name}.norm", ir.output_point(number), INT8_LARGEST)


def map_linears(graph: ir.Graph, change: Callable[[Site], ir.Linear]) -> ir.Graph:
    """The graph with every linear layer replaced by what ``change`` makes of its site."""
    changed = {site.role: change(site) for site in sites(graph)}

    def mlp(node: ir.Mlp, prefix: str) -> ir.Mlp:
        up, down = changed[f"{prefix}.up"], changed[f"{prefix}.down"]
        return replace(node, up=up, down=down, factor=changed.get(f"{prefix}.factor"))

    layers: list[ir.Layer] = []
    for number, layer in enumerate(graph.layers):
        match layer:
            case ir.Attention():
                parts = ("query", "key", "value", "output")
                query, key, value, output = (changed[f"{number}.{part}"] for part in parts)
                layers.append(replace(layer, query=query, key=key, value=value, output=output))
            case ir.Mlp():
                layers.append(mlp(layer, f"{number}"))
            case ir.Moe():
                experts = [mlp(e, f"{number}.expert{i}") for i, e in enumerate(layer.experts)]
                layers.append(replace(layer, gate=changed[f"{number}.gate"], experts=experts))
            case ir.Renorm():
                layers.append(replace(layer, linear=changed[f"{number}.linear"]))
            case _:
                assert_never(layer)
    embed = graph.embed
    if isinstance(embed, ir.Embed):
        embed = replace(embed, linear=changed["embed"])
    return replace(
        graph,
        embed=embed,
        layers=layers,
        heads=[
            replace(head, linear=changed[head_name(number)])
            for number, head in enumerate(graph.heads)
        ],
    )
