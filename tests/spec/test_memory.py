"""The default memory and the roofline: one of each, read by all."""

from __future__ import annotations

import inspect
from dataclasses import fields

import pytest

from moesaic.cli.estimating import estimate
from moesaic.cli.simulating import simulate, verify
from moesaic.compiler.estimate.cycles.timing import Memory
from moesaic.models.bench.cases import NANO, Case
from moesaic.sim.dram import DramConfig
from moesaic.spec.memory import DEFAULT_MEMORY, MemoryTiming, roofline_cycles
from moesaic.spec.presets import PRESETS


def test_simulated_memory_is_the_default() -> None:
    dram = DramConfig()
    for field in fields(MemoryTiming):
        assert getattr(dram, field.name) == getattr(DEFAULT_MEMORY, field.name)


def test_memory_of_the_cost_model_is_the_default() -> None:
    memory = Memory()
    assert memory.latency == DEFAULT_MEMORY.latency_cycles
    assert memory.share == DEFAULT_MEMORY.bandwidth_share
    assert memory.credit == DEFAULT_MEMORY.burst_credit_beats
    assert memory.gap == DEFAULT_MEMORY.mean_gap_cycles == 8.5 / 256


@pytest.mark.parametrize("command", [estimate, simulate, verify], ids=lambda f: f.__name__)
def test_commands_default_to_it(command: object) -> None:
    parameters = inspect.signature(command).parameters  # type: ignore[arg-type]
    assert parameters["latency"].default == DEFAULT_MEMORY.latency_cycles
    assert parameters["bandwidth"].default == DEFAULT_MEMORY.bandwidth_share


def test_benchmark_cases_default_to_it() -> None:
    """`models` may import no other part, so it repeats the two figures."""
    case = Case(NANO, "nano")
    assert case.latency == DEFAULT_MEMORY.latency_cycles
    assert case.bandwidth == DEFAULT_MEMORY.bandwidth_share


@pytest.mark.parametrize(
    ("macs", "weights", "read", "written", "cycles"),
    [
        (256 * 1000, 0, 0, 0, 1000),
        (0, 32 * 1000, 0, 0, 1000),
        (0, 0, 16 * 1000, 0, 1000),
        (0, 0, 0, 16 * 1000, 1000),
        (256 * 999, 32 * 1001, 16 * 1000, 16 * 998, 1001),
    ],
)
def test_roofline_is_the_slowest_of_array_and_ports(
    macs: int, weights: int, read: int, written: int, cycles: int
) -> None:
    """nano: 256 MACs a cycle, weight ports of 32 bytes, 16 bytes read and 16 written."""
    assert roofline_cycles(PRESETS["nano"], macs, weights, read, written) == cycles


def test_roofline_counts_all_output_ports() -> None:
    assert roofline_cycles(PRESETS["zcu102"], 0, 0, 0, 64 * 1000) == 1000
