"""The profile of a simulated frame: what each unit did when, for which instruction."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from moesaic.sim.probes import state_names
from moesaic.spec import isa
from moesaic.spec.isa import Instruction, Opcode, Unit
from moesaic.spec.layers import layer_cycles, layer_kind

RECORD = np.dtype([("cycle", "<u4"), ("unit", "u1"), ("kind", "u1"), ("value", "<u2")])
"""``struct ProfileRecord`` of ``harness/profile.h``."""
_STATE, _TAKE, _GIVE, _COUNT = range(4)
BIN_CYCLES = 32
"""Cycles over which bytes at the ports are added up."""


@dataclass(frozen=True)
class Traffic:
    """Bytes that crossed one AXI port, [bins] of :data:`BIN_CYCLES` cycles each."""

    port_bytes: int
    """Bytes of a beat: one is the peak of a cycle."""
    read: NDArray[np.uint32]
    written: NDArray[np.uint32]


@dataclass(frozen=True)
class RawProfile:
    """What the harness recorded of one frame.

    ``records`` are :data:`RECORD`; ``traffic`` is by port name.
    """

    cycles: int
    records: NDArray[np.void]
    traffic: dict[str, Traffic]


@dataclass(frozen=True)
class Activity:
    """An instruction in its unit: cycles from ``begin`` up to ``end``.

    It begins when its tokens are taken and the instruction before it has given its own, and ends
    when it has given its tokens.
    """

    instruction: Instruction
    label: str
    begin: int
    end: int


@dataclass(frozen=True)
class Run:
    """A unit's state in the cycles from ``begin`` up to ``end``; see ``probes.state_names``."""

    state: str
    begin: int
    end: int


@dataclass(frozen=True)
class LayerProfile:
    """One layer of the frame. ``experts`` are the tokens of each, if it has some."""

    label: str
    kind: str
    cycles: int
    experts: list[int] | None


@dataclass(frozen=True)
class Profile:
    """One frame. All times are cycles since the frame began."""

    cycles: int
    activities: dict[Unit, list[Activity]]
    layers: list[LayerProfile]
    traffic: dict[str, Traffic]
    records: NDArray[np.void]

    def runs(self, unit: Unit) -> Iterator[Run]:
        """A unit's states one after the other, made on demand: a frame has many."""
        names = state_names(unit)
        own = self.records[(self.records["unit"] == unit) & (self.records["kind"] == _STATE)]
        cycles, codes = [0, *own["cycle"].tolist()], [0, *own["value"].tolist()]
        for code, begin, end in zip(codes, cycles, [*cycles[1:], self.cycles], strict=True):
            if end > begin:
                yield Run(names[code], begin, end)

    def states(self, unit: Unit) -> dict[str, int]:
        """Cycles in every state that occurred."""
        total: dict[str, int] = {}
        for run in self.runs(unit):
            total[run.state] = total.get(run.state, 0) + run.end - run.begin
        return total

    def states_by_layer(self, unit: Unit) -> list[dict[str, int]]:
        """The same for the cycles of each layer, those after the end of the layer before it."""
        result: list[dict[str, int]] = []
        runs, begin = self.runs(unit), 0
        run = next(runs, None)
        for layer in self.layers:
            total: dict[str, int] = {}
            end = begin + layer.cycles
            while run is not None and run.begin < end:
                overlap = min(run.end, end) - max(run.begin, begin)
                total[run.state] = total.get(run.state, 0) + overlap
                if run.end > end:
                    break
                run = next(runs, None)
            result.append(total)
            begin = end
        return result

    @property
    def kinds(self) -> dict[str, int]:
        """Cycles by kind of layer."""
        total: dict[str, int] = {}
        for layer in self.layers:
            total[layer.kind] = total.get(layer.kind, 0) + layer.cycles
        return total


def read_program(program: bytes) -> list[Instruction]:
    """The instructions of a program, END left out.

    Raises
    ------
    UserError
        An instruction is damaged.
    """
    size = isa.INSTRUCTION_BYTES
    all_of_it = [isa.decode(program[i : i + size]) for i in range(0, len(program), size)]
    return [instruction for instruction in all_of_it if instruction.opcode is not Opcode.END]


def interpret(raw: RawProfile, program: bytes, labels: Sequence[str], experts: int) -> Profile:
    """Match what was recorded with the program.

    Parameters
    ----------
    raw
        A frame that ran to its end.
    program
        What it ran.
    labels
        Layer names by the instructions' ``layer``.
    experts
        The most experts of a layer; more are not recorded.

    Raises
    ------
    ValueError
        The record does not fit the program.
    """
    instructions = read_program(program)
    by_unit: dict[Unit, list[Instruction]] = {unit: [] for unit in Unit}
    for instruction in instructions:
        by_unit[_unit(instruction)].append(instruction)
    activities = {
        unit: _activities(raw.records, unit, mine, labels) for unit, mine in by_unit.items()
    }
    return Profile(
        raw.cycles,
        activities,
        _layers(raw, instructions, activities, labels, experts),
        raw.traffic,
        raw.records,
    )


def _unit(instruction: Instruction) -> Unit:
    unit = isa.UNIT_OF[instruction.opcode]
    assert unit is not None, "END has been left out"
    return unit


def _label(instruction: Instruction, labels: Sequence[str]) -> str:
    layer = instruction.values["layer"]
    return labels[layer] if layer < len(labels) else f"layer {layer}"


def _activities(
    records: NDArray[np.void], unit: Unit, mine: list[Instruction], labels: Sequence[str]
) -> list[Activity]:
    own = records[records["unit"] == unit]
    takes, gives = (own["cycle"][own["kind"] == kind].tolist() for kind in (_TAKE, _GIVE))
    if len(takes) != len(mine) or len(gives) != len(mine):
        raise ValueError(
            f"{unit.name} must take and give tokens {len(mine)} times, not {len(takes)} and"
            f" {len(gives)} times"
        )
    result, before = [], 0
    for instruction, take, give in zip(mine, takes, gives, strict=True):
        begin, before = max(take, before), give + 1
        result.append(Activity(instruction, _label(instruction, labels), begin, give + 1))
    return result


def _layers(
    raw: RawProfile,
    instructions: list[Instruction],
    activities: dict[Unit, list[Activity]],
    labels: Sequence[str],
    experts: int,
) -> list[LayerProfile]:
    members: dict[int, list[Instruction]] = {}
    for instruction in instructions:
        members.setdefault(instruction.values["layer"], []).append(instruction)
    ends: dict[int, int] = {}
    for unit, done in activities.items():
        for activity in done if unit is not Unit.STREAM else ():
            layer = activity.instruction.values["layer"]
            ends[layer] = max(ends.get(layer, 0), activity.end)
    order = sorted(members)
    counts = raw.records["value"][raw.records["kind"] == _COUNT].reshape(-1, experts)
    routed = iter(counts.tolist())
    result = []
    for layer, cycles in zip(
        order, layer_cycles([ends[layer] for layer in order], raw.cycles), strict=True
    ):
        mine = members[layer]
        routes = [i for i in mine if i.opcode is Opcode.ROUTE]
        tokens = [next(routed)[: route.values["experts"]] for route in routes]
        kind = layer_kind((i.opcode, i.values.get("kind", i.values.get("space", 0))) for i in mine)
        chosen = tokens[-1] if kind == "moe" else None
        result.append(LayerProfile(_label(mine[0], labels), kind, cycles, chosen))
    return result
