"""Public figures of what primitives and memories consume, with their sources.

Nobody publishes joules of a DSP48E2 or of a net of UltraScale+. What is public are reports of
Vivado's power estimator for whole designs, which split a power by kind of primitive: divided by
what a design has and by its clock, they are energies per primitive and cycle. Those reports are
estimates too, of designs whose activity nobody has given (without it, inputs toggle in an eighth
of the cycles, UG835, and Vivado carries that through the logic), so that a single one is worth a
factor of two, and several as much as they differ.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

DEFAULT_TOGGLES = 0.125
"""Toggles of a net per cycle that reports without a simulation begin with (UG835,
``set_switching_activity -default_toggle_rate``)."""
LEAST_FACTOR = 2.0
"""How far a typical figure may be off, either way, however well its reports agree."""


@dataclass(frozen=True, kw_only=True)
class PowerReport:
    """``report_power`` of a public design. Watts; ``None`` where the report says too little.

    Attributes
    ----------
    source, family, part_luts
        Where it is; the part, and its LUTs.
    mhz, luts, registers, block_rams, dsps
        Clock of the design, and what it has: LUTs of logic, 36 Kbit memories.
    fabric, clocks, memories, products, static
        Of logic and signals (without LUTs that are memories), of the clock's network, of block RAM,
        of DSP blocks, and of the whole part when nothing moves.
    """

    source: str
    family: str
    part_luts: int
    mhz: float
    static: float
    luts: int = 0
    registers: int = 0
    block_rams: float = 0.0
    dsps: int = 0
    fabric: float | None = None
    clocks: float | None = None
    memories: float | None = None
    products: float | None = None


REPORTS = (
    PowerReport(
        source="github.com/ozkanerbatuhan/hft, reports/power.rpt (an MLP, routed)",
        family="xc7",
        part_luts=53_200,
        mhz=125.0,
        luts=14_361,
        registers=11_372,
        block_rams=98.5,
        dsps=192,
        fabric=0.150 + 0.280,
        clocks=0.066,
        memories=0.249,
        products=0.236,
        static=0.196,
    ),
    PowerReport(
        source="github.com/nguyenchuyenhoa14-hub/YOLO_Tank, reports/power.txt (routed)",
        family="xc7",
        part_luts=53_200,
        mhz=1e3 / 9.5,
        luts=24_158,
        registers=25_748,
        block_rams=125,
        dsps=10,
        fabric=0.030 + 0.060,
        clocks=0.044,
        memories=0.161,
        products=0.006,
        static=0.115,
    ),
    PowerReport(
        source="github.com/SangNmd2004/QKD-Post-processing, reports/power_report.txt (routed)",
        family="xc7",
        part_luts=53_200,
        mhz=50.0,
        luts=29_260,
        registers=24_736,
        block_rams=115,
        fabric=0.087 + 0.163,
        clocks=0.031,
        memories=0.139,
        static=0.166,
    ),
    # Synthesised only, and most of its memories are LUTs: of it, the DSP blocks.
    PowerReport(
        source="github.com/mzybest/MDC-NTT, reports/power.rpt (synthesised)",
        family="xc7",
        part_luts=134_600,
        mhz=100.0,
        dsps=570,
        products=0.455,
        static=0.145,
    ),
    PowerReport(
        source="github.com/cyansemi/csre-demo-v1, README.md (on an Alveo U50)",
        family="xcup",
        part_luts=870_016,
        mhz=180.0,
        luts=475_034,
        registers=665_852,
        block_rams=412.5,
        fabric=1.894 - 0.421 - 0.072 + 3.132,
        clocks=2.464,
        memories=1.532,
        static=2.335,
    ),
    # A summary in a document, without logic and block RAM.
    PowerReport(
        source="a RISC-V GPGPU of 2 compute units on a KV260 (document on its implementation)",
        family="xcup",
        part_luts=117_120,
        mhz=193.93,
        registers=12_558,
        clocks=0.071,
        static=0.301,
    ),
)

DSP_SCALES = 0.85**2, 0.85**2 * 16 / 28
"""No report of UltraScale+ with DSP blocks at work was found. From a DSP48E1 (28 nm, 1.0 V) to a
DSP48E2 (16 nm, 0.85 V): capacitance as it was, or as the length."""


@dataclass(frozen=True)
class Figure:
    """An energy in picojoules (static: microwatts per LUT of the part) that may be off by
    ``factor`` either way."""

    typical: float
    factor: float

    @property
    def band(self) -> tuple[float, float, float]:
        """Low, typical, high."""
        return self.typical / self.factor, self.typical, self.typical * self.factor

    def scaled(self, by: float, factor: float = 1.0) -> Figure:
        """Times a number that may be off by ``factor`` itself."""
        return Figure(self.typical * by, self.factor * factor)


@dataclass(frozen=True)
class Figures:
    """Of a family.

    Attributes
    ----------
    toggle
        A toggle of a cell, LUT or flip-flop, and of the net behind it.
    clock
        A cycle of the clock at a flip-flop.
    dsp
        A cycle of a DSP block whose registers toggle as :data:`DEFAULT_TOGGLES`.
    block_ram, ultra_ram
        An access of a memory of 36 Kbit, or of 288: a read and a write.
    static
        Microwatts per LUT that the part has.
    """

    toggle: Figure
    clock: Figure
    dsp: Figure
    block_ram: Figure
    ultra_ram: Figure
    static: Figure


def _figure(values: Sequence[float]) -> Figure:
    """Geometric mean, and how far the values are from it."""
    mean = math.prod(values) ** (1 / len(values))
    return Figure(mean, max(LEAST_FACTOR, max(values) / mean, mean / min(values)))


@functools.cache
def family_figures(family: str) -> Figures | None:
    """What the reports say of a family; None where there are none."""
    own = [report for report in REPORTS if report.family == family]
    if not own:
        return None

    def each(name: str, among: str, reports: Sequence[PowerReport] = own) -> Figure:
        """Picojoules per primitive and cycle."""
        return _figure(
            [
                watts / sum(getattr(report, kind) for kind in among.split()) / report.mhz * 1e6
                for report in reports
                if (watts := getattr(report, name)) is not None
            ]
        )

    dsp = each("products", "dsps", [r for r in REPORTS if r.family == "xc7"])
    if family != "xc7":
        low, high = sorted(DSP_SCALES)
        dsp = dsp.scaled(math.sqrt(low * high))
    block_ram = each("memories", "block_rams")
    return Figures(
        toggle=each("fabric", "luts registers").scaled(1 / DEFAULT_TOGGLES),
        clock=each("clocks", "registers"),
        dsp=dsp,
        block_ram=block_ram,
        # Assumed: words as wide, and eight times as many.
        ultra_ram=block_ram.scaled(math.sqrt(2), math.sqrt(2)),
        static=_figure([1e6 * report.static / report.part_luts for report in own]),
    )
