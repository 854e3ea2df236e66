"""The accelerator: one module with an AXI4-Lite port, AXI4 masters and an interrupt."""

from __future__ import annotations

from amaranth import Module, ResetInserter
from amaranth.lib import wiring
from amaranth.lib.wiring import Out, connect

from moesaic.hw.control.unit import MASTERS, UNIT_EVENTS, ControlUnit
from moesaic.hw.core import Core
from moesaic.hw.interfaces import AxiLite, AxiRead, AxiWrite
from moesaic.hw.ports import flat_members, join_flat
from moesaic.spec.arch import ArchConfig
from moesaic.spec.isa import Unit, Window


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
    irq
        Level interrupt.
    """

    def __init__(self, arch: ArchConfig) -> None:
        self.arch = arch
        self._lite = AxiLite().flip()
        self._weight = AxiRead(arch.weight_port_bytes)
        self._read, self._write = AxiRead(arch.data_port_bytes), AxiWrite(arch.data_port_bytes)
        members = flat_members("s_axil", self._lite)
        for p in range(arch.weight_ports):
            members |= flat_members(f"m_axi_w{p}", self._weight)
            if 0 < p < arch.output_ports:
                members |= flat_members(f"m_axi_w{p}", self._write)
        members |= flat_members("m_axi_d", self._read) | flat_members("m_axi_d", self._write)
        super().__init__({**members, "irq": Out(1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.control = control = ControlUnit(self.arch)
        core = Core(self.arch)
        m.submodules.core = ResetInserter(control.core_reset)(core)
        join_flat(m, self, "s_axil", self._lite, control.bus)
        join_flat(m, self, "m_axi_d", self._read, core.data_read)
        join_flat(m, self, "m_axi_d", self._write, core.write0)
        for p in range(1, self.arch.output_ports):
            join_flat(m, self, f"m_axi_w{p}", self._write, getattr(core, f"write{p}"))
            connect(m, getattr(control, f"output{p}"), getattr(core, f"output{p}"))
        for p in range(self.arch.weight_ports):
            join_flat(m, self, f"m_axi_w{p}", self._weight, getattr(core, f"weight_axi{p}"))
            connect(m, getattr(control, f"weight{p}"), getattr(core, f"weight{p}"))
        for w in Window:
            connect(m, getattr(control, f"window{w.value}"), getattr(core, f"window{w.value}"))
        for unit in Unit:
            connect(m, getattr(control, unit.name.lower()), getattr(core, unit.name.lower()))
        for unit in MASTERS:
            fault = f"fault_{unit.name.lower()}"
            connect(m, getattr(core, fault), getattr(control, fault))
        connect(m, control.fetch, core.fetch)
        m.d.comb += [
            self.irq.eq(control.irq),
            core.abort.eq(control.abort),
            control.idle.eq(core.idle),
        ]
        for name in UNIT_EVENTS:
            m.d.comb += getattr(control, f"event_{name}").eq(getattr(core, f"event_{name}"))
        return m
