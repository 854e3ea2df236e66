"""The accelerator: one module with an AXI4-Lite port, AXI4 masters and an interrupt."""

from __future__ import annotations

import re
from collections.abc import Iterable

from amaranth import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import Out, connect

from moesaic.hw.control.unit import MASTERS, UNIT_EVENTS, ControlUnit
from moesaic.hw.core import Core
from moesaic.hw.interfaces import AxiLite, AxiRead, AxiWrite
from moesaic.hw.ports import flat_members, join_flat
from moesaic.spec.arch import ArchConfig
from moesaic.spec.isa import Unit, Window


def master_names(arch: ArchConfig) -> list[str]:
    """Names of the AXI4 masters: ``m_axi_<name>_*`` are their ports."""
    return [*(f"w{p}" for p in range(arch.weight_ports)), "d"]


def top_members(arch: ArchConfig) -> dict[str, wiring.Member]:
    """The ports of the accelerator, without clock and reset."""
    members = flat_members("s_axil", AxiLite().flip())
    for p in range(arch.weight_ports):
        members |= flat_members(f"m_axi_w{p}", AxiRead(arch.weight_port_bytes))
        if 0 < p < arch.output_ports:
            members |= flat_members(f"m_axi_w{p}", AxiWrite(arch.data_port_bytes))
    members |= flat_members("m_axi_d", AxiRead(arch.data_port_bytes))
    members |= flat_members("m_axi_d", AxiWrite(arch.data_port_bytes))
    for channel in _channels(members):
        members |= {f"{channel}cache": Out(4), f"{channel}prot": Out(3)}
    return {**members, "irq": Out(1)}


def _channels(names: Iterable[str]) -> list[str]:
    """What the names of the masters' address channels begin with."""
    addresses = [name for name in names if re.fullmatch("m_axi_.*_a[rw]addr", name)]
    return [name.removesuffix("addr") for name in addresses]


class Accelerator(wiring.Component):
    """Everything of ``docs/architecture.md`` in the clock domain ``sync`` (``clk``, ``rst``).

    ``rst`` is synchronous and may only be asserted while no bus transfer is outstanding; to give
    up a frame use CONTROL.RESET.

    Parameters
    ----------
    arch
        Sizes.

    Attributes
    ----------
    s_axil_*
        AXI4-Lite registers (``docs/registers.md``).
    m_axi_w<p>_*
        AXI4 read masters of the weight stream; port 1 and up also write outputs if
        ``arch.output_ports`` says so.
    m_axi_d_*
        AXI4 master of program, constants, inputs and outputs.
    m_axi_*_arcache, m_axi_*_arprot, m_axi_*_awcache, m_axi_*_awprot
        The same of every transfer: ``arch.axi_cache``, ``arch.axi_prot``.
    irq
        Level interrupt.
    """

    def __init__(self, arch: ArchConfig) -> None:
        self.arch = arch
        super().__init__(top_members(arch))

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.control = control = ControlUnit(self.arch)
        m.submodules.core = core = Core(self.arch)
        data_bytes = self.arch.data_port_bytes
        join_flat(m, self, "s_axil", AxiLite().flip(), control.bus)
        join_flat(m, self, "m_axi_d", AxiRead(data_bytes), core.data_read)
        join_flat(m, self, "m_axi_d", AxiWrite(data_bytes), core.write0)
        for p in range(1, self.arch.output_ports):
            join_flat(m, self, f"m_axi_w{p}", AxiWrite(data_bytes), getattr(core, f"write{p}"))
            connect(m, getattr(control, f"output{p}"), getattr(core, f"output{p}"))
        for p in range(self.arch.weight_ports):
            read = AxiRead(self.arch.weight_port_bytes)
            join_flat(m, self, f"m_axi_w{p}", read, getattr(core, f"weight_axi{p}"))
            connect(m, getattr(control, f"weight{p}"), getattr(core, f"weight{p}"))
        for w in Window:
            connect(m, getattr(control, f"window{w.value}"), getattr(core, f"window{w.value}"))
        for unit in Unit:
            connect(m, getattr(control, unit.name.lower()), getattr(core, unit.name.lower()))
        for unit in MASTERS:
            fault = f"fault_{unit.name.lower()}"
            connect(m, getattr(core, fault), getattr(control, fault))
        connect(m, control.fetch, core.fetch)
        for channel in _channels(self.signature.members):
            m.d.comb += [
                getattr(self, f"{channel}cache").eq(self.arch.axi_cache),
                getattr(self, f"{channel}prot").eq(self.arch.axi_prot),
            ]
        m.d.comb += [
            self.irq.eq(control.irq),
            core.abort.eq(control.abort),
            core.reset.eq(control.core_reset),
            control.idle.eq(core.idle),
        ]
        for name in UNIT_EVENTS:
            m.d.comb += getattr(control, f"event_{name}").eq(getattr(core, f"event_{name}"))
        return m
