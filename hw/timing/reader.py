"""Reads yosys' JSON of a synthesised block into a :class:`~moesaic.hw.timing.netlist.Netlist`."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

import numpy as np

from moesaic.hw.timing import delays
from moesaic.hw.timing.netlist import CONSTANT, Arcs, Ends, Instance, Ints, Kind, Netlist

_FLIP_FLOPS = ("FDRE", "FDSE", "FDCE", "FDPE")
_SHIFT_REGISTERS = ("SRL16E", "SRLC32E")
_CLOCKS = ("C", "CLK", "WCLK", "CLKARDCLK", "CLKBWRCLK", "CLKA", "CLKB")

_END = (np.int32, np.float32, np.bool_, np.int32, np.int32)
"""Types of the columns of ``Ends``."""

Pins = dict[str, list[int]]


class UnknownCellError(Exception):
    """A cell of a type whose delays are not known."""


class _Builder:
    """Collects arcs and ends. A net is a number; cells may have nets of their own inside."""

    def __init__(self, nets: int) -> None:
        self.nets = nets
        self.arcs: list[tuple[int, int, float, bool, int]] = []
        self.launches: list[tuple[int, float, bool, int, int]] = []
        self.captures: list[tuple[int, float, bool, int, int]] = []
        self.register = CONSTANT
        """Names the cell whose ends follow."""

    def inner(self) -> int:
        """A net inside a cell."""
        self.nets += 1
        return self.nets - 1

    def arc(
        self, source: int, target: int, delay: float, kind: Kind, *, routed: bool = True
    ) -> None:
        if source != CONSTANT and target != CONSTANT:
            self.arcs.append((source, target, delay, routed, kind))

    def launch(self, net: int, delay: float, kind: Kind) -> None:
        if net != CONSTANT:
            self.launches.append((net, delay, True, kind, net))

    def capture(self, net: int, delay: float, kind: Kind, *, routed: bool = True) -> None:
        if net != CONSTANT:
            self.captures.append((net, delay, routed, kind, self.register))


def _lut(build: _Builder, inputs: list[int], output: int) -> None:
    for net in inputs:
        build.arc(net, output, delays.LUT, Kind.LUT)


def _carry(build: _Builder, given: Pins, bits: int) -> None:
    """CARRY4 or CARRY8: one bit after the other, each from its select and its data input."""
    pins = {name: given.get(name) or [CONSTANT] * bits for name in ("CI", "CO", "O", "S", "DI")}
    chain = build.inner()
    build.arc(pins["CI"][0], chain, 0.0, Kind.CARRY, routed=False)
    for extra in given.get("CYINIT", []):
        build.arc(extra, chain, delays.CARRY_IN, Kind.CARRY)
    for bit, carry in enumerate(pins["CO"]):
        # An unused carry output is a link of the chain all the same.
        following = carry if carry != CONSTANT else build.inner()
        build.arc(chain, pins["O"][bit], delays.CARRY_BIT, Kind.CARRY, routed=False)
        build.arc(chain, following, delays.CARRY_BIT, Kind.CARRY, routed=False)
        for name in ("S", "DI"):
            pin = build.inner()
            build.arc(pins[name][bit], pin, 0.0, Kind.CARRY)
            build.arc(pin, following, delays.CARRY_IN, Kind.CARRY, routed=False)
            if name == "S":
                build.arc(pin, pins["O"][bit], delays.CARRY_IN, Kind.CARRY, routed=False)
        chain = following


def _memory_reads(name: str, pins: Pins) -> tuple[list[int], bool]:
    """Outputs that follow an input of distributed memory, and whether it is clocked as well.

    Ports of RAM32M16 and the like end in a letter, DOA belonging to ADDRA; the last letter's
    address writes too. RAM32X1D and the like have A, which reads SPO and writes, and DPRA for DPO.
    """
    if name.startswith("ADDR"):
        last = max(other for other in pins if other.startswith("ADDR"))
        return pins.get(f"DO{name[-1]}", []), name == last
    if name.startswith("DPRA"):
        return pins.get("DPO", []), False
    if name.startswith("A"):
        return [*pins.get("SPO", []), *pins.get("O", [])], True
    return [], True


def _lut_ram(build: _Builder, pins: Pins, outputs: Collection[str]) -> None:
    for name, nets in pins.items():
        if name in outputs:
            for net in nets:
                build.launch(net, delays.LUTRAM_CLOCK, Kind.LUT_RAM)
            continue
        reads, clocked = _memory_reads(name, pins)
        for net in nets:
            pin = build.inner()
            build.arc(net, pin, 0.0, Kind.LUT_RAM)
            for target in reads:
                build.arc(pin, target, delays.LUTRAM_READ, Kind.LUT_RAM, routed=False)
            if clocked:
                build.capture(pin, delays.SETUP, Kind.LUT_RAM, routed=False)


def _shift_register(build: _Builder, pins: Pins) -> None:
    """SRL16E and SRLC32E: data and enable are clocked, the address chooses the output."""
    for output in (*pins.get("Q", []), *pins.get("Q31", [])):
        build.launch(output, delays.LUTRAM_CLOCK, Kind.LUT_RAM)
    for name, nets in pins.items():
        for net in nets:
            if name.startswith("A"):
                for output in pins["Q"]:
                    build.arc(net, output, delays.LUTRAM_READ, Kind.LUT_RAM)
            elif not name.startswith("Q"):
                build.capture(net, delays.SETUP, Kind.LUT_RAM)


def _dsp(build: _Builder, pins: Pins, outputs: Collection[str]) -> None:
    """A multiplier whose registers lie around it; those that it can hold are taken in later."""
    middle = build.inner()
    for name, nets in pins.items():
        for net in nets:
            if name in outputs:
                build.arc(middle, net, delays.DSP, Kind.DSP, routed=False)
            else:
                build.arc(net, middle, 0.0, Kind.DSP)


def _block_ram(
    build: _Builder, pins: Pins, outputs: Collection[str], parameters: dict[str, Any]
) -> None:
    for name, nets in pins.items():
        port = "A" if "DOUTA" in name or name.startswith("DOA") else "B"
        registered = int(str(parameters.get(f"DO{port}_REG", "0")), 2)
        clock = delays.RAM_CLOCK_REGISTERED if registered else delays.RAM_CLOCK
        for net in nets:
            if name in outputs:
                build.launch(net, clock, Kind.BLOCK_RAM)
            else:
                build.capture(net, delays.RAM_SETUP, Kind.BLOCK_RAM)


def _cell(build: _Builder, kind: str, pins: Pins, cell: dict[str, Any]) -> None:
    outputs = {name for name, way in cell["port_directions"].items() if way == "output"}
    driven = (net for name in sorted(outputs) for net in pins.get(name, ()) if net != CONSTANT)
    build.register = next(driven, CONSTANT)
    if kind == "$lut":
        _lut(build, pins["A"], pins["Y"][0])
    elif kind in ("INV", "$_NOT_") or kind.startswith("LUT"):
        inputs = [net for name, nets in pins.items() if name not in outputs for net in nets]
        _lut(build, inputs, pins[next(iter(outputs))][0])
    elif kind in ("CARRY4", "CARRY8"):
        _carry(build, pins, int(kind[-1]))
    elif kind.startswith("MUXF"):
        for name in ("I0", "I1"):
            build.arc(pins[name][0], pins["O"][0], delays.MUX, Kind.MUX, routed=False)
        build.arc(pins["S"][0], pins["O"][0], delays.MUX, Kind.MUX)
    elif kind in _FLIP_FLOPS:
        build.launch(pins["Q"][0], delays.CLOCK_TO_Q, Kind.FLIP_FLOP)
        for name, nets in pins.items():
            if name not in outputs:
                build.capture(nets[0], delays.SETUP, Kind.FLIP_FLOP)
    elif kind in _SHIFT_REGISTERS:
        _shift_register(build, pins)
    elif kind.startswith("DSP48E"):
        _dsp(build, pins, outputs)
    elif kind.startswith(("RAMB", "URAM")):
        _block_ram(build, pins, outputs, cell["parameters"])
    elif kind.startswith("RAM"):
        _lut_ram(build, pins, outputs)
    else:
        raise UnknownCellError(f"no delays are known for cells {kind}")


def _names(module: dict[str, Any], nets: int) -> list[str]:
    """The gateware's name of each net: of several the one deepest in the hierarchy, then short."""
    names = [""] * nets
    for name, wire in module["netnames"].items():
        if "$" in name.replace("$signal", ""):
            continue
        plain = name.replace("\\", "")
        for index, bit in enumerate(wire["bits"]):
            if isinstance(bit, int):
                text = plain if len(wire["bits"]) == 1 else f"{plain}[{index}]"
                rank = (-text.count("."), len(text))
                if not names[bit] or rank < (-names[bit].count("."), len(names[bit])):
                    names[bit] = text
    return names


