"""DDR4 behind all ports: the same bits, and cycles as the cost model has them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from moesaic.compiler.estimate.cycles.timing import Memory
from moesaic.compiler.estimate.models import estimate_graphs
from moesaic.compiler.estimate.shared import ddr_memory
from moesaic.compiler.report.routing import run_and_watch_routing
from moesaic.compiler.schedule.options import first_schedule
from moesaic.sim.dram import DramConfig, SharedDdr
from moesaic.sim.provider import SimulatedAccelerator
from moesaic.spec.arch import ArchConfig
from moesaic.spec.memory import DDR4_2400, DDR_TIMINGS, Dram
from moesaic.spec.presets import PRESETS
from moesaic.spec.registers import WEIGHT_ROUND_BYTES
from tests.cli.here import moesaic_here
from tests.compiler.random_intgraph import Shape, random_intgraph, random_patches

from .bundles import expected_codes, make_bundle

NANO = PRESETS["nano"]
FOUR = replace(NANO, weight_ports=4, weight_port_bytes=8, data_port_bytes=8, output_ports=4)
CLOCK = 302
HEAVY = Shape(
    tokens=40, patches=39, head_rows=39, channels=96, heads=2, head_dim=48, value_dim=48,
    experts=12, expert_hidden=200, moe=(False, True), top_k=2, functions=0.0,
)  # fmt: skip
"""Bound by its weights where DRAM is narrow: few tokens for each expert."""


@pytest.mark.parametrize(("arch", "bits"), [(NANO, 64), (NANO, 16), (FOUR, 32), (FOUR, 16)])
def test_cycles_are_those_of_the_cost_model(arch: ArchConfig, bits: int) -> None:
    graph = random_intgraph(HEAVY, seed=7)
    patches = random_patches(graph, 1, seed=1)
    bundle = make_bundle({"task": graph}, arch)
    device = SimulatedAccelerator(bundle, dram=DramConfig(ddr=SharedDdr(DDR4_2400, bits, CLOCK)))
    try:
        result = device.run("task", patches)
    finally:
        device.close()
    np.testing.assert_array_equal(result.codes, expected_codes(graph, patches))
    _, routing = run_and_watch_routing(graph, patches)

    def error(memory: Memory) -> float:
        schedules = {"task": first_schedule(arch)}
        found = estimate_graphs(
            {"task": graph}, arch, routing=routing, schedules=schedules, memory=memory
        )["task"]
        return found.cycles / result.counters[0]["CYCLES"] - 1

    dram = Dram("DDR4-2400", 2400, bits)
    assert abs(error(ddr_memory(arch, dram, CLOCK))) < 0.035
    if bits == 16:  # another memory is another number of cycles
        assert error(Memory()) < -0.1


def test_ports_have_banks_of_their_own_where_the_driver_lays_their_weights() -> None:
    # Distances modulo the driver's round say all, whatever the bus.
    for timing in DDR_TIMINGS.values():
        for bits in (16, 32, 64):
            turn = timing.groups * timing.banks * timing.columns * bits // 8
            assert WEIGHT_ROUND_BYTES % turn == 0

    def sustained(target: str, bits: int, **given: int) -> float:
        dram = Dram("DDR4-2400", 2400, bits)
        bus = ddr_memory(PRESETS[target], dram, CLOCK, **given).bus
        assert bus is not None
        return bus.weights

    assert sustained("zcu102", 64) > 0.93 > 0.75 > sustained("zcu102", 64, apart=0)
    for bits in (16, 32, 64):
        assert sustained("nano", bits) > sustained("nano", bits, apart=0)


def test_commands_take_it(
    small_bundle: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def told(*words: str) -> dict[str, Any]:
        done = moesaic_here(capsys, monkeypatch, words[0], small_bundle, *words[1:], "--json")
        assert done.code == 0, done.err
        return dict(json.loads(done.out))

    assert told("verify", "--dram", "ddr4:16", "--samples", "1")["bit_exact"]
    plain, found = told("estimate"), told("estimate", "--dram", "ddr4:16")
    for task, figures in found["tasks"].items():
        assert figures["cycles"] > plain["tasks"][task]["cycles"]
        assert figures["dram_given_gb_s"] == 4.8 and "DDR4-2400, 16 bit" in figures["dram"]
        assert figures["dram_shares"] == plain["tasks"][task]["dram_shares"]


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("--dram", "ddr4"), "is for no board"),
        (("--dram", "ddr4:48"), "16, 32, 64"),
        (("--dram", "ddr4:"), "16, 32, 64"),
        (("--dram", "ddr5"), "share, ddr4"),
        (("--dram", "ddr4:16", "--bandwidth", "0.5"), "--bandwidth"),
        (("--dram", "ddr4", "--targets", "all"), "--targets"),
        (("--dram", "ddr4", "--target", "pynq-z2"), "DDR3-1050"),
    ],
)
def test_what_is_not_there_is_refused(
    words: tuple[str, ...],
    why: str,
    small_bundle: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    done = moesaic_here(capsys, monkeypatch, "estimate", small_bundle, *words)
    assert done.code == 2 and why in done.err
