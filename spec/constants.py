"""The CONSTANT window of a task: the first residual, behind it the tables of its activations, and
zeros for a stream that begins anew."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from moesaic.spec import layout, tables
from moesaic.spec.arch import ArchConfig
from moesaic.spec.exhaustive import unreachable
from moesaic.spec.intgraph import IntAttention, IntDense, IntGraph, IntMlp, IntMoe, IntRenorm
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
    first, size = _residual_bytes(graph, arch), _table_bytes(arch)
    return {key: first + number * size for number, key in enumerate(used_tables(graph))}


def zeros_offset(graph: IntGraph, arch: ArchConfig) -> int:
    """Byte of the window at which as many zeros begin as the first residual has bytes."""
    return _residual_bytes(graph, arch) + len(used_tables(graph)) * _table_bytes(arch)


def may_have_bytes(graph: IntGraph, arch: ArchConfig, size: int) -> bool:
    """Whether the window can have so many, whatever the tables contain."""
    rest = size - _residual_bytes(graph, arch) * (2 if graph.begins_anew else 1)
    most = 2 * sum(1 for _ in mlps(graph))
    return rest in range(0, most * _table_bytes(arch) + 1, _table_bytes(arch))


def _residual_bytes(graph: IntGraph, arch: ArchConfig) -> int:
    words = graph.tokens * layout.words(graph.channels, arch.lanes)
    return words * layout.load_bytes(arch, Space.RESIDUAL)


def _table_bytes(arch: ArchConfig) -> int:
    return tables.ACTIVATION_ENTRIES * layout.load_bytes(arch, Space.TABLE)


def pack_constants(graph: IntGraph, arch: ArchConfig) -> bytes:
    """Contents of the window."""
    residual = layout.pack_residual(arch, graph.embed.initial)
    packed = [layout.pack_table(arch, table) for table in used_tables(graph).values()]
    zeros = bytes(len(residual) if graph.begins_anew else 0)
    return residual + b"".join(packed) + zeros