def _bits(bits: list[int | str]) -> list[int]:
    return [bit if isinstance(bit, int) else CONSTANT for bit in bits]


def _pins(cell: dict[str, Any]) -> Iterator[tuple[str, list[int]]]:
    for name, bits in cell["connections"].items():
        if name not in _CLOCKS:
            yield name, _bits(bits)


def read_module(module: dict[str, Any], boxes: Collection[str]) -> Netlist:
    """A module of yosys' JSON, mapped to cells of 7 series or UltraScale+ and flat.

    Parameters
    ----------
    boxes
        Modules in it that are blocks of their own.

    Raises
    ------
    UnknownCellError
        A cell's delays are not known.
    """
    wires = [bit for wire in module["netnames"].values() for bit in wire["bits"]]
    pins = [b for c in module["cells"].values() for p in c["connections"].values() for b in p]
    build = _Builder(1 + max((bit for bit in (*wires, *pins) if isinstance(bit, int)), default=0))
    names = _names(module, build.nets)
    instances = []
    for label, cell in module["cells"].items():
        kind = cell["type"].removeprefix("\\")
        if kind in boxes:
            ports = {name: np.array(bits, np.int32) for name, bits in _pins(cell)}
            instances.append(Instance(label.removeprefix("\\"), kind, ports))
        else:
            _cell(build, kind, dict(_pins(cell)), cell)
    ways: dict[str, dict[str, Ints]] = {"input": {}, "output": {}}
    for name, port in module["ports"].items():
        ways[port["direction"]][name] = np.array(_bits(port["bits"]), np.int32)
    return Netlist(
        names + [""] * (build.nets - len(names)),
        ways["input"],
        ways["output"],
        Arcs(*_columns(build.arcs, (np.int32, np.int32, np.float32, np.bool_, np.int32))),
        Ends(*_columns(build.launches, _END)),
        Ends(*_columns(build.captures, _END)),
        instances,
    )


def _columns(rows: list[Any], types: tuple[Any, ...]) -> Iterator[Any]:
    columns = zip(*rows, strict=True) if rows else ((),) * len(types)
    for column, kind in zip(columns, types, strict=True):
        yield np.array(column, kind)
