"""Bench of the vector unit's function units against the integer semantics."""

from __future__ import annotations

import os
import random
from collections.abc import Sequence

import cocotb
import torch
from cocotb.clock import Clock
from cocotb.triggers import FallingEdge
from torch import Tensor

from moesaic.spec import semantics, tables
from moesaic.spec.activations import FINEST_STEP, tabulate
from tests.hw.vector_bench import table_words
from tests.hw.vector_program import random_tables

LANES = int(os.environ["LANES"])
LIMITS = [int(bits) for bits in os.environ["LIMITS"].split(",")]
CORRUPT = os.environ.get("CORRUPT") == "1"


def pack(values: Sequence[int], bits: int) -> int:
    """Lane 0 in the lowest bits."""
    mask, word = (1 << bits) - 1, 0
    for value in reversed(values):
        word = word << bits | (int(value) & mask)
    return word


def pack_rows(values: Tensor, bits: int) -> list[int]:
    return [pack(row, bits) for row in values.reshape(-1, LANES).tolist()]


async def stream(dut: object, drive: dict[str, list[int]], read: Sequence[str], latency: int):
    """Drive one value per cycle; return what the outputs show ``latency`` cycles later."""
    cocotb.start_soon(Clock(dut.clk, 2, unit="step").start())  # type: ignore[attr-defined]
    dut.rst.value = 0  # type: ignore[attr-defined]
    cycles = len(next(iter(drive.values())))
    inputs = [(getattr(dut, name), values) for name, values in drive.items()]
    outputs: dict[str, list[int]] = {name: [] for name in read}
    handles = [(getattr(dut, name), outputs[name]) for name in read]
    for cycle in range(cycles + latency):
        await FallingEdge(dut.clk)  # type: ignore[attr-defined]
        if cycle >= latency:
            for handle, seen in handles:
                seen.append(int(handle.value))
        if cycle < cycles:
            for handle, values in inputs:
                handle.value = values[cycle]
    return outputs


async def load_tables(dut: object, contents: Tensor) -> None:
    words = table_words(contents)
    drive = {
        "table_write__valid": [1] * len(words) + [0],
        "table_write__address": [*range(len(words)), 0],
        "table_write__data": [*words, 0],
    }
    await stream(dut, drive, [], 2)


def check(what: str, found: list[int], expected: list[int]) -> None:
    if CORRUPT:
        expected = [*expected[:-1], expected[-1] ^ 1]
    assert len(found) == len(expected)
    for index, (a, b) in enumerate(zip(found, expected, strict=True)):
        assert a == b, f"{what}: item {index} is {a:#x}, expected {b:#x}"


