"""The vector unit on Verilator, against the integer semantics."""

from __future__ import annotations

import dataclasses
import functools
import json

import pytest

from moesaic.hw.vector.unit import VectorUnit
from moesaic.hw.verilog import to_verilog
from moesaic.sim.bench_runner import BenchFailure, run_cocotb
from moesaic.spec.arch import ArchConfig
from moesaic.spec.presets import PRESETS

BENCH = "tests.hw.bench_vector"
NANO = PRESETS["nano"]
# Lanes below depth below width, ring words smaller than one chunk's parameters.
SMALL = dataclasses.replace(
    NANO, depth=8, width=16, lanes=4, ring_read_bytes=16, data_port_bytes=8, weight_ports=1,
    accumulator_rows=128, activation_bytes=16 << 10, residual_bytes=8 << 10, max_tokens=32,
)  # fmt: skip
# One ring word is more than a parameter block; four chunks per accumulator row.
NARROW = dataclasses.replace(
    NANO, lanes=4, ring_read_bytes=256, data_port_bytes=8, accumulator_rows=64,
    residual_bytes=8 << 10,
)  # fmt: skip
# Depth, width and lanes are one; more experts than the columns of four tiles.
SQUARE = dataclasses.replace(
    NANO, depth=8, width=8, lanes=8, ring_read_bytes=32, data_port_bytes=8, max_experts=64,
    accumulator_rows=128, residual_bytes=8 << 10,
)  # fmt: skip
# Two chunks at a time: a pair is a word of the scratchpad, or half of one.
PAIRS = dataclasses.replace(SMALL, chunk_pairs=True)
PARTS = dataclasses.replace(NARROW, chunk_pairs=True)
ARCHS = {"small": SMALL, "narrow": NARROW, "square": SQUARE, "pairs": PAIRS, "parts": PARTS}


@functools.cache
def verilog(arch: ArchConfig) -> str:
    return to_verilog(VectorUnit(arch), "vector")


def run(arch: ArchConfig, testcase: str | None = None, **parameters: object) -> int:
    parameters["ARCH"] = json.dumps(arch.to_dict())
    return run_cocotb(verilog(arch), "vector", BENCH, testcase=testcase, parameters=parameters)


@pytest.mark.parametrize("arch", ARCHS.values(), ids=ARCHS.keys())
def test_vector_unit(arch: ArchConfig) -> None:
    assert run(arch) == 14


def test_falsified_expectation_fails_the_run() -> None:
    with pytest.raises(BenchFailure, match="1 of 1 tests failed"):
        run(NARROW, "random_program_without_delays", INSTRUCTIONS=20, CORRUPT="writes")
