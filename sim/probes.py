"""What the simulator watches inside an accelerator, besides its ports.

The design that is simulated is the one that is built: it gets no ports for this. The wrapper around
it (:mod:`moesaic.sim.registered`) reads a few wires of its control block by their hierarchical
names: the inputs of the performance counters, the tokens, and the lengths of the expert queues. A
name that is not there any more is an error when the simulator is built.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from moesaic.spec.isa import Unit

STALL_REASONS: dict[Unit, tuple[str, ...]] = {
    Unit.STREAM: ("stream_wait_ring", "stream_wait_routing"),
    Unit.MATRIX: ("matrix_wait_tile", "matrix_wait_bank"),
    Unit.VECTOR: (
        "vector_wait_bank",
        "vector_wait_parameters",
        "vector_wait_scale",
        "vector_wait_output",
    ),
    Unit.ROUTER: (),
    Unit.LOAD: (),
    Unit.STORE: (),
}
"""Counters of stalls whose reason is known, of every unit."""

OTHER_STALLS: dict[Unit, str] = {
    Unit.STREAM: "memory",
    Unit.MATRIX: "operand",
    Unit.VECTOR: "hazard",
    Unit.ROUTER: "logits",
    Unit.LOAD: "memory",
    Unit.STORE: "transfer",
}
"""What the other stalls of a unit are. operand: the activation read or the distance between visits
of an accumulator row; hazard: updates of the residual, and the sums of NORM."""


def state_names(unit: Unit) -> list[str]:
    """What a unit does in a cycle, by code: 0 ``idle``, 1 ``busy``, ``token <unit>`` of the unit
    whose token it lacks, ``stall <reason>``."""
    tokens = [f"token {giver.name.lower()}" for giver in Unit]
    stalls = [name.partition("_wait_")[2] for name in STALL_REASONS[unit]]
    stalls.append(OTHER_STALLS[unit])
    return ["idle", "busy", *tokens, *(f"stall {name}" for name in stalls)]


@dataclass(frozen=True)
class Probe:
    """An output of the wrapper: Verilog expression ``value`` of ``width`` bits."""

    name: str
    width: int
    value: str


def _concatenate(bits: list[str]) -> str:
    """The first one lowest."""
    return "{" + ", ".join(reversed(bits)) + "}"


def _states(unit: Unit) -> list[str]:
    """One bit per state but idle, in the order of :func:`state_names`."""
    name, tokens = unit.name.lower(), "inner.control.tokens"

    def event(counter: str) -> str:
        return f"inner.control.counters.event_{counter}[0]"

    lacks = [
        f"{event(f'{name}_wait_token')} & {tokens}.wait{unit.value}[{giver.value}]"
        f" & ~|{tokens}.tokens_{giver.value}_{unit.value}"
        for giver in Unit
    ]
    reasons = [event(counter) for counter in STALL_REASONS[unit]]
    return [event(f"{name}_busy"), *lacks, *reasons, event(f"{name}_stall")]


def find_probes(verilog: str, toplevel: str) -> list[Probe]:
    """The probes of an accelerator; none if ``toplevel`` is something else."""
    if f"module \\{toplevel}.control.counters " not in verilog:
        return []
    queues = verilog.partition(f"module \\{toplevel}.core.router.queues ")[2]
    experts = len(
        set(re.findall(r"^  reg .*\bcount_(\d+)\b", queues.partition("endmodule")[0], re.M))
    )
    probes = [Probe("probe_running", 1, "inner.control.counters.event_cycles[0]")]
    for unit in Unit:
        states = _states(unit)
        probes.append(Probe(f"probe_{unit.name.lower()}", len(states), _concatenate(states)))
    for kind in ("take", "give"):
        signals = [f"inner.control.tokens.{kind}{unit.value}" for unit in Unit]
        probes.append(Probe(f"probe_{kind}", len(signals), _concatenate(signals)))
    counts = [f"16'(inner.core.router.queues.count_{e})" for e in range(experts)]
    return [*probes, Probe("probe_counts", 16 * experts, _concatenate(counts))]


def probes_header(probes: list[Probe]) -> str:
    """Their part of ``ports.h``."""
    experts = probes[-1].width // 16 if probes else 0
    units = " ".join(f"UNIT({unit.name.lower()})" for unit in Unit)
    return (
        f"#define MOESAIC_PROBES {int(bool(probes))}\n"
        f"#define MOESAIC_PROBED_UNITS(UNIT) {units}\n"
        f"#define MOESAIC_PROBED_EXPERTS {experts}\n"
    )
