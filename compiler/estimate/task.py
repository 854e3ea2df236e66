"""How many cycles a frame takes, without simulating it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from math import inf
from typing import Any

from moesaic.compiler.estimate.activity import Activity, Fill, activities, fill
from moesaic.compiler.estimate.cycles import transfer
from moesaic.compiler.estimate.cycles.frame import WAITS, Frame
from moesaic.compiler.estimate.cycles.matrix import Matrix
from moesaic.compiler.estimate.cycles.sizes import field as value_of
from moesaic.compiler.estimate.cycles.stream import Stream, check_segments
from moesaic.compiler.estimate.cycles.timing import Memory
from moesaic.compiler.estimate.cycles.vector import Vector
from moesaic.compiler.schedule.steps import Step
from moesaic.spec.arch import ArchConfig
from moesaic.spec.errors import UserError
from moesaic.spec.isa import INSTRUCTION_BYTES, Opcode, Unit
from moesaic.spec.layers import layer_cycles, layer_kind
from moesaic.spec.memory import roofline_cycles, share_name


@dataclass(frozen=True)
class LayerEstimate:
    """One layer; the units work on several at a time, so its cycles are those from the end of
    the layers before to its own end, and those of all layers add up to the frame."""

    label: str
    kind: str
    """embed, attention, dense, moe or head."""
    cycles: int
    matrix_busy: int
    """Words that the matrix unit streams for it, one per cycle."""
    vector_busy: int
    """Chunks that the vector unit reads for it, one per cycle."""
    weight_bytes: int
    """Weight bytes that are fetched for it."""
    matrix_waits: dict[str, int]
    """Cycles that the array waits before and between its words, by reason (``frame.WAITS``)."""


@dataclass(frozen=True)
class Estimate:
    """Cycles of one frame. ``busy`` is by unit name: cycles in which it worked on data.

    The ``matrix_busy`` and ``matrix_waits`` of all layers add up to the cycles but those after
    the array's last word, ``drain_cycles``.
    """

    cycles: int
    roofline_cycles: float
    """Least cycles of the frame: :func:`~moesaic.spec.memory.roofline_cycles`."""
    macs: int
    weight_bytes: int
    data_bytes: int
    busy: dict[str, int]
    drain_cycles: int
    fill: Fill
    activities: list[Activity] = field(repr=False)
    """Not part of :meth:`to_dict`: there are thousands."""
    layers: list[LayerEstimate] = field(default_factory=list)
    cycles_at: dict[str, int] = field(default_factory=dict)
    """Cycles behind the same memory that sustains another share of its peak, by ``share_name``."""

    @property
    def utilisation(self) -> float:
        return self.roofline_cycles / self.cycles

    @property
    def kinds(self) -> dict[str, int]:
        """Cycles by kind of layer."""
        result: dict[str, int] = {}
        for layer in self.layers:
            result[layer.kind] = result.get(layer.kind, 0) + layer.cycles
        return result

    def to_dict(self) -> dict[str, Any]:
        plain = asdict(replace(self, activities=[]))
        del plain["activities"]
        return {**plain, "utilisation": self.utilisation, "kinds": self.kinds}


def estimate(
    steps: Sequence[Step],
    arch: ArchConfig,
    macs: int,
    *,
    routing: Mapping[str, Sequence[int]] | None = None,
    memory: Memory | None = None,
    shares: Sequence[float] = (),
) -> Estimate:
    """Estimate one frame of a compiled task.

    Parameters
    ----------
    steps
        Those of :class:`~moesaic.compiler.codegen.task.TaskCode`: STREAMs placed, addresses
        planned, tokens inserted.
    arch
        Sizes.
    macs
        Multiply-accumulates of the frame, for the roofline (``IntGraph.macs``).
    routing
        Layer name to the number of tokens that each expert gets; layers that are not named route
        equally to all experts.
    memory
        External memory; by default that of reported figures.
    shares
        Of the memory's peak: ``cycles_at`` is of these. Each that is not ``memory``'s takes as
        long as the estimate itself.

    Raises
    ------
    UserError
        ``routing`` does not fit the model.
    """
    _check_rows(steps, routing or {})
    memory = memory or Memory()
    frame, cycles = _run(steps, arch, memory, routing or {})
    cycles_at = {}
    for share in shares:
        found = cycles
        if share != memory.share or memory.bus:
            plain = replace(memory, share=share, bus=None)
            found = _run(steps, arch, plain, routing or {})[1]
        cycles_at[share_name(share)] = round(found)
    weight_bytes = frame.arrived.total * arch.ring_read_bytes
    loaded = sum(frame.work[p] for p in frame.of_unit[Unit.LOAD])
    chunks = sum(value_of(steps[p], "words") for p in frame.of_unit[Unit.STORE])
    read_bytes = loaded * arch.data_port_bytes + (len(steps) + 1) * INSTRUCTION_BYTES
    written_bytes = chunks * 2 * arch.lanes
    return Estimate(
        cycles=round(cycles),
        roofline_cycles=roofline_cycles(arch, macs, weight_bytes, read_bytes, written_bytes),
        macs=macs,
        weight_bytes=weight_bytes,
        data_bytes=read_bytes + written_bytes,
        busy={
            unit.name.lower(): sum(frame.work[p] for p in positions)
            for unit, positions in frame.of_unit.items()
        },
        drain_cycles=round(cycles - frame.issued - 1),
        fill=fill(frame, cycles),
        activities=activities(frame),
        layers=_layers(frame, cycles),
        cycles_at=cycles_at,
    )


def frame_cycles(
    steps: Sequence[Step], arch: ArchConfig, memory: Memory | None = None, below: float = inf
) -> int:
    """The cycles of :func:`estimate`, and nothing else; any that are not below ``below`` where
    those are not, as soon as that is known."""
    # Cycles are rounded, so that a little above is not yet too many.
    return round(_run(steps, arch, memory or Memory(), {}, below + 1)[1])


def _run(
    steps: Sequence[Step],
    arch: ArchConfig,
    memory: Memory,
    routing: Mapping[str, Sequence[int]],
    below: float = inf,
) -> tuple[Frame, float]:
    """A frame with all of its times, and its cycles; if these are not below ``below``, maybe only
    the first times and a number that is not, either."""
    frame = Frame(steps, arch, memory, routing)
    check_segments(frame)
    processes = [
        transfer.dispatch(frame),
        Stream(frame).process(),
        Matrix(frame).process(),
        Vector(frame).process(),
        transfer.router(frame),
        transfer.load(frame),
        transfer.store(frame),
    ]
    return frame, frame.run(processes, below)


def check_routing(layers: Collection[str], routing: Mapping[str, Sequence[int]]) -> None:
    """Refuse names that are no layer with experts.

    Raises
    ------
    UserError
        It names one.
    """
    for label in routing:
        if label not in layers:
            known = ", ".join(sorted(layers)) or "none"
            raise UserError(f"routing layer must be one with experts ({known}), not {label!r}")


def _check_rows(steps: Sequence[Step], routing: Mapping[str, Sequence[int]]) -> None:
    routes = {
        step.label: step for step in steps if step.opcode is Opcode.ROUTE and not step.queue_rows
    }
    check_routing(routes, routing)
    for label, rows in routing.items():
        experts, tokens, top_k = (
            value_of(routes[label], name) for name in ("experts", "rows", "top_k")
        )
        fits = len(rows) == experts and all(0 <= count <= tokens for count in rows)
        if not fits or sum(rows) != tokens * top_k:
            raise UserError(
                f"routing of layer {label!r} must be {experts} token counts of 0 to {tokens} with"
                f" the sum {tokens * top_k}, not {list(rows)!r}"
            )


def _layers(frame: Frame, cycles: float) -> list[LayerEstimate]:
    """Split the frame at the ends of its layers."""
    members: dict[int, list[int]] = {}
    for position, step in enumerate(frame.steps):
        members.setdefault(step.layer, []).append(position)
    number = {
        position: n for positions in frame.of_unit.values() for n, position in enumerate(positions)
    }
    ring_bytes = frame.arch.ring_read_bytes

    def waits(positions: list[int]) -> dict[str, int]:
        mine = [frame.waits[p] for p in positions if p in frame.waits]
        return {reason: round(sum(wait[reason] for wait in mine)) for reason in WAITS}

    def work(positions: list[int], unit: Unit) -> int:
        return sum(frame.work[p] for p in positions if frame.steps[p].unit is unit)

    ends = [
        max(
            frame.finished[frame.steps[position].unit][number[position]]
            for position in positions
            if frame.steps[position].opcode is not Opcode.STREAM
        )
        for _, positions in sorted(members.items())
    ]
    result = []
    for (_, positions), mine in zip(
        sorted(members.items()), layer_cycles(ends, cycles), strict=True
    ):
        steps = [frame.steps[position] for position in positions]
        result.append(
            LayerEstimate(
                label=steps[0].label,
                kind=layer_kind(
                    (s.opcode, value_of(s, "space" if s.opcode is Opcode.LOAD else "kind"))
                    for s in steps
                ),
                cycles=mine,
                matrix_busy=work(positions, Unit.MATRIX),
                vector_busy=work(positions, Unit.VECTOR),
                weight_bytes=sum(frame.ring_words[p] for p in positions) * ring_bytes,
                matrix_waits=waits(positions),
            )
        )
    return result
