"""The ports of the accelerator as the interfaces that AMD's block designs connect.

One description, from which the Verilog gets its attributes and the packaged IP its XML. Names and
syntax of attributes and parameters: UG994, "HDL Parameters for Interface Inference".
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from amaranth import Shape
from amaranth.lib.wiring import Out

from moesaic.hw.axi.burst import OUTSTANDING_BURSTS
from moesaic.hw.interfaces import REGISTER_BITS
from moesaic.hw.top import master_names, top_members
from moesaic.spec.arch import ADDRESS_BITS, ArchConfig
from moesaic.spec.registers import OFFSET_BITS

AXI = "xilinx.com:interface:aximm:1.0"
CLOCK = "xilinx.com:signal:clock:1.0"
RESET = "xilinx.com:signal:reset:1.0"
INTERRUPT = "xilinx.com:signal:interrupt:1.0"
CLOCK_PORT, RESET_PORT, INTERRUPT_PORT = "clk", "rst", "irq"
REGISTERS = "s_axil"
"""Interface of the registers."""


@dataclass(frozen=True)
class Port:
    """One port of the module ``top``."""

    name: str
    output: bool
    bits: int


@dataclass(frozen=True)
class Interface:
    """Ports that a block design connects as one.

    Attributes
    ----------
    name
        Of the interface.
    bus
        Vendor, library, name and version of its definition.
    master
        It drives: an AXI4 master, an interrupt.
    ports
        Name in the definition to port of the module.
    parameters
        What the tool cannot see from the ports.
    """

    name: str
    bus: str
    master: bool
    ports: dict[str, str]
    parameters: dict[str, str | int]


def module_ports(arch: ArchConfig) -> list[Port]:
    """All ports of the accelerator, clock and reset first."""
    ports = [Port(CLOCK_PORT, False, 1), Port(RESET_PORT, False, 1)]
    for name, member in top_members(arch).items():
        ports.append(Port(name, member.flow is Out, Shape.cast(member.shape).width))
    return ports


def _axi(name: str, ports: Iterable[str], master: bool, **own: str | int) -> Interface:
    """An AXI interface; ``own`` is what its parameters are besides those of every one here."""
    mine = {p.removeprefix(f"{name}_").upper(): p for p in ports if p.startswith(f"{name}_")}
    writes, reads = "AWADDR" in mine, "ARADDR" in mine
    modes = {(True, True): "READ_WRITE", (True, False): "READ_ONLY", (False, True): "WRITE_ONLY"}
    parameters = {
        **own,
        "ID_WIDTH": 0,
        "READ_WRITE_MODE": modes[reads, writes],
        "HAS_LOCK": 0,
        "HAS_PROT": 1,
        "HAS_QOS": 0,
        "HAS_REGION": 0,
        "HAS_WSTRB": int(writes),
        "HAS_BRESP": int(writes),
        "HAS_RRESP": int(reads),
        "SUPPORTS_NARROW_BURST": 0,
    }
    return Interface(name, AXI, master, mine, parameters)


def interfaces(arch: ArchConfig) -> list[Interface]:
    """All interfaces of the accelerator; every port of it is in exactly one."""
    ports = [port.name for port in module_ports(arch)]
    buses = [
        _axi(
            REGISTERS,
            ports,
            master=False,
            PROTOCOL="AXI4LITE",
            DATA_WIDTH=REGISTER_BITS,
            ADDR_WIDTH=OFFSET_BITS,
            HAS_BURST=0,
            HAS_CACHE=0,
            MAX_BURST_LENGTH=1,
            NUM_READ_OUTSTANDING=1,
            NUM_WRITE_OUTSTANDING=1,
        )
    ]
    for name in master_names(arch):
        data = name == "d"
        # The data port is shared by instructions and loads, each with its own bursts.
        reads = 2 * OUTSTANDING_BURSTS if data else OUTSTANDING_BURSTS
        buses.append(
            _axi(
                f"m_axi_{name}",
                ports,
                master=True,
                PROTOCOL="AXI4",
                DATA_WIDTH=8 * (arch.data_port_bytes if data else arch.weight_port_bytes),
                ADDR_WIDTH=ADDRESS_BITS,
                HAS_BURST=1,
                HAS_CACHE=1,
                MAX_BURST_LENGTH=arch.max_burst,
                NUM_READ_OUTSTANDING=reads,
                NUM_WRITE_OUTSTANDING=OUTSTANDING_BURSTS,
            )
        )
    # Any clock will do: the tool takes its frequency from what drives it.
    clock: dict[str, str | int] = {
        "ASSOCIATED_BUSIF": ":".join(bus.name for bus in buses),
        "ASSOCIATED_RESET": RESET_PORT,
        "FREQ_TOLERANCE_HZ": -1,
    }
    return [
        Interface(CLOCK_PORT, CLOCK, False, {"CLK": CLOCK_PORT}, clock),
        Interface(RESET_PORT, RESET, False, {"RST": RESET_PORT}, {"POLARITY": "ACTIVE_HIGH"}),
        Interface(
            INTERRUPT_PORT,
            INTERRUPT,
            True,
            {"INTERRUPT": INTERRUPT_PORT},
            {"SENSITIVITY": "LEVEL_HIGH"},
        ),
        *buses,
    ]


def with_attributes(verilog: str, found: list[Interface], top: str = "top") -> str:
    """Verilog with an attribute in front of each port declaration of ``top``.

    Each port says its place in its interface; the first one also says the parameters.

    Raises
    ------
    ValueError
        The module does not declare one of the ports, once and in a line of its own.
    """
    begin = verilog.index(f"\nmodule {top}(")
    end = verilog.index("\nendmodule", begin)
    module = verilog[begin:end]
    for interface in found:
        words = ", ".join(f"{name} {value}" for name, value in interface.parameters.items())
        about = f'X_INTERFACE_PARAMETER = "XIL_INTERFACENAME {interface.name}, {words}"'
        for number, (logical, port) in enumerate(interface.ports.items()):
            place = f'X_INTERFACE_INFO = "{interface.bus} {interface.name} {logical}"'
            attributes = f"{place}, {about}" if number == 0 else place
            declaration = rf"^  (?=(?:input|output) (?:\[\d+:0\] )?{port};$)"
            module, times = re.subn(declaration, f"  (* {attributes} *)\n  ", module, flags=re.M)
            if times != 1:
                raise ValueError(
                    f"module {top} must declare the port {port} once, not {times} times"
                )
    return verilog[:begin] + module + verilog[end:]
