"""The block memories of an accelerator, and what they take of a part.

The sizes are written down here a second time: who explores thousands of targets cannot generate
each one's Verilog. A test compares them with the memories that the Verilog has.
"""

from __future__ import annotations

from dataclasses import dataclass

from moesaic.spec.arch import ACCUMULATOR_BANKS, ArchConfig
from moesaic.spec.formats import ACCUMULATOR_BITS, GATE_BITS, RESIDUAL_BITS
from moesaic.spec.isa import INSTRUCTION_BYTES
from moesaic.spec.tables import (
    ACTIVATION_ENTRIES,
    ACTIVATION_SLOPE_BITS,
    ACTIVATION_TABLES,
    ACTIVATION_VALUE_BITS,
)

PROGRAM_WORDS = 64
"""Instructions that wait in front of the dispatcher."""
SKEW_WORDS = 64
"""Beats that each weight port holds in front of the ring."""
STORE_BURSTS = 2
"""Bursts of beats that wait in front of each output port."""
ROW_SCALE_BITS = 21
"""A reciprocal of a softmax sum: mantissa and exponent."""


@dataclass(frozen=True)
class Ram:
    """``count`` memories of ``words`` words of ``bits`` bits, with ``lanes`` write enables."""

    block: str
    """Block of ``hw/resources/report.py`` that it is in."""
    bits: int
    words: int
    lanes: int = 1
    count: int = 1
    ultra: bool = False
    """In UltraRAM."""


def memories(arch: ArchConfig) -> list[Ram]:
    """All memories of an accelerator that go into block RAM or UltraRAM."""
    banks, rows = arch.activation_banks, arch.accumulator_rows
    token_bits = (arch.max_tokens - 1).bit_length()
    experts = arch.max_experts * arch.max_tokens
    return [
        Ram("control", 8 * INSTRUCTION_BYTES, PROGRAM_WORDS),
        Ram("core.stream", 8 * arch.ring_read_bytes, arch.ring_words, ultra=arch.ultra_ring),
        Ram("core.stream", 8 * arch.weight_port_bytes + 1, SKEW_WORDS, count=arch.weight_ports),
        Ram(
            "core.matrix.accumulate",
            ACCUMULATOR_BITS * arch.width,
            max(rows, 2),
            count=ACCUMULATOR_BANKS,
        ),
        Ram("core.matrix.accumulate", ACCUMULATOR_BITS, max(rows, 2), count=ACCUMULATOR_BANKS),
        # One copy for each side that reads.
        Ram("core.vector", RESIDUAL_BITS * arch.lanes, max(arch.residual_words, 2), count=2),
        Ram("core.vector", ROW_SCALE_BITS, 2 * rows),
        Ram(
            "core.vector.lanes",
            ACTIVATION_VALUE_BITS + ACTIVATION_SLOPE_BITS,
            ACTIVATION_TABLES * ACTIVATION_ENTRIES,
            count=arch.lanes,
        ),
        Ram("core.router", token_bits + GATE_BITS, max(experts, 2), count=2),
        Ram(
            "core.store",
            8 * arch.data_port_bytes,
            STORE_BURSTS * arch.max_burst,
            count=arch.output_ports,
        ),
        Ram(
            "core.scratchpad",
            8 * arch.depth,
            max(arch.activation_words // banks, 2),
            lanes=arch.depth,
            count=banks,
            ultra=arch.ultra_activations,
        ),
    ]


_SHAPES: dict[str, dict[int, int]] = {
    "bram36": {72: 512, 36: 1024, 18: 2048, 9: 4096, 4: 8192, 2: 16384, 1: 32768},
    "uram": {72: 4096},
    "ebr": {36: 512, 18: 1024, 9: 2048, 4: 4096, 2: 8192, 1: 16384},
}
"""Bits of a word to words of one block RAM, one port writing and one reading."""


INFERRED: dict[str, dict[str, int]] = {"bram36": {}, "ebr": {"core.router": 2}}
"""By block, what is in none of :func:`memories`, and yosys puts into block RAM all the same: on
ECP5 the router's table of reciprocals, and the queue of choices that wait for one."""


def ram_kind(family: str) -> str:
    """The kind of block RAM of a family."""
    return "ebr" if family == "ecp5" else "bram36"


def block_rams(ram: Ram, kind: str) -> float:
    """Block RAMs or UltraRAMs of one memory in the shape that takes the fewest; halves of 36 Kbit
    count 0.5."""
    return min(_stacked(ram, kind, bits, words) for bits, words in _SHAPES[kind].items())


def _stacked(ram: Ram, kind: str, bits: int, words: int) -> float:
    each = ram.bits // ram.lanes
    if ram.lanes > 1:
        # A write enable for every 8 or 9 bits, of which the ninth is not used; UltraRAM may have
        # its nine enables for 8 bits each.
        fit = bits // (8 if kind == "uram" and each <= 8 else 9)
        if fit:
            whole, rest = divmod(ram.lanes, fit)
            half = 2 * rest <= fit
        else:
            whole, rest, half = ram.lanes * -(-each // bits), 0, False
    else:
        whole, rest = divmod(ram.bits, bits)
        half = 2 * rest <= bits
    if kind == "uram" and rest:
        # What is left is so narrow that words lie side by side: as many as a power of two.
        left = bits // rest if ram.lanes == 1 else fit // rest
        beside = 1 << left.bit_length() - 1
        deep = -(-ram.words // words)
        return deep * whole + -(-deep // beside)
    # A block of 9 bits has no half: 4 bits and no parity are another shape.
    halves = 1 if kind == "bram36" and half and bits >= 18 else 2
    return -(-ram.words // words) * (whole + (0.5 * halves if rest else 0))
