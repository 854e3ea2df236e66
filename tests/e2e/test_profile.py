"""Profiles of simulated frames against the gateware's counters, the program, the reference."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from moesaic.compiler.report.routing import run_and_watch_routing
from moesaic.sim.probes import STALL_REASONS
from moesaic.sim.profile import BIN_CYCLES, Profile, interpret, read_program
from moesaic.sim.provider import SimulatedAccelerator
from moesaic.sim.timeline import chrome_trace
from moesaic.spec.bundle import Bundle, load_bundle
from moesaic.spec.clocks import find_clock
from moesaic.spec.isa import Unit
from moesaic.spec.presets import PRESETS
from tests.compiler.random_intgraph import Shape, random_intgraph, random_patches

from .bundles import make_bundle
from .conftest import moesaic
from .test_user_errors import assert_refused

SHAPE = Shape(
    tokens=40, patches=39, head_rows=39, channels=96, heads=2, head_dim=48, value_dim=48,
    experts=6, expert_hidden=100, moe=(False, True, True), top_k=2,
)  # fmt: skip
Recorded = tuple[Bundle, Profile, dict[str, int], dict[str, list[int]]]


@pytest.fixture(scope="module")
def recorded() -> Recorded:
    """A bundle, the profile and counters of its second frame, and the reference's routing."""
    graph = random_intgraph(SHAPE, seed=3)
    patches = random_patches(graph, 2, seed=4)
    bundle = make_bundle({"task": graph}, PRESETS["nano"])
    device = SimulatedAccelerator(bundle, profile=True)
    try:
        counters = device.run("task", patches).counters[1]
    finally:
        device.close()
    _, routing = run_and_watch_routing(graph, patches[1:])
    return bundle, device.profiles[1], counters, routing


def test_states_are_those_that_the_counters_count(recorded: Recorded) -> None:
    _, profile, counters, _ = recorded
    assert profile.cycles == counters["CYCLES"]
    for unit in Unit:
        states = profile.states(unit)
        assert sum(states.values()) == profile.cycles
        assert states.get("busy", 0) == counters[f"{unit.name}_BUSY"]
        tokens = sum(n for name, n in states.items() if name.startswith("token"))
        # A unit may be busy with one instruction while the next one waits: it counts as busy.
        assert tokens <= counters[f"{unit.name}_WAIT_TOKEN"]
        stalls = sum(n for name, n in states.items() if name.startswith("stall"))
        assert stalls == counters[f"{unit.name}_STALL"]
        for reason in STALL_REASONS[unit]:
            name = f"stall {reason.partition('_wait_')[2]}"
            assert states.get(name, 0) == counters[reason.upper()], reason
    assert profile.states(Unit.MATRIX).get("token vector", 0) > 0


def test_layers_add_up_and_route_as_the_reference(recorded: Recorded) -> None:
    _, profile, _, routing = recorded
    assert [layer.kind for layer in profile.layers] == [
        "embed", "attention", "dense", "attention", "moe", "attention", "moe", "head"
    ]  # fmt: skip
    assert sum(layer.cycles for layer in profile.layers) == profile.cycles
    assert sum(profile.kinds.values()) == profile.cycles
    for unit in Unit:
        by_layer = profile.states_by_layer(unit)
        for layer, states in zip(profile.layers, by_layer, strict=True):
            assert sum(states.values()) == layer.cycles
        for state, cycles in profile.states(unit).items():
            assert sum(states.get(state, 0) for states in by_layer) == cycles
    experts = [layer.experts for layer in profile.layers if layer.experts is not None]
    assert experts == list(routing.values())


def test_instructions_follow_one_another(recorded: Recorded) -> None:
    bundle, profile, counters, _ = recorded
    total = sum(len(activities) for activities in profile.activities.values())
    assert total == len(read_program(bundle.programs["task"])) == counters["INSTRUCTIONS"] - 1
    for activities in profile.activities.values():
        before = 0
        for activity in activities:
            assert before <= activity.begin < activity.end <= profile.cycles
            before = activity.end


