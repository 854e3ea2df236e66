"""Static timing: a naive model, linked blocks against one, known cells, paths that are too long."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from amaranth import Elaboratable, Module, Signal, unsigned
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from moesaic.hw.resources.hierarchy import Block, cut
from moesaic.hw.timing import delays
from moesaic.hw.timing.__main__ import main
from moesaic.hw.timing.analysis import LoopError, analyse
from moesaic.hw.timing.design import Design, link
from moesaic.hw.timing.netlist import CONSTANT, Arcs, Ends, Instance, Kind, Netlist
from moesaic.hw.timing.paths import find_ends, trace, worst
from moesaic.hw.timing.reader import UnknownCellError, read_module
from moesaic.hw.timing.synthesis import netlists
from moesaic.hw.verilog import to_verilog
from moesaic.spec.presets import PRESETS


def random_netlist(rng: np.random.Generator, nets: int, inputs: int) -> Netlist:
    """LUTs between flip-flops; each net but the first ones is driven by LUTs from those before."""
    arcs: list[tuple[int, int]] = []
    for target in range(inputs, nets):
        sources = rng.choice(target, min(target, int(rng.integers(1, 7))), replace=False)
        arcs += [(int(source), target) for source in sources]
    source, target = np.array(arcs, np.int32).T
    count = len(source)
    ends = np.sort(rng.choice(nets, nets // 2, replace=False)).astype(np.int32)

    def flip_flops(nets: np.ndarray, delay: float) -> Ends:
        number = len(nets)
        return Ends(
            nets.astype(np.int32),
            np.full(number, delay, np.float32),
            np.ones(number, np.bool_),
            np.full(number, Kind.FLIP_FLOP, np.int32),
            np.full(number, CONSTANT, np.int32),
        )

    return Netlist(
        [f"net{i}" for i in range(nets)],
        {},
        {},
        Arcs(
            source,
            target,
            rng.uniform(0.05, 0.5, count).astype(np.float32),
            np.ones(count, np.bool_),
            np.full(count, Kind.LUT, np.int32),
        ),
        flip_flops(np.arange(inputs), delays.CLOCK_TO_Q),
        flip_flops(ends, delays.SETUP),
    )


def naive(design: Design) -> list[float]:
    """Length of the longest path to every capture, by recursion."""
    arcs, captures = design.arcs, design.captures
    loads = np.bincount(arcs.source, minlength=design.nets)
    loads += np.bincount(captures.net, minlength=design.nets)
    drivers: dict[int, list[tuple[int, float]]] = {}
    for source, target, delay in zip(arcs.source, arcs.target, arcs.delay, strict=True):
        drivers.setdefault(int(target), []).append((int(source), float(delay)))
    starts = dict(zip(design.launches.net.tolist(), design.launches.delay.tolist(), strict=True))

    def wire(net: int) -> float:
        return float(delays.wire(loads[net : net + 1])[0])

    @cache
    def arrival(net: int) -> float:
        through = [arrival(source) + wire(source) + delay for source, delay in drivers.get(net, [])]
        return max([starts.get(net, -np.inf), *through])

    alone = loads == 1
    return [
        arrival(net) + setup + (0.0 if alone[net] and net in drivers else wire(net))
        for net, setup in zip(captures.net.tolist(), captures.delay.tolist(), strict=True)
    ]


@pytest.mark.parametrize("seed", range(6))
def test_longest_paths_are_those_of_a_naive_model(seed: int) -> None:
    rng = np.random.default_rng(seed)
    design = link({"top": random_netlist(rng, int(rng.integers(20, 300)), 8)}, "top")
    analysis = analyse(design)
    np.testing.assert_allclose(analysis.total, naive(design), rtol=1e-5)
    assert find_ends(analysis).within.all()
    for capture in range(len(analysis.total)):
        path = trace(analysis, capture)
        arrivals = [step.arrival for step in path.steps]
        assert arrivals == sorted(arrivals) and path.total > arrivals[-1]
        assert path.steps[0].kind == Kind.FLIP_FLOP


def test_loop_is_named() -> None:
    netlist = random_netlist(np.random.default_rng(1), 20, 4)
    arcs = netlist.arcs
    arcs.source[-1], arcs.target[-1] = 19, 19
    with pytest.raises(LoopError, match="net19"):
        analyse(link({"top": netlist}, "top"))


def test_unknown_cell_is_refused() -> None:
    cell = {"type": "RIDDLE", "port_directions": {"A": "input"}, "connections": {"A": [2]}}
    with pytest.raises(UnknownCellError, match="RIDDLE"):
        read_module({"netnames": {}, "ports": {}, "cells": {"x": cell}}, ())


class Adders(wiring.Component):
    """``count`` additions of 16 bits, one after the other, and a register at either end."""

    def __init__(self, count: int) -> None:
        self.count = count
        super().__init__({"a": In(unsigned(16)), "b": In(unsigned(16)), "y": Out(unsigned(16))})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        first, second = Signal(16), Signal(16)
        m.d.sync += [first.eq(self.a), second.eq(self.b)]
        total = first
        for _ in range(self.count):
            total = ((total ^ second) + second)[:16]
        m.d.sync += self.y.eq(total)
        return m


class Pair(wiring.Component):
    """Two stages, the second fed by the sum of the first without a register between them."""

    def __init__(self) -> None:
        super().__init__({"a": In(unsigned(16)), "y": Out(unsigned(16))})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.left = left = Stage()
        m.submodules.right = right = Stage()
        m.d.comb += [left.a.eq(self.a), right.a.eq(left.y), self.y.eq(right.y)]
        return m


class Stage(wiring.Component):
    """A register and a sum."""

    def __init__(self) -> None:
        super().__init__({"a": In(unsigned(16)), "y": Out(unsigned(16))})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        value, total = Signal(16, name="value"), Signal(16)
        m.d.sync += value.eq(self.a)
        m.d.comb += total.eq((value << 1) + (value >> 3) + 5)
        m.d.comb += self.y.eq(total)
        return m


def analysed(design: Elaboratable, patterns: list[str]):  # type: ignore[no-untyped-def]
    blocks = cut(to_verilog(design, "top"), "top", patterns)
    return analyse(link(netlists(blocks, "xcup", lambda name: None), "top"))


def test_path_made_long_is_found() -> None:
    short, long = (analysed(Adders(count), []) for count in (1, 4))
    path = trace(long, int(np.argmax(long.total)))
    assert path.levels >= 4 and path.carries == 4
    assert path.steps[0].name.startswith(("first", "second"))
    assert path.end == Kind.FLIP_FLOP and path.end_name.startswith("y[")
    # Each sum more is a wire, a LUT and a chain.
    each = (long.total.max() - short.total.max()) / 3
    assert delays.WIRE + delays.LUT + delays.CARRY_IN < each < 1.0


def test_path_through_two_blocks_is_whole() -> None:
    """The same design as one block and as three: each path from block to block is found."""
    one, three = analysed(Pair(), []), analysed(Pair(), ["left", "right"])
    assert three.total.max() == pytest.approx(one.total.max(), abs=0.5)
    assert three.total.max() > 2 * delays.WIRE
    ends = find_ends(three)
    into = ends.end_block == three.design.blocks.index("right")
    (path,) = worst(three, ends, np.flatnonzero(into & ~ends.within).astype(np.int32), 1)
    assert {step.block for step in path.steps} == {"left"} and path.end_block == "right"
    assert path.end_name.startswith("right.value[")


def test_tied_inputs_begin_no_path() -> None:
    """Of two equal instances, one has its inputs tied: only the other's are ends of paths."""
    block = Block("x", "x", to_verilog(Adders(1), "x"), (), ("x",))
    netlist = netlists([block], "xcup", lambda name: None)["x"]
    alone = analyse(link({"x": netlist}, "x", ports=False))
    inside = int(np.isfinite(alone.total).sum())
    assert inside == 16, "from register to register only"

    inputs = {name: nets for name, nets in netlist.inputs.items() if name not in ("clk", "rst")}
    width = sum(len(nets) for nets in inputs.values())
    outer = iter(np.split(np.arange(width, dtype=np.int32), np.cumsum([16])[: len(inputs) - 1]))
    given = {name: next(outer) for name in inputs}
    tied = {name: np.full(len(nets), CONSTANT, np.int32) for name, nets in inputs.items()}
    none = np.zeros(0, np.int32)
    no_arcs = Arcs(none, none, none.astype(np.float32), none.astype(np.bool_), none)
    no_ends = Ends(none, none.astype(np.float32), none.astype(np.bool_), none, none)
    instances = [Instance("open", "x", given), Instance("tied", "x", tied)]
    top = Netlist([""] * width, dict(given), {}, no_arcs, no_ends, no_ends, instances)
    total = analyse(link({"top": top, "x": netlist}, "top")).total
    assert int(np.isfinite(total).sum()) == 2 * inside + width


@pytest.mark.parametrize(
    ("options", "needle"),
    [
        (["--target", "nano", "--clock", "0"], "--clock must be from 1"),
        (["--target", "nano", "--clock", "nan"], "--clock must be from 1"),
        (["--target", "nowhere"], "nowhere"),
    ],
)
def test_what_is_wrong_is_refused(
    options: list[str], needle: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(options) == 2
    assert needle in capsys.readouterr().err


def test_other_families_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "zynq.json"
    target.write_text(json.dumps(PRESETS["nano"].to_dict() | {"device": "xc7z020clg400-1"}))
    assert main(["--target", str(target)]) == 2
    message = capsys.readouterr().err
    assert "UltraScale+ only" in message and "moesaic targets --show" in message
