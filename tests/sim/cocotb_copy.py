"""cocotb bench of the dummy top, run by test_bench_runner.py; AXI by cocotbext-axi."""

from __future__ import annotations

import os

import cocotb
from cocotb.clock import Clock
from cocotb.triggers import ClockCycles, RisingEdge
from cocotbext.axi import AxiBus, AxiLiteBus, AxiLiteMaster, AxiRam


@cocotb.test()
async def copies_memory(dut) -> None:
    cocotb.start_soon(Clock(dut.clk, 10, unit="ns").start())
    bus = AxiLiteMaster(AxiLiteBus.from_prefix(dut, "s_axil"), dut.clk, dut.rst)
    ram = AxiRam(AxiBus.from_prefix(dut, "m_axi_d"), dut.clk, dut.rst, size=65536)
    dut.rst.value = 1
    await ClockCycles(dut.clk, 4)
    dut.rst.value = 0
    data = bytes(range(128))
    ram.write(0x1000, data)
    beats = len(data) // (len(dut.m_axi_d_rdata) // 8)
    for offset, value in ((4, 0x1000), (8, 0x2000), (12, beats), (0, 1)):
        await bus.write_dword(offset, value)
    while not dut.irq.value:
        await RisingEdge(dut.clk)
    assert ram.read(0x2000, 128) == data


@cocotb.test()
async def expects_what_it_is_told(dut) -> None:
    assert os.environ["EXPECTED"] == "yes"
