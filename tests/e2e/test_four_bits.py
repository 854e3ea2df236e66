"""Weights of four bits on the RTL, in some layers or in all, behind memories of any speed."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import pytest

from moesaic.compiler.estimate.cycles.timing import Memory
from moesaic.compiler.estimate.models import estimate_graphs
from moesaic.compiler.report.routing import run_and_watch_routing
from moesaic.compiler.schedule.options import first_schedule
from moesaic.sim.dram import DramConfig
from moesaic.sim.provider import SimulatedAccelerator
from moesaic.spec.arch import LIMITS
from moesaic.spec.bundle import Bundle
from moesaic.spec.intgraph import IntGraph
from moesaic.spec.presets import PRESETS
from tests.compiler.random_intgraph import in_few_bits, random_intgraph, random_patches
from tests.compiler.test_codegen import SHAPES

from .bundles import expected_codes, make_bundle
from .conftest import SMALL as MODEL
from .conftest import make_models, moesaic
from .test_estimate import LARGE
from .test_user_errors import assert_refused

FOUR = dataclasses.replace(
    PRESETS["u280"],
    name="four",
    depth=8,
    width=16,
    lanes=8,
    accumulator_rows=64,
    activation_bytes=64 << 10,
    residual_bytes=20 << 10,
    weight_port_bytes=4,
    ring_read_bytes=64,
    ring_bytes=4 << 10,
    data_port_bytes=4,
    max_tokens=64,
)
"""The widest preset with every width an eighth of its own: packed, as many lanes as rows, an output
port for every weight port, its large memories in UltraRAM."""
WIDTHS = ("depth", "width", "lanes", "weight_port_bytes", "ring_read_bytes", "data_port_bytes")
MEMORIES = {
    "reported": DramConfig(),
    "slow": DramConfig(latency_cycles=100, bandwidth_share=0.3),
    "gaps": DramConfig(gap_probability=0.3, max_gap_cycles=9, seed=5),
}


def run(bundle: Bundle, graph: IntGraph, dram: DramConfig) -> tuple[bool, dict[str, int]]:
    """Whether one frame on the RTL is that of the reference, and its counters."""
    patches = random_patches(graph, 1, seed=1)
    device = SimulatedAccelerator(bundle, dram=dram)
    try:
        result = device.run("task", patches)
    finally:
        device.close()
    return bool((result.codes == expected_codes(graph, patches)).all()), result.counters[-1]


@pytest.mark.parametrize(
    ("shape", "memory"),
    [("all_moe_top4", "gaps"), ("lists_begin_anew", "slow"), ("rotary_wide_heads", "reported")],
)
def test_some_layers_in_four_bits_are_exact(shape: str, memory: str) -> None:
    whole = random_intgraph(SHAPES[shape], seed=2)
    graph = in_few_bits(whole, np.random.default_rng(len(memory)), 0.6)
    assert run(make_bundle({"task": graph}, FOUR), graph, MEMORIES[memory])[0]


def test_the_target_has_the_ratios_of_a_preset() -> None:
    """Else the preset, which is too large to be simulated here, is a kind that nothing here is."""
    whole, eighth = PRESETS["u280"], FOUR
    assert {getattr(whole, name) / getattr(eighth, name) for name in WIDTHS} == {8.0}
    others = {name for name, value in whole.to_dict().items() if value != eighth.to_dict()[name]}
    sizes = {name for name in LIMITS if name.endswith(("bytes", "rows", "tokens"))}
    assert others == {"name", *WIDTHS, *sizes}


@pytest.mark.parametrize("share", [0.9, 0.3])
def test_estimate_is_close_to_the_simulation(share: float) -> None:
    """And fewer bytes are fewer cycles where memory is what a frame waits for."""
    whole = random_intgraph(dataclasses.replace(LARGE, functions=0.0), seed=7)
    cycles = {}
    for bits in (8, 4):
        graph = in_few_bits(whole, np.random.default_rng(1)) if bits == 4 else whole
        dram = DramConfig(bandwidth_share=share)
        exact, counters = run(make_bundle({"task": graph}, FOUR), graph, dram)
        assert exact
        _, routing = run_and_watch_routing(graph, random_patches(graph, 1, seed=1))
        result = estimate_graphs(
            {"task": graph},
            FOUR,
            routing=routing,
            schedules={"task": first_schedule(FOUR)},
            memory=Memory(share=share),
        )["task"]
        # Behind ports of 4 bytes at 0.3 of their peak a frame takes 1,250 cycles more than the
        # model says, of either kind of weights.
        assert abs(result.cycles / counters["CYCLES"] - 1) < (0.01 if share == 0.9 else 0.02)
        assert result.weight_bytes == counters["WEIGHT_READ_BYTES"]
        cycles[bits] = counters["CYCLES"]
    assert cycles[4] < cycles[8] * (0.9 if share == 0.9 else 0.7)


@pytest.mark.parametrize("bit", [1, 6])
def test_wrong_bit_of_either_half_is_noticed(bit: int) -> None:
    graph = in_few_bits(random_intgraph(SHAPES["all_moe_top4"], seed=2), np.random.default_rng(0))
    good = make_bundle({"task": graph}, FOUR)
    damaged = bytearray(good.weights)
    # Of the first tile, behind the block of parameters: the embedding, which all tokens have.
    damaged[FOUR.parameter_ring_words * FOUR.ring_read_bytes] ^= 1 << bit
    assert run(good, graph, DramConfig())[0]
    assert not run(dataclasses.replace(good, weights=bytes(damaged)), graph, DramConfig())[0]


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("four") / "four.json"
    path.write_text(json.dumps(FOUR.to_dict()))
    return path


def test_experts_of_a_compiled_model(target: Path, tmp_path: Path) -> None:
    """From the command line to the gateware, and the cost model knows it from the model alone."""
    models = make_models(tmp_path, dataclasses.replace(MODEL, tasks=(("seg", 3),)), 0)
    common = ("--target", target, "--calibrate", tmp_path / "samples.npz")
    done = moesaic("compile", *models, *common, "-o", tmp_path / "few", "--experts", "4")
    assert done.code == 0, done.err
    told = " ".join(done.err.split())
    assert "weights of 4 bits: " in told and " MB in all" in told
    # A preset that holds the model, but takes eight bits only, is no way out.
    tight = tmp_path / "tight.json"
    tight.write_text(json.dumps(dataclasses.replace(FOUR, max_experts=2).to_dict()))
    words = ("--target", tight, "--calibrate", tmp_path / "samples.npz", "--experts", "4")
    refused = moesaic("compile", *models, *words, "-o", tmp_path / "tight")
    named = re.search(r"of the presets (\S+) is the smallest that holds it", refused.err)
    assert refused.code == 2 and named and PRESETS[named[1]].four_bit_weights, refused.err
    verified = moesaic("verify", tmp_path / "few", "--samples", "2", "--json")
    assert verified.code == 0, verified.out + verified.err
    tasks = json.loads(moesaic("inspect", tmp_path / "few", "--json").out)["tasks"]
    for task in tasks.values():
        assert [4, 8] in [part["bits"] for part in task["weights"].values()]
    by_bundle = moesaic("estimate", tmp_path / "few", "--routing", "equal", "--json")
    model = models[0].partition("=")[2]
    by_model = moesaic("estimate", model, "--target", target, "--experts", "4", "--json")
    estimated = json.loads(by_model.out)["tasks"]["default"]
    assert estimated == json.loads(by_bundle.out)["tasks"]["seg"]
    # Targets that take eight bits only are rows beside those that take four.
    shown = moesaic("estimate", tmp_path / "few", "--targets", f"nano,{target},zcu102", "--json")
    assert shown.code == 0, shown.err
    first, *others = json.loads(shown.out)["targets"]
    assert not first["fits"] and all(other["fits"] for other in others)
    assert "weights of 4 bits, and the target takes 8 only" in first["reason"]
    assert "four_bit_weights (zcu102, zcu104 or u280)" in first["reason"]


@pytest.mark.parametrize(
    ("options", "needles"),
    [
        (["--experts", "4"], ["nano takes weights of 8 bits only", "(zcu102, zcu104 or u280)"]),
        (["--weights", "5"], ["--weights takes 4, 8 or auto, not 5"]),
        (["--weights", "auto"], ["--weights auto needs --min-sqnr"]),
        (
            ["--weights", "auto", "--min-sqnr", "20", "--target-sqnr", "30"],
            ["target nano takes weights of 8 bits only"],
        ),
    ],
)
def test_what_cannot_have_four_bits_is_refused(
    options: list[str], needles: list[str], tmp_path: Path
) -> None:
    done = moesaic(
        "compile", "none.onnx", "--target", "nano", "--calibrate", "none.npz",
        "-o", tmp_path / "none", *options,
    )  # fmt: skip
    assert_refused(done, *needles)
