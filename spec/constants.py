"""The CONSTANT window of a task: the first residual where that is not the input, behind it the
tables of its activations, zeros for a stream that begins anew, angles of rotations, and lists of
tokens."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate

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
    IntRotary,
)
from moesaic.spec.isa import Space
from moesaic.spec.lists import list_table, listed

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


Angle = tuple[bytes, bytes]


def angle_key(rotary: IntRotary) -> Angle:
    """Equal for equal angles."""
    return rotary.cosine.tobytes(), rotary.sine.tobytes()


def _rotaries(graph: IntGraph) -> list[IntRotary]:
    """Angles of all layers that rotate."""
    layers = (layer for layer in graph.layers if isinstance(layer, IntAttention))
    return [layer.rotary for layer in layers if layer.rotary is not None]


def angle_words(graph: IntGraph, arch: ArchConfig) -> dict[Angle, int]:
    """Residual words of each table of angles, in the order of first use."""
    return {
        angle_key(rotary): graph.tokens
        * (len(layout.rotary_columns(arch, rotary.pairs)) // arch.lanes)
        for rotary in _rotaries(graph)
    }


def angle_places(graph: IntGraph, arch: ArchConfig) -> dict[Angle, int]:
    """Residual word at which each table of angles begins: they are at the end of the memory."""
    sizes = angle_words(graph, arch)
    first = arch.residual_words - sum(sizes.values())
    return dict(zip(sizes, accumulate(sizes.values(), initial=first), strict=False))


def angles_offset(graph: IntGraph, arch: ArchConfig) -> int:
    """Byte of the window at which the angles begin, all tables one behind the other."""
    zeros = _residual_bytes(graph, arch) if graph.begins_anew else 0
    return zeros_offset(graph, arch) + zeros


def _possible_angle_words(graph: IntGraph, arch: ArchConfig) -> set[int]:
    """Words of all tables of angles together, whichever of them are equal."""
    rotaries = _rotaries(graph)
    sizes = [
        graph.tokens * (len(layout.rotary_columns(arch, rotary.pairs)) // arch.lanes)
        for rotary in rotaries
    ]
    found = {0}
    for size in sizes:
        found |= {other + size for other in found}
    return found if not sizes else found - {0}


def may_have_bytes(graph: IntGraph, arch: ArchConfig, size: int) -> bool:
    """Whether the window can have so many, whatever the tables contain."""
    zeros = _residual_bytes(graph, arch) if graph.begins_anew else 0
    fixed = _first_bytes(graph, arch) + zeros
    word = layout.load_bytes(arch, Space.RESIDUAL)
    most = 2 * sum(1 for _ in mlps(graph))
    allowed = range(0, most * _table_bytes(arch) + 1, _table_bytes(arch))
    angles = _possible_angle_words(graph, arch)
    lists = {_list_bytes(graph, arch, columns) for columns in range(listed(graph) + 1)}
    return any(
        size - fixed - words * word - list_bytes in allowed
        for words in angles
        for list_bytes in lists
    )


def lists_offset(graph: IntGraph, arch: ArchConfig) -> int:
    """Byte of the window at which the table of ``lists.list_table`` begins, in activation words."""
    words = sum(angle_words(graph, arch).values())
    return angles_offset(graph, arch) + words * layout.load_bytes(arch, Space.RESIDUAL)


def _list_bytes(graph: IntGraph, arch: ArchConfig, columns: int) -> int:
    words = graph.tokens * layout.words(columns, arch.depth)
    return words * layout.load_bytes(arch, Space.ACTIVATION)


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
    angles = {
        angle_key(rotary): layout.pack_angles(arch, rotary.cosine, rotary.sine).astype("<i2")
        for rotary in _rotaries(graph)
    }
    turns = b"".join(table.tobytes() for table in angles.values())
    lists = layout.pack_input(arch, list_table(graph))
    return residual + b"".join(packed) + zeros + turns + lists
