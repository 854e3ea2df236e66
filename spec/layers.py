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
    drains = {kind for opcode, kind in known if opcode is Opcode.DRAIN}
    if Drain.SOFTMAX in drains:
        return "attention"
    if Drain.ACTIVATION in drains:
        # Scores that are loaded, and not those of a router, list the tokens of dense layers.
        routed = Opcode.ROUTE in opcodes and (Opcode.LOAD, Space.ACTIVATION) not in known
        return "moe" if routed else "dense"
    if Drain.OUTPUT in drains:
        return "head"
    # NORMs that STOREs come with send rows of the stream to external memory.
    return "renorm" if Opcode.NORM in opcodes and Opcode.STORE not in opcodes else "embed"


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
