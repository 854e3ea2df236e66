"""Energy of an estimated frame."""

from __future__ import annotations

from moesaic.compiler.estimate.task import Estimate
from moesaic.spec.arch import ArchConfig
from moesaic.spec.clocks import Clock
from moesaic.spec.energy import Energy, frame_energy


def estimated_energy(
    arch: ArchConfig, clock: Clock, found: Estimate, frames: int = 1
) -> Energy | None:
    """Of one of ``frames`` that are computed together; None as :func:`frame_energy` has it."""
    busy = {unit: cycles / frames for unit, cycles in found.busy.items()}
    moved = (found.weight_bytes + found.data_bytes) / frames
    return frame_energy(arch, clock, found.cycles / frames, busy, moved)