def test_traffic_is_what_the_counters_count(recorded: Recorded) -> None:
    _, profile, counters, _ = recorded
    bins = -(-profile.cycles // BIN_CYCLES)
    assert all(len(traffic.read) == bins for traffic in profile.traffic.values())
    read = {name: int(traffic.read.sum()) for name, traffic in profile.traffic.items()}
    weights = sum(size for name, size in read.items() if name.startswith("w"))
    assert weights == counters["WEIGHT_READ_BYTES"]
    assert sum(read.values()) - weights == counters["DATA_READ_BYTES"]
    written = sum(int(traffic.written.sum()) for traffic in profile.traffic.values())
    assert written == counters["DATA_WRITE_BYTES"]


def test_timeline_has_a_track_per_unit_and_port(recorded: Recorded) -> None:
    _, profile, _, _ = recorded
    trace = json.loads(json.dumps(chrome_trace([profile, profile], "task")))
    events = trace["traceEvents"]
    names = {
        (event["pid"], event["tid"]): event["args"]["name"]
        for event in events
        if event["name"] == "thread_name"
    }
    for frame in (0, 1):
        tracks = [name for (pid, _), name in names.items() if pid == frame]
        assert tracks[:2] == ["stream", "stream state"]
        assert {"matrix", "vector", "router", "load", "store"} < set(tracks)
        assert {f"port {port}" for port in profile.traffic} < set(tracks)
    for track, name in names.items():
        ends = 0
        slices = [e for e in events if e["ph"] == "X" and (e["pid"], e["tid"]) == track]
        assert slices or name.startswith("port"), name
        for event in slices if not name.startswith("port") else ():
            assert event["dur"] > 0 and event["ts"] >= ends
            ends = event["ts"] + event["dur"]
        assert ends <= profile.cycles


def test_record_of_another_program_is_refused(recorded: Recorded) -> None:
    bundle, _, _, _ = recorded
    device = SimulatedAccelerator(bundle, profile=True)
    try:
        device.run("task", random_patches(bundle.graphs["task"], 1))
        raw, program = device.transport.profile(), bundle.programs["task"]
    finally:
        device.close()
    with pytest.raises(ValueError, match="must take and give tokens"):
        interpret(raw, program[32:], [], bundle.arch.max_experts)


def test_command_writes_timeline_and_statistics(small_bundle: Path, tmp_path: Path) -> None:
    image = np.random.default_rng(0).normal(size=(2, 3, 32, 32)).astype(np.float32)
    np.savez(tmp_path / "in.npz", image=image)
    done = moesaic(
        "simulate", small_bundle, "--task", "seg", "--input", tmp_path / "in.npz",
        "--output", tmp_path / "out.npz", "--stats", tmp_path / "stats.json",
        "--timeline", tmp_path / "trace.json",
    )  # fmt: skip
    assert done.code == 0, done.err
    stats = json.loads((tmp_path / "stats.json").read_text())
    clock, mean = find_clock(PRESETS["nano"]), np.mean(stats["cycles"])
    moved = (stats["dram_read_bytes"] + stats["dram_write_bytes"]) / mean * clock.mhz / 1e3
    given = 48 * 0.9 * clock.mhz / 1e3  # bytes of all ports in a cycle, and their share
    assert (
        f"seg: {mean / clock.mhz / 1e3:.3g} ms at {clock}, if DRAM sustains {given:.1f} GB/s;"
        f" a frame moves {moved:.1f} in the mean"
    ) in done.err
    assert sum(stats["kinds"].values()) == pytest.approx(np.mean(stats["cycles"]))
    moe = [layer for layer in stats["layers"] if layer["kind"] == "moe"]
    assert all(sum(layer["experts"]) == 10 and layer["imbalance"] >= 1 for layer in moe)
    # Called by the module that torch's exporter kept in the file.
    assert moe and all(".blocks." in layer["label"] for layer in moe), moe
    assert all(sum(x["matrix"].values()) == x["cycles"] for x in stats["layers"])
    ideal = sum(layer["array_cycles"] for layer in stats["layers"])
    assert ideal * 256 == pytest.approx(stats["macs"])
    assert ideal < sum(layer["matrix"].get("busy", 0) for layer in stats["layers"])
    busy = stats["units"]["matrix"]["states"]["busy"]
    assert busy == stats["units"]["matrix"]["busy_cycles"]
    energy, line = stats["energy"], f"{stats['energy']['mj']:.3g} mJ a frame by a model"
    assert energy["mj_low"] < energy["mj"] < energy["mj_high"] and line in done.err
    estimated = load_bundle(small_bundle).report["tasks"]["seg"]["energy"]
    assert energy["mj"] == pytest.approx(estimated["mj"], rel=0.05)  # other tokens for experts
    trace = json.loads((tmp_path / "trace.json").read_text())
    labels = {event["name"] for event in trace["traceEvents"] if event["ph"] == "X"}
    assert any(label.startswith("model.blocks.0.attention: ") for label in labels)
    refused = moesaic(
        "simulate", small_bundle, "--input", tmp_path / "in.npz", "--output", tmp_path / "o.npz",
        "--task", "seg", "--timeline", tmp_path / "trace.txt",
    )  # fmt: skip
    assert_refused(refused, "--timeline")
