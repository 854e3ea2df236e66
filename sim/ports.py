"""The bus interface of a generated top, read from its Verilog.

The harness binds to what the RTL has, not to what a configuration says it should have, so the
two cannot drift apart.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_DECLARATION = re.compile(
    r"\b(input|output)\s+(?:wire\s+|reg\s+|logic\s+)?(?:\[\s*(\d+)\s*:\s*0\s*\]\s*)?(\w+)"
)
_MASTER = re.compile(r"m_axi_(\w+?)_arvalid$")
_LITE = (
    "awaddr awprot awvalid awready wdata wstrb wvalid wready bresp bvalid bready "
    "araddr arprot arvalid arready rdata rresp rvalid rready"
).split()
_READ = (
    "araddr arlen arsize arburst arcache arprot arvalid arready rdata rresp rlast rvalid rready"
).split()
_WRITE = (
    "awaddr awlen awsize awburst awcache awprot awvalid awready wdata wstrb wlast wvalid wready "
    "bresp bvalid bready"
).split()
# What the harness drives; all else comes from the design. An output that nothing drives can turn
# into an input when Verilog is generated, hence the check.
_LITE_OUTPUTS = {"awready", "wready", "bresp", "bvalid", "arready", "rdata", "rresp", "rvalid"}
_MASTER_INPUTS = set("arready rdata rresp rlast rvalid awready wready bresp bvalid".split())
_WIDTHS = (32, 64, 128, 256, 512)


@dataclass(frozen=True)
class Master:
    """One AXI4 master: ``m_axi_<name>_*``, ``data_bits`` wide, with a write channel or not."""

    name: str
    data_bits: int
    writable: bool


def _declarations(verilog: str, toplevel: str) -> list[tuple[str, str, str]]:
    """(direction, index of the highest bit or nothing, name) of every port of ``toplevel``."""
    start = re.search(rf"\bmodule\s+\\?{re.escape(toplevel)}\s*[#(]", verilog)
    if start is None:
        raise ValueError(f"Verilog must contain module {toplevel}")
    end = verilog.find("endmodule", start.end())
    return _DECLARATION.findall(verilog, start.end(), end)


def module_ports(verilog: str, toplevel: str) -> dict[str, int]:
    """Width in bits of every port of module ``toplevel``, in order of declaration."""
    found = _declarations(verilog, toplevel)
    return {name: int(high or 0) + 1 for _, high, name in found}


def port_directions(verilog: str, toplevel: str) -> dict[str, str]:
    """``input`` or ``output`` of every port of module ``toplevel``."""
    return {name: direction for direction, _, name in _declarations(verilog, toplevel)}


def find_masters(verilog: str, toplevel: str = "top") -> list[Master]:
    """The AXI4 masters of module ``toplevel``, read-only ones (w0, w1, ...) as declared.

    Raises ValueError when the top lacks a signal of the port contract, has one the wrong way
    round, or has a width that the harness cannot drive.
    """
    ports, directions = module_ports(verilog, toplevel), port_directions(verilog, toplevel)
    required = {"clk": "input", "rst": "input", "irq": "output"}
    for signal in _LITE:
        required[f"s_axil_{signal}"] = "output" if signal in _LITE_OUTPUTS else "input"
    masters = []
    for port in ports:
        match = _MASTER.match(port)
        if match is None:
            continue
        prefix = f"m_axi_{match.group(1)}_"
        writable = f"{prefix}awvalid" in ports
        for signal in (*_READ, *(_WRITE if writable else ())):
            required[prefix + signal] = "input" if signal in _MASTER_INPUTS else "output"
        data_bits = ports.get(f"{prefix}rdata", 0)
        if data_bits not in _WIDTHS:
            raise ValueError(f"{prefix}rdata must be one of {_WIDTHS} bits wide, not {data_bits!r}")
        if writable and ports.get(f"{prefix}wdata", 0) != data_bits:
            raise ValueError(f"{prefix}wdata must be as wide as {prefix}rdata ({data_bits} bits)")
        if not 32 <= ports[f"{prefix}araddr"] <= 64:
            raise ValueError(f"{prefix}araddr must have 32 to 64 bits")
        masters.append(Master(match.group(1), data_bits, writable))
    missing = [signal for signal in required if signal not in ports]
    if missing:
        raise ValueError(f"module {toplevel} must have the ports {', '.join(missing)}")
    for signal, direction in required.items():
        if directions[signal] != direction:
            raise ValueError(f"{signal} of module {toplevel} must be an {direction}")
    return masters


def ports_header(masters: list[Master], probes: str) -> str:
    """The C++ header ``ports.h``: one macro that names every master once, and ``probes``."""
    uses = " ".join(f"{'READ_WRITE' if m.writable else 'READ'}({m.name})" for m in masters)
    return f"#pragma once\n#define MOESAIC_MASTERS(READ, READ_WRITE) {uses}\n{probes}"
