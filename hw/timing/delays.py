"""Delays of cells and wires, in ns: UltraScale+, speed grade -2, 0.85 V.

No vendor's tool has placed anything, and no figure here was measured: cells have delays of the
order that is usual for the family, **assumptions** until a data sheet or a board confirms them. A
wire is taken for its fan-out, with a constant for being somewhere on the part.
A part that is 70 % full routes worse, a vendor's tool retimes and replicates better.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

CLOCK_TO_Q = 0.08
"""Flip-flop, from the clock to its output."""
SETUP = 0.03
"""Flip-flop: data, enable and reset."""
LUT = 0.09
"""Any input of a LUT to its output; a wire to each is counted beside it."""
MUX = 0.06
"""MUXF7 to MUXF9, which only LUTs of the same slice drive."""
CARRY_IN = 0.12
"""From a bit's inputs to its sum or into the chain."""
CARRY_BIT = 0.015
"""From bit to bit along the chain."""
LUTRAM_READ = 0.12
"""Address of distributed memory to its output."""
LUTRAM_CLOCK = 0.35
"""Its clock to its output; shift registers of LUTs too."""
RAM_CLOCK = 0.95
"""Block RAM without its output register, clock to output."""
RAM_CLOCK_REGISTERED = 0.30
"""With it."""
RAM_SETUP = 0.20
"""Addresses, data and enables of block RAM."""
DSP = 1.84
"""Multiplier and adder of a DSP48E2 between its own registers (A or B to P)."""

WIRE = 0.28
WIRE_PER_DOUBLING = 0.045
WIDE_WIRE = 0.55
WIDE_WIRE_PER_DOUBLING = 0.1
_WIDE = 64
"""Loads from which a wire spans so much of the part that it grows faster."""


def wire(loads: NDArray[np.int64]) -> NDArray[np.float32]:
    """Delay of a routed wire, in ns, by the number of pins that it drives (at least one)."""
    doublings = np.log2(np.maximum(loads, 1))
    near = WIRE + WIRE_PER_DOUBLING * doublings
    far = WIDE_WIRE + WIDE_WIRE_PER_DOUBLING * (doublings - np.log2(_WIDE))
    return np.where(loads > _WIDE, far, near).astype(np.float32)
