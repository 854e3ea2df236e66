"""Energy of a frame by a model: activity of the simulated RTL times public figures.

It is never a measurement. What the units do in a frame (cycles with work, bytes of DRAM) comes from
the cost model or from counters, how often registers change in such a cycle from the RTL
(:mod:`moesaic.spec.toggles`), what the target has from the model of resources, and what a toggle
costs from :mod:`moesaic.spec.energy_figures`. ``docs/energy.md`` says what that is worth.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from moesaic.spec.arch import ArchConfig
from moesaic.spec.boards import dram_of
from moesaic.spec.clocks import Clock
from moesaic.spec.energy_dram import ASSUMED_DRAM, dram_figures
from moesaic.spec.energy_figures import DEFAULT_TOGGLES, Figure, family_figures
from moesaic.spec.memories import Ram, block_rams, memories, ram_kind
from moesaic.spec.parts import FAMILIES, PARTS, family_of, find_part
from moesaic.spec.resource_model import block_resources
from moesaic.spec.toggles import recorded_rates, unit_of

KINDS = ("DSP", "logic", "clock", "memories", "DRAM", "static")
"""Where energy goes: DSP blocks; LUTs, flip-flops and nets; the clock's network; block RAM and
UltraRAM; external memory; the part when nothing moves."""
_BANKED = {"core.matrix.accumulate", "core.scratchpad"}
"""Memories of which the matrix unit takes one bank and the vector unit another one."""


@dataclass(frozen=True)
class Energy:
    """Of a frame.

    Attributes
    ----------
    by_kind
        Low, typical and high millijoules of each of :data:`KINDS`.
    milliseconds
        Of the frame.
    part, dram
        Whose figures they are: a name of :data:`moesaic.spec.parts.PARTS`, and the memory, which is
        an assumption where ``dram_assumed``.
    """

    by_kind: Mapping[str, tuple[float, float, float]]
    milliseconds: float
    part: str
    dram: str
    dram_assumed: bool

    @property
    def band(self) -> tuple[float, float, float]:
        """Millijoules of all kinds together, as if all were off to the same side."""
        return _sum(*self.by_kind.values())

    @property
    def watts(self) -> float:
        """Mean power of the frame, typical."""
        return self.band[1] / self.milliseconds

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        low, typical, high = self.band
        return {
            "source": "modelled, not measured",
            "mj": typical,
            "mj_low": low,
            "mj_high": high,
            "watts": self.watts,
            "mj_of": {kind: part[1] for kind, part in self.by_kind.items()},
            "part": self.part,
            "dram": self.dram,
            "dram_assumed": self.dram_assumed,
        }


def frame_energy(
    arch: ArchConfig,
    clock: Clock,
    cycles: float,
    busy: Mapping[str, float],
    moved_bytes: float,
) -> Energy | None:
    """Energy of a frame; None where no figures of the target's family, or of its DRAM, are public.

    Parameters
    ----------
    arch, clock
        The target. Dynamic energy does not depend on its clock, static energy does.
    cycles
        Of the frame.
    busy
        By unit, as reports name it: cycles in which it worked on data.
    moved_bytes
        Between DRAM and the accelerator, in both directions.
    """
    family = family_of(arch.device)
    figures = family_figures(family)
    board = dram_of(arch)
    external = dram_figures(board or ASSUMED_DRAM)
    if figures is None or external is None:
        return None
    rates = recorded_rates()
    registers = fabric = products = 0.0
    for block, resources in block_resources(arch, family).items():
        toggles = rates[block].toggles(busy.get(unit_of(block), 0.0), cycles)
        registers += resources["ff"]
        fabric += toggles * (resources["lut"] + resources["ff"])
        products += toggles / DEFAULT_TOGGLES * resources["dsp"]
    accesses = dict.fromkeys(("bram36", "uram"), 0.0)
    for ram in memories(arch):
        # What is to be UltraRAM is block RAM where there is none.
        kind = "uram" if ram.ultra and "uram" in FAMILIES[family] else ram_kind(family)
        accesses[kind] += _accesses(arch, ram, kind, busy)
    milliseconds = clock.milliseconds(cycles)
    part = find_part(arch.device, family)
    per_byte, idle = external
    by_kind = {
        "DSP": _millijoules(figures.dsp, products),
        "logic": _millijoules(figures.toggle, fabric),
        "clock": _millijoules(figures.clock, registers * cycles),
        "memories": _sum(
            _millijoules(figures.block_ram, accesses["bram36"]),
            _millijoules(figures.ultra_ram, accesses["uram"]),
        ),
        # Milliwatts times milliseconds are microjoules.
        "DRAM": _sum(
            _millijoules(per_byte, moved_bytes),
            _millijoules(idle.scaled(1e6), milliseconds),
        ),
        "static": _millijoules(
            figures.static.scaled(1e3), milliseconds * PARTS[part].capacity["lut"]
        ),
    }
    return Energy(by_kind, milliseconds, part, str(board or ASSUMED_DRAM), board is None)


def _accesses(arch: ArchConfig, ram: Ram, kind: str, busy: Mapping[str, float]) -> float:
    """Accesses of the block RAMs of a memory and its copies.

    All blocks of a memory count, as they do where each holds some bits of every word, and all of a
    unit's memories in every cycle in which it works: that is too many of those which only some
    instructions need.
    """
    one = block_rams(ram, kind)
    if ram.block in _BANKED:
        return one * (busy.get("matrix", 0.0) + busy.get("vector", 0.0))
    cycles = busy.get(unit_of(ram.block), 0.0)
    if ram.block == "core.stream" and ram.count == 1:
        cycles *= arch.line_bytes / arch.ring_read_bytes  # the ring's words are several lines
    return one * ram.count * cycles


def _millijoules(figure: Figure, count: float) -> tuple[float, float, float]:
    """So many times a figure in picojoules."""
    low, typical, high = (1e-9 * value * count for value in figure.band)
    return low, typical, high


def _sum(*parts: tuple[float, float, float]) -> tuple[float, float, float]:
    low, typical, high = (sum(part) for part in zip(*parts, strict=True))
    return low, typical, high
