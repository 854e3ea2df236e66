"""Kinds of layers, told from their instructions: reports of every part use the same names."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from moesaic.spec.isa import Drain, Opcode, Space

KINDS = ("embed", "attention", "dense", "moe", "renorm", "head")


def layer_kind(instructions: Iterable[tuple[Opcode, int]]) -> str:
    """One of :data:`KINDS`.

    Parameters
    ----------
    instructions
        Opcode, and for a DRAIN its ``kind``, for a LOAD its ``space``, of all instructions with the
        layer's label.
    """
    known = set(instructions)
    opcodes = {opcode for opcode, _ in known}
    # Where there is an activation, LOADs are of its tables.
    if Opcode.LOAD in opcodes and (Opcode.DRAIN, Drain.ACTIVATION) not in known:
        return "renorm" if Opcode.NORM in opcodes else "embed"
    if Opcode.STORE in opcodes:
        return "head"
    # Scores that are loaded, and not those of a router, list the tokens of dense layers.
    if Opcode.ROUTE in opcodes and (Opcode.LOAD, Space.ACTIVATION) not in known:
        return "moe"
    return "attention" if (Opcode.DRAIN, Drain.SOFTMAX) in known else "dense"


def layer_cycles(ends: Sequence[float], total: float) -> list[int]:
    """Cycles of every layer, from the times at which they end, in order.

    Units work on several layers at a time: a layer has the cycles from the end of those before
    it to its own, the last one those up to the end of the frame. They add up to the frame.
    """
    result, before = [], 0
    for number, end in enumerate(ends):
        last = number == len(ends) - 1
        after = round(total) if last else max(before, round(end))
        result.append(after - before)
        before = after
    return result
