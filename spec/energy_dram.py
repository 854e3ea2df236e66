"""What external memory consumes: from currents of data sheets, and an assumption on its pins."""

from __future__ import annotations

from dataclasses import dataclass

from moesaic.spec.energy_figures import LEAST_FACTOR, Figure
from moesaic.spec.memory import Dram


@dataclass(frozen=True)
class DramCurrents:
    """Of one chip, from its data sheet: milliamperes, volts, and its rate and bits.

    ``active`` with a row open (IDD3N), ``read`` and ``write`` in bursts (IDD4R, IDD4W), ``refresh``
    (IDD5) for ``refresh_share`` of the time.
    """

    source: str
    volts: float
    bits: int
    megatransfers: int
    active: float
    read: float
    write: float
    refresh: float
    refresh_share: float

    @property
    def picojoules_per_bit(self) -> float:
        """Of the core, reads and writes alike; the pins' drivers are not in these currents."""
        more = (self.read + self.write) / 2 - self.active
        return more * self.volts * 1e9 / (self.megatransfers * 1e6 * self.bits)

    @property
    def milliwatts(self) -> float:
        """With a row open and nothing to do, refreshes included."""
        refresh = (self.refresh - self.active) * self.refresh_share
        return (self.active + refresh) * self.volts


DRAM_CURRENTS = {
    "DDR4": DramCurrents(
        source="Micron MT40A512M16, as gem5's DDR4_2400_4x16 has it",
        volts=1.2,
        bits=16,
        megatransfers=2400,
        active=47,
        read=243,
        write=228,
        refresh=280,
        refresh_share=350 / 7800,
    ),
    "DDR3": DramCurrents(
        source="Micron MT41J512M8, as gem5's DDR3_1600_8x8 has it",
        volts=1.5,
        bits=8,
        megatransfers=1600,
        active=38,
        read=157,
        write=125,
        refresh=235,
        refresh_share=260 / 7800,
    ),
}
"""By the beginning of :attr:`moesaic.spec.memory.Dram.kind`."""

PIN_PICOJOULES_PER_BIT = 6.7
"""At 1.2 V, **assumed**: drivers of a DDR4 chip of 8 bits take 86 mW at 3200 by Micron's power
calculator, and the end of the lines is taken to need as much."""
ASSUMED_DRAM = Dram("DDR4-2400", 2400, 64)
"""For targets whose board is not known."""


def dram_figures(dram: Dram) -> tuple[Figure, Figure] | None:
    """Picojoules per byte that is moved, and milliwatts of the idle memory; None if unknown.

    The controller and its pins are in the processing system: the upper bound leaves room for them.
    """
    for kind, chip in DRAM_CURRENTS.items():
        if dram.kind.startswith(kind):
            pins = PIN_PICOJOULES_PER_BIT * (chip.volts / 1.2) ** 2
            moved = Figure(8 * (chip.picojoules_per_bit + pins), LEAST_FACTOR)
            return moved, Figure(chip.milliwatts * dram.data_bits / chip.bits, LEAST_FACTOR)
    return None
