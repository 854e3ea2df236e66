"""How fast targets are on their boards: frames a second of a model that comes along."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from moesaic.compiler.estimate.cycles.timing import Memory
from moesaic.compiler.estimate.reference import REFERENCES, reference_graph
from moesaic.compiler.estimate.tuning import fitting_schedule
from moesaic.compiler.schedule.capacity import check_capacity
from moesaic.compiler.schedule.joint import Joint
from moesaic.compiler.schedule.options import first_schedule
from moesaic.spec.arch import ArchConfig
from moesaic.spec.boards import dram_of
from moesaic.spec.clocks import Clock, find_clock
from moesaic.spec.errors import UserError
from moesaic.spec.memory import Dram, board_share


@dataclass(frozen=True)
class Rating:
    """One target on its board.

    Attributes
    ----------
    model
        Of :data:`~moesaic.compiler.estimate.reference.REFERENCES`, the first that fits.
    cycles
        Of a frame, by the schedule that `compile` starts from; what it chooses is never slower.
    share
        Of the ports' peak, that these cycles assume: what the DRAM sustains at the clock.
    """

    model: str
    cycles: int
    share: float
    clock: Clock
    dram: Dram

    @property
    def frames_per_second(self) -> float:
        return self.clock.mhz * 1e6 / self.cycles

    def __str__(self) -> str:
        return f"{self.frames_per_second:,.0f} of {self.model}"


@cache
def rate(arch: ArchConfig) -> Rating | None:
    """The rating of a target; None if it is for no board, or holds none of the models."""
    dram = dram_of(arch)
    if dram is None:
        return None
    clock = find_clock(arch)
    memory = Memory(share=board_share(arch, dram, clock.mhz))
    for model in REFERENCES:
        joint = Joint.of(reference_graph(model))
        try:
            check_capacity(joint, arch)
            _, cycles = fitting_schedule(joint, arch, first_schedule(arch), memory)
        except UserError:  # it does not fit
            continue
        return Rating(model.name, cycles, memory.share, clock, dram)
    return None
