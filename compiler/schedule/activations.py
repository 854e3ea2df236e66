"""Which tables of activations are resident when."""

from __future__ import annotations

from moesaic.compiler.schedule.steps import TABLES, Access
from moesaic.spec import tables
from moesaic.spec.arch import ArchConfig
from moesaic.spec.constants import table_offsets
from moesaic.spec.intgraph import IntActivation, IntGraph


class TableSlots:
    """What the vector unit's tables hold as the program goes on.

    The table that was needed the longest ago gives way; a task begins with nothing resident.
    """

    def __init__(self, graph: IntGraph, arch: ArchConfig) -> None:
        self._places = table_offsets(graph, arch)
        self._slots: list[bytes | None] = [None] * tables.ACTIVATION_TABLES
        self._recent = list(range(tables.ACTIVATION_TABLES))  # the one to give way first

    def need(self, activation: IntActivation) -> tuple[dict[str, int], list[tuple[int, int]]]:
        """DRAIN's fields for an activation, and (offset of the constants, slot) of what must be
        loaded before."""
        keys = [part.tobytes() for part in (activation.positive, activation.negative)]
        loads: list[tuple[int, int]] = []
        chosen: list[int] = []
        for key in keys:
            if key not in self._slots:
                kept = [self._slots.index(other) for other in keys if other in self._slots]
                slot = next(slot for slot in self._recent if slot not in kept)
                self._slots[slot] = key
                loads.append((self._places[key], slot))
            slot = self._slots.index(key)
            self._recent = [*(other for other in self._recent if other != slot), slot]
            chosen.append(slot)
        positive, negative = chosen
        fields = {
            "table": positive,
            "negative_table": negative,
            "linear": int(activation.linear),
        }
        return fields, loads


def table_accesses(fields: dict[str, int]) -> tuple[Access, ...]:
    """What a DRAIN with such fields reads."""
    used = {fields["table"], fields["negative_table"]}
    return tuple(Access(TABLES[slot], False) for slot in sorted(used))
