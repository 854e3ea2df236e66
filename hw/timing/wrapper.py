"""A module between registers: a wrapper with three pins, whatever the module's ports."""

from __future__ import annotations

import re
from dataclasses import dataclass

from moesaic.hw.resources.hierarchy import read_modules

_PORT = re.compile(r"^  (input|output)\s+(?:\[(\d+):0\]\s*)?(\\\S+|\w+)\s*;$", re.MULTILINE)
CLOCK = "clk"
NAME = "between_registers"
"""Of the wrapper's module; its ports are ``clk``, ``given_pin`` and ``seen_pin``, a bit each."""
INSIDE = "inner"
"""The wrapped module's instance."""


@dataclass(frozen=True)
class ModulePort:
    """A port of a module: its name without a backslash, and its width in bits."""

    name: str
    output: bool
    width: int


def module_ports(verilog: str, top: str) -> list[ModulePort]:
    """Ports of module ``top``, as Amaranth's back end declares them.

    Raises
    ------
    ValueError
        There is no such module, or the ports in its header are not those that it declares.
    """
    modules = read_modules(verilog)
    if top not in modules:
        raise ValueError(f"Verilog must contain module {top}")
    text = modules[top].text
    header = text[text.index("(") + 1 : text.index(");")].split(",")
    ports = [
        ModulePort(name.removeprefix("\\"), way == "output", int(high or 0) + 1)
        for way, high, name in _PORT.findall(text)
    ]
    named = [name.strip().removeprefix("\\") for name in header]
    if sorted(named) != sorted(port.name for port in ports):
        raise ValueError(f"module {top} must declare the ports of its header, one a line")
    return ports


def is_clock(port: ModulePort) -> bool:
    """Whether a port has the name of a clock: of the whole design's, or of a domain's."""
    return port.width == 1 and (port.name == CLOCK or port.name.endswith(f"_{CLOCK}"))


def output_bits(ports: list[ModulePort]) -> int:
    """Bits that come out of a module."""
    return sum(port.width for port in ports if port.output)


def between_registers(verilog: str, top: str) -> str:
    """The Verilog with the module :data:`NAME` added, in which ``top`` stands between registers.

    Every bit that goes into ``top``, its reset too, comes from a register of its own in
    ``given.<port>``; these are one shift register behind the pin ``given_pin``. Every bit that
    comes out goes into a register of its own in ``seen.<port>``, and from there into ``parade``, a
    chain that shifts to the pin ``seen_pin`` and takes in one bit of ``seen`` at each step, so that
    nothing is left out as unused. Between ``seen`` and ``parade`` is a LUT for each bit but one.

    Raises
    ------
    ValueError
        As :func:`module_ports`; or ``top`` has no clock, no other input, or no output.
    """
    ports = module_ports(verilog, top)
    clocks = [port for port in ports if not port.output and is_clock(port)]
    inputs = [port for port in ports if not port.output and not is_clock(port)]
    outputs = [port for port in ports if port.output]
    if not inputs or not outputs or len(clocks) != 1:
        raise ValueError(f"module {top} must have the input {CLOCK}, another one and an output")
    given, result, seen = (
        [_written(f"{prefix}.{port.name}") for port in some]
        for prefix, some in (("given", inputs), ("result", outputs), ("seen", outputs))
    )
    last = output_bits(ports) - 1
    names = [*(port.name for port in clocks), *(port.name for port in (*inputs, *outputs))]
    wires = [CLOCK, *given, *result]
    connections = (f"    .{_written(n)}({w})" for n, w in zip(names, wires, strict=True))
    lines = [
        f"module {NAME} (input {CLOCK}, input given_pin, output seen_pin);",
        *_declared("reg", inputs, given),
        *_declared("wire", outputs, result),
        *_declared("reg", outputs, seen),
        f"  reg [{last}:0] parade;",
        f"  always @(posedge {CLOCK}) begin",
        f"    {{{', '.join(given)}}} <= {{{', '.join(given)}, given_pin}};",
        f"    {{{', '.join(seen)}}} <= {{{', '.join(result)}}};",
        f"    parade <= {{{', '.join(seen)}}} ^ {{parade, 1'b0}};",
        "  end",
        f"  assign seen_pin = parade[{last}];",
        f"  {_written(top)} {INSIDE} (",
        ",\n".join(connections),
        "  );",
        "endmodule",
        "",
    ]
    return f"{verilog}\n" + "\n".join(lines)


def _declared(kind: str, ports: list[ModulePort], names: list[str]) -> list[str]:
    return [
        f"  {kind} [{port.width - 1}:0] {name};" for port, name in zip(ports, names, strict=True)
    ]


def _written(name: str) -> str:
    """A name as Verilog takes it: an escaped one ends with a space."""
    return name if re.fullmatch(r"[A-Za-z_]\w*", name) else f"\\{name} "
