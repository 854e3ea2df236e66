"""Reading the bus interface out of Verilog, in both styles of port declaration."""

from __future__ import annotations

import pytest

from moesaic.sim.ports import find_masters, module_ports, port_directions, ports_header
from tests.sim.dummy_top import dummy_verilog


def test_old_and_new_style_declarations() -> None:
    old = "module a(x, y);\n  input [3:0] x;\n  wire [3:0] x;\n  output y;\n  reg y;\nendmodule\n"
    new = "module a (\n  input wire [3:0] x,\n  output reg y\n);\nendmodule\n"
    other = "module b (input wire z);\nendmodule\n"
    for text in (old + other, other + new):
        assert module_ports(text, "a") == {"x": 4, "y": 1}
        assert port_directions(text, "a") == {"x": "input", "y": "output"}


@pytest.mark.parametrize(("ports", "bits"), [(1, 32), (4, 128), (2, 512)])
def test_masters_of_a_top(ports: int, bits: int) -> None:
    masters = {master.name: master for master in find_masters(dummy_verilog(ports, bits))}
    assert sorted(masters) == ["d", *(f"w{i}" for i in range(ports))]
    assert {master.data_bits for master in masters.values()} == {bits}
    assert [name for name, master in masters.items() if master.writable] == ["d"]


def test_header_names_every_master_once() -> None:
    header = ports_header(find_masters(dummy_verilog(2, 64)), "")
    assert all(header.count(text) == 1 for text in ("READ(w0)", "READ(w1)", "READ_WRITE(d)"))


def test_unsupported_width_is_refused() -> None:
    text = dummy_verilog(1, 64).replace("[63:0] m_axi_w0_rdata", "[47:0] m_axi_w0_rdata")
    with pytest.raises(ValueError, match="m_axi_w0_rdata must be one of .* not 48"):
        find_masters(text)
