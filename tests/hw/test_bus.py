"""What block designs learn of the ports: attributes of the Verilog, and the values behind them."""

from __future__ import annotations

import dataclasses
import re

import pytest

from moesaic.hw.bus import interfaces, module_ports, with_attributes
from moesaic.hw.generate import cached_verilog
from moesaic.sim.ports import module_ports as verilog_ports
from moesaic.sim.ports import port_directions
from moesaic.spec.arch import ArchConfig
from moesaic.spec.presets import PRESETS

NANO = PRESETS["nano"]
_PORT = re.compile(r"^  (\(\* .* \*\)\n  )?(?:input|output) (?:\[\d+:0\] )?(\w+);$", re.M)


def attributes(verilog: str) -> dict[str, dict[str, str]]:
    """Attributes of every port of module ``top``."""
    found = {}
    module = verilog[verilog.index("\nmodule top(") : verilog.index("\nendmodule")]
    for text, port in _PORT.findall(module):
        found[port] = dict(re.findall(r'(\w+) = "([^"]*)"', text))
    return found


@pytest.fixture(scope="module")
def verilog() -> str:
    return cached_verilog(NANO)


def test_every_port_says_its_place(verilog: str) -> None:
    found = attributes(verilog)
    assert set(found) == set(verilog_ports(verilog, "top"))
    assert found["clk"] == {
        "X_INTERFACE_INFO": "xilinx.com:signal:clock:1.0 clk CLK",
        "X_INTERFACE_PARAMETER": "XIL_INTERFACENAME clk,"
        " ASSOCIATED_BUSIF s_axil:m_axi_w0:m_axi_w1:m_axi_d, ASSOCIATED_RESET rst,"
        " FREQ_TOLERANCE_HZ -1",
    }
    assert "POLARITY ACTIVE_HIGH" in found["rst"]["X_INTERFACE_PARAMETER"]
    assert "SENSITIVITY LEVEL_HIGH" in found["irq"]["X_INTERFACE_PARAMETER"]
    assert found["m_axi_d_wlast"]["X_INTERFACE_INFO"] == (
        "xilinx.com:interface:aximm:1.0 m_axi_d WLAST"
    )
    for name, (mode, reads) in {"w1": ("READ_ONLY", 8), "d": ("READ_WRITE", 16)}.items():
        about = found[f"m_axi_{name}_araddr"]["X_INTERFACE_PARAMETER"]
        for parameter in (
            f"XIL_INTERFACENAME m_axi_{name}", "PROTOCOL AXI4", "DATA_WIDTH 128", "ADDR_WIDTH 40",
            "MAX_BURST_LENGTH 64", f"NUM_READ_OUTSTANDING {reads}", "SUPPORTS_NARROW_BURST 0",
            f"READ_WRITE_MODE {mode}",
        ):  # fmt: skip
            assert parameter in about.split(", "), parameter
    assert "PROTOCOL AXI4LITE" in found["s_axil_awaddr"]["X_INTERFACE_PARAMETER"]


def test_parameters_are_said_once_for_each_interface(verilog: str) -> None:
    said = [port for port, about in attributes(verilog).items() if "X_INTERFACE_PARAMETER" in about]
    assert len(said) == len(interfaces(NANO)) == 7


def test_described_ports_are_those_of_the_verilog(verilog: str) -> None:
    ports = module_ports(NANO)
    assert {port.name: port.bits for port in ports} == verilog_ports(verilog, "top")
    ways = {port.name: "output" if port.output else "input" for port in ports}
    assert ways == port_directions(verilog, "top")


@pytest.mark.parametrize("arch", PRESETS.values(), ids=PRESETS)
def test_every_port_is_in_one_interface(arch: ArchConfig) -> None:
    ports = [port for interface in interfaces(arch) for port in interface.ports.values()]
    assert sorted(ports) == sorted(port.name for port in module_ports(arch))


def test_a_port_that_is_not_declared_is_an_error() -> None:
    with pytest.raises(ValueError, match="must declare the port clk once, not 0 times"):
        with_attributes("\nmodule top(rst);\n  input rst;\n\nendmodule\n", interfaces(NANO))


@pytest.mark.parametrize(
    "coherent, secure, cache, prot",
    [(False, False, 0b0011, 0b010), (True, False, 0b1111, 0b010), (False, True, 0b0011, 0b000)],
)
def test_every_transfer_has_the_attributes_of_the_target(
    coherent: bool, secure: bool, cache: int, prot: int
) -> None:
    arch = dataclasses.replace(NANO, coherent=coherent, secure=secure)
    assert (arch.axi_cache, arch.axi_prot) == (cache, prot)
    if secure:
        return  # one generation less: the other two have shown that the ports follow
    found = dict(re.findall(r"assign (m_axi_\w+(?:cache|prot)) = \d'h(\w);", cached_verilog(arch)))
    channels = ["w0_ar", "w1_ar", "d_ar", "d_aw"]
    expected = {f"m_axi_{c}cache": f"{cache:x}" for c in channels}
    assert found == expected | {f"m_axi_{c}prot": f"{prot:x}" for c in channels}
