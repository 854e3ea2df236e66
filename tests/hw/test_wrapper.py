"""The wrapper of routed units: every bit of every port has a register of its own, none is lost."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from moesaic.hw.resources.hierarchy import read_modules
from moesaic.hw.resources.synthesis import run_yosys
from moesaic.hw.timing import route_units as units
from moesaic.hw.timing.wrapper import INSIDE, NAME, between_registers, module_ports
from moesaic.spec.presets import PRESETS
from tests.hw.routed_sums import Sums, block


def netlist(verilog: str, folder: Path) -> dict[str, Any]:
    """The wrapper's module of yosys' JSON: registers and the instance, nothing optimised."""
    run_yosys(verilog, f"hierarchy -top {NAME}\nproc\nwrite_json net.json\n", folder, "wrapper")
    module: dict[str, Any] = json.loads((folder / "net.json").read_text())["modules"][NAME]
    return module


def faults(module: dict[str, Any]) -> list[str]:
    """What is wrong with a wrapper: port bits without a register of their own, or lost ones."""
    found = []
    inner = module["cells"][INSIDE]
    registers = [cell["connections"] for cell in module["cells"].values() if cell["type"] == "$dff"]
    driven = [bit for pins in registers for bit in pins["Q"]]
    taken = [bit for pins in registers for bit in pins["D"]]
    given, results = [], []
    for port, bits in inner["connections"].items():
        if port == "clk":
            continue
        into = inner["port_directions"][port] == "input"
        (given if into else results).extend(bits)
        if into and any(bit not in driven for bit in bits):
            found.append(f"{port} does not come from registers")
        if not into and any(taken.count(bit) != 1 for bit in bits):
            found.append(f"{port} does not go into registers of its own")
    if len(set(given)) < len(given) or len(set(results)) < len(results):
        found.append("bits share a register")
    # Which registers reach the output pin, and which the input pin reaches.
    before: dict[Any, set[Any]] = {}
    for pins in registers:
        for q, d in zip(pins["Q"], pins["D"], strict=True):
            before[q] = {d}
    for cell in module["cells"].values():
        if cell["type"] == "$xor":
            pins = cell["connections"]
            for y, a, b in zip(pins["Y"], pins["A"], pins["B"], strict=True):
                before[y] = {a, b}
    (pin,), (first,) = module["ports"]["seen_pin"]["bits"], module["ports"]["given_pin"]["bits"]
    cone, open_bits = set(), [pin]
    while open_bits:
        bit = open_bits.pop()
        if bit not in cone:
            cone.add(bit)
            open_bits += before.get(bit, ())
    if not set(results) <= cone:
        found.append("outputs do not reach the pin")
    steps, bit = 0, {d: q for q, (d, *rest) in before.items() if not rest and q in given}
    at = first
    while at in bit:
        at, steps = bit[at], steps + 1
    if steps != len(given):
        found.append("inputs are not one shift register")
    return found


def test_every_port_bit_has_a_register(tmp_path: Path) -> None:
    made = block(Sums(2))
    module = netlist(between_registers(made.verilog, made.top), tmp_path)
    assert faults(module) == []
    ports = {port.name: port.width for port in module_ports(made.verilog, made.top)}
    assert ports == {
        "clk": 1, "rst": 1, "a": 16, "b": 16, "unused": 3, "total": 16, "low": 1, "held": 4
    }  # fmt: skip
    assert set(module["ports"]) == {"clk", "given_pin", "seen_pin"}
    assert all(len(port["bits"]) == 1 for port in module["ports"].values())


@pytest.mark.parametrize(
    ("good", "bad", "needle"),
    [
        (".a(\\given.a )", ".a(\\given.b )", "bits share a register"),
        (".a(\\given.a )", ".a(\\result.total )", "a does not come from registers"),
        (", \\result.total };", ", 16'd0};", "total does not go into registers"),
        (" ^ {parade, 1'b0}", "", "outputs do not reach the pin"),
        ("<= {\\given.a , \\given.b ,", "<= {\\given.a , 16'd0,", "one shift register"),
    ],
)
def test_a_wrapper_that_loses_bits_is_found(
    good: str, bad: str, needle: str, tmp_path: Path
) -> None:
    made = block(Sums(1))
    verilog = between_registers(made.verilog, made.top)
    assert verilog.count(good) == 1
    assert needle in "; ".join(faults(netlist(verilog.replace(good, bad), tmp_path)))


def test_units_are_whole_and_wrapped() -> None:
    """All that is in the units is there, and every port of each is connected."""
    found = units.units(PRESETS["ecp5-85"])
    names = [each.name.removeprefix("core.") for each in found]
    assert sorted(names) == [
        "control", "load", "matrix", "router", "scratchpad", "store", "stream", "vector"
    ]  # fmt: skip
    for each in found:
        assert not each.boxes
        text = read_modules(between_registers(each.verilog, each.top))[NAME].text
        for port in module_ports(each.verilog, each.top):
            assert sum(f".{name}(" in text for name in (port.name, f"\\{port.name} ")) == 1


def test_modules_that_cannot_be_wrapped() -> None:
    with pytest.raises(ValueError, match="must contain module x"):
        between_registers("module y(a);\n  input a;\nendmodule\n", "x")
    with pytest.raises(ValueError, match="must have the input clk"):
        between_registers("module y(a, b);\n  input a;\n  output b;\nendmodule\n", "y")
    with pytest.raises(ValueError, match="declare the ports of its header"):
        module_ports("module y(a, b);\n  input a;\nendmodule\n", "y")
