"""The CONSTANT window of a task: the first residual where that is not the input, behind it the
tables of its activations, and zeros for a stream that begins anew."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from moesaic.spec import layout, tables
from moesaic.spec.arch import ArchConfig
from moesaic.spec.exhaustive import unreachable
from moesaic.spec.intgraph import (
    IntAttention,
    IntDense,
    IntEmbed,
    IntGraph,
    IntMlp,
    IntMoe,
    IntRenorm,
)
from moesaic.spec.isa import Space

Table = NDArray[np.int32]


def mlps(graph: IntGraph) -> Iterator[tuple[str, IntMlp]]:
    """All MLPs of a graph, and where they are."""
    for index, layer in enumerate(graph.layers):
        match layer:
            case IntDense():
                yield f"layers[{index}].mlp", layer.mlp
            case IntMoe():
                for number, expert in enumerate(layer.experts):
                    yield f"layers[{index}].experts[{number}]", expert
            case IntAttention() | IntRenorm():
                pass
            case _:
                unreachable(layer)


def used_tables(graph: IntGraph) -> dict[bytes, Table]:
    """All tables of a task by their contents, in the order of first use."""
    found: dict[bytes, Table] = {}
    for _, mlp in mlps(graph):
        for table in (mlp.activation.positive, mlp.activation.negative):
            found.setdefault(table.tobytes(), table)
    return found


def table_offsets(graph: IntGraph, arch: ArchConfig) -> dict[bytes, int]:
    """Byte of the window at which each table begins."""
    first, size = _first_bytes(graph, arch), _table_bytes(arch)
    return {key: first + number * size for number, key in enumerate(used_tables(graph))}


def zeros_offset(graph: IntGraph, arch: ArchConfig) -> int:
    """Byte of the window at which as many zeros begin as the first residual has bytes."""
    return _first_bytes(graph, arch) + len(used_tables(graph)) * _table_bytes(arch)


def may_have_bytes(graph: IntGraph, arch: ArchConfig, size: int) -> bool:
    """Whether the window can have so many, whatever the tables contain."""
    zeros = _residual_bytes(graph, arch) if graph.begins_anew else 0
    rest = size - _first_bytes(graph, arch) - zeros
    most = 2 * sum(1 for _ in mlps(graph))
    return rest in range(0, most * _table_bytes(arch) + 1, _table_bytes(arch))


def _first_bytes(graph: IntGraph, arch: ArchConfig) -> int:
    """Of the first residual; in place of one that is the input a beat, as no window is empty."""
    return (
        _residual_bytes(graph, arch) if isinstance(graph.embed, IntEmbed) else arch.data_port_bytes
    )


def _residual_bytes(graph: IntGraph, arch: ArchConfig) -> int:
    words = graph.tokens * layout.words(graph.channels, arch.lanes)
    return words * layout.load_bytes(arch, Space.RESIDUAL)


def _table_bytes(arch: ArchConfig) -> int:
    return tables.ACTIVATION_ENTRIES * layout.load_bytes(arch, Space.TABLE)


def pack_constants(graph: IntGraph, arch: ArchConfig) -> bytes:
    """Contents of the window."""
    embed = graph.embed
    if isinstance(embed, IntEmbed):
        residual = layout.pack_residual(arch, embed.initial)
    else:
        residual = bytes(_first_bytes(graph, arch))
    packed = [layout.pack_table(arch, table) for table in used_tables(graph).values()]
    zeros = bytes(_residual_bytes(graph, arch) if graph.begins_anew else 0)
    return residual + b"".join(packed) + zeros
