"""What a frame's units did when, and how full the memories were, read off a finished estimate."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from moesaic.compiler.estimate.cycles.frame import Frame
from moesaic.compiler.estimate.cycles.sizes import field
from moesaic.compiler.schedule.steps import Step
from moesaic.spec.isa import Drain, Opcode, Unit


@dataclass(frozen=True)
class Activity:
    """An instruction at work in its unit: cycles from ``begin`` up to ``end``, those of a unit
    without overlap; in ``work`` of them data moved."""

    unit: str
    layer: int
    """Index into the estimate's layers."""
    what: str
    begin: float
    end: float
    work: int


@dataclass(frozen=True)
class Fill:
    """How much of the on-chip memories one frame uses."""

    ring_peak_bytes: int
    """Most bytes that lay in the weight ring at a time."""
    ring_mean_bytes: int
    """Their mean over the frame."""
    accumulator_rows: int
    """Most rows of a bank that a group of products takes."""


def activities(frame: Frame) -> list[Activity]:
    """All instructions that had work to do, unit by unit in program order."""
    numbers = {layer: n for n, layer in enumerate(sorted({step.layer for step in frame.steps}))}
    result = []
    for unit, positions in frame.of_unit.items():
        before = 0.0
        for position, end in zip(positions, frame.finished[unit], strict=True):
            begin, step = max(before, frame.began[position]), frame.steps[position]
            before = max(before, end)
            if frame.work[position] and end > begin:
                what, layer = _what(step), numbers[step.layer]
                work = min(frame.work[position], round(end - begin))
                result.append(Activity(unit.name.lower(), layer, what, begin, end, work))
    return result


def _what(step: Step) -> str:
    kind = field(step, "kind") if step.opcode is Opcode.DRAIN else None
    what = Drain(kind).name if kind is not None else step.opcode.name
    return f"{what} expert {field(step, 'expert')}" if step.fields.get("predicated") else what


def fill(frame: Frame, cycles: float) -> Fill:
    """How full ring and accumulators were in a frame of so many cycles."""
    arch = frame.arch
    arrived = np.diff(frame.arrived.counts, prepend=0)
    popped = np.diff(frame.popped.counts, prepend=0)
    times = np.concatenate([frame.arrived.times, frame.popped.times, [cycles]])
    order = np.argsort(times, kind="stable")
    words = np.cumsum(np.concatenate([arrived, -popped, [0]])[order])
    held = np.clip(words, 0, arch.ring_words)
    mean = float((held[:-1] * np.diff(times[order])).sum() / cycles)
    rows = [
        field(frame.steps[position], "n_tiles") * frame.rows[position]
        for position in frame.of_unit[Unit.MATRIX]
    ]
    return Fill(
        ring_peak_bytes=int(held.max()) * arch.ring_read_bytes,
        ring_mean_bytes=round(mean * arch.ring_read_bytes),
        accumulator_rows=max(rows, default=0),
    )