@cocotb.test()
async def requantise(dut) -> None:
    """Random operands of all magnitudes, corners of every saturation limit, all shifts."""
    rows = 1500
    generator = torch.Generator().manual_seed(random.getrandbits(32))

    def draw(low: int, high: int) -> Tensor:
        return torch.randint(low, high, (rows, LANES), generator=generator)

    operand = draw(-(1 << 32), 1 << 32) >> draw(0, 33)
    operand[0], operand[1] = (1 << 32) - 1, -(1 << 32)
    multiplier = draw(0, 1 << 16) >> draw(0, 17)
    multiplier[:2] = 65535
    shift = draw(0, 63)
    # Half of the rows land near the limits, where rounding and saturation meet.
    near = (operand * multiplier).abs().to(torch.float64).log2().clamp(min=0).to(torch.int64)
    shift[rows // 2 :] = (near - draw(5, 26)).clamp(0, 62)[rows // 2 :]
    choice = torch.randint(0, len(LIMITS), (rows, 1), generator=generator)
    bits = torch.tensor(LIMITS)[choice]
    value = semantics.round_shift(operand * multiplier, shift)
    limit = 1 << bits - 1
    value = torch.minimum(torch.maximum(value, -limit), limit - 1)
    drive = {
        "operand": pack_rows(operand, 33),
        "multiplier": pack_rows(multiplier, 16),
        "shift": pack_rows(shift, 6),
        "limit": choice.flatten().tolist(),
    }
    found = await stream(dut, drive, ["value"], 6)
    check("requantise", found["value"], pack_rows(value, max(LIMITS)))


@cocotb.test()
async def activation(dut) -> None:
    """Every input, at usual output scales and offsets; then random ones, far beyond 16 bits too."""
    contents = random_tables()
    contents[0] = torch.from_numpy(tabulate("gelu", FINEST_STEP).positive)
    await load_tables(dut, contents)
    half = 1 << tables.ACTIVATION_INPUT_BITS - 1
    z = torch.arange(-half, half)
    names = ("active_z", "active_choice", "active_multiplier", "active_shift", "active_offset")
    drive: dict[str, list[int]] = {name: [] for name in names}
    expected: list[int] = []
    expected_wide: list[int] = []
    settings = [
        (z, 0b100, 40960, 25, 7),
        (z, 0b001, 65535, 22, 255),
        (z[5::32], 0b110, 65535, 10, 0),
    ]
    for _ in range(20):
        sample = torch.randint(-half, half, (64 * LANES,))
        sample[::2] >>= 4
        factor = random.getrandbits(16), random.randrange(10, 45)
        settings.append((sample, random.getrandbits(3), *factor, random.getrandbits(8)))
    for sample, choice, multiplier, shift, offset in settings:
        words = pack_rows(sample, tables.ACTIVATION_INPUT_BITS)
        drive["active_z"] += words
        drive["active_choice"] += [choice] * len(words)
        drive["active_multiplier"] += [multiplier] * len(words)
        drive["active_shift"] += [shift] * len(words)
        drive["active_offset"] += [offset] * len(words)
        positive, negative = contents[choice & 1], contents[choice >> 1 & 1]
        fine = semantics.activation_fine(sample, positive, negative, bool(choice >> 2))
        expected += pack_rows(semantics.hidden_code(fine, multiplier, shift, offset), 8)
        expected_wide += pack_rows(semantics.hidden_wide(fine, multiplier, shift), 16)
    # The second multiplier takes its factors when the result arrives there, 5 cycles later; the
    # offset is added behind its last register.
    for name, early in zip(names, (0, 0, 5, 5, 10), strict=True):
        drive[name] = [0] * early + drive[name] + [0] * (10 - early)
    found = await stream(dut, drive, ["active_value", "active_wide"], 11)
    check("activation", found["active_value"][: len(expected)], expected)
    check("wide activation", found["active_wide"][: len(expected)], expected_wide)


@cocotb.test()
async def exp2(dut) -> None:
    """Every exponent in every lane; then random ones with lanes switched off. Any chunk."""
    count = 1 << tables.EXPONENT_BITS
    every = torch.arange(count).repeat_interleave(LANES)
    random_part = torch.randint(0, count, (300 * LANES,))
    exponent = torch.cat([every, random_part])
    valid = torch.ones_like(exponent)
    valid[len(every) :] = torch.randint(0, 2, (len(random_part),))
    mantissa, octaves = semantics.exp2_negative(exponent)
    # As columns of one row: chunk after chunk, every threshold in turn.
    threshold = semantics.dither(len(exponent))
    chunks = range(0, len(exponent), LANES)
    value = ((mantissa >> octaves) + threshold >> 8) * valid
    drive = {
        "exponent": pack_rows(exponent, tables.EXPONENT_BITS),
        "exponent_column": [first % (1 << tables.DITHER_BITS) for first in chunks],
        "exponent_valid": pack_rows(valid, 1),
    }
    found = await stream(dut, drive, ["probability"], 3)
    check("exp2", found["probability"], pack_rows(value, 8))


def spread(bits: int, count: int) -> Tensor:
    """Positive numbers of all lengths up to ``bits``, with both sides of every power of two."""
    powers = [1 << b for b in range(bits)]
    edges = [v for p in powers for v in (p - 1, p, p + 1) if 1 <= v < 1 << bits]
    edges.append((1 << bits) - 1)
    drawn = [random.getrandbits(random.randint(1, bits)) | 1 for _ in range(count)]
    return torch.tensor(edges + drawn)


@cocotb.test()
async def reciprocal(dut) -> None:
    value = torch.cat([torch.arange(1, 1 << 11), spread(24, 4000)])
    r, t = semantics.reciprocal(value)
    found = await stream(dut, {"sum": value.tolist()}, ["sum_mantissa", "sum_exponent"], 7)
    check("mantissa", found["sum_mantissa"], r.tolist())
    check("exponent", found["sum_exponent"], t.tolist())


@cocotb.test()
async def reciprocal_sqrt(dut) -> None:
    value = torch.cat([torch.arange(1, 1 << 11), spread(58, 4000)])
    r, e = semantics.reciprocal_sqrt(value)
    names = ["variance_mantissa", "variance_exponent"]
    found = await stream(dut, {"variance": value.tolist()}, names, 9)
    check("mantissa", found["variance_mantissa"], r.tolist())
    check("exponent", found["variance_exponent"], e.tolist())
