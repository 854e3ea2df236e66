"""Control block with real load and store units; the other four units are played by the bench."""

from __future__ import annotations

from amaranth import Module, ResetInserter
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from moesaic.hw.axi.arbiter import ReadArbiter
from moesaic.hw.control.unit import ControlUnit
from moesaic.hw.interfaces import (
    ActivationWrite,
    AxiLite,
    AxiRead,
    AxiWrite,
    FaultPort,
    InstructionPort,
    ResidualWrite,
    TableWrite,
)
from moesaic.hw.ports import flat_members, join_flat
from moesaic.hw.transfer.load import LoadUnit
from moesaic.hw.transfer.store import StoreUnit
from moesaic.spec.arch import ArchConfig

PLAYED = ("stream", "matrix", "vector", "router")


class ControlHarness(wiring.Component):
    """The accelerator with four units left out."""

    def __init__(self, arch: ArchConfig) -> None:
        self.arch = arch
        self.read, self.write = AxiRead(arch.data_port_bytes), AxiWrite(arch.data_port_bytes)
        self.lite = AxiLite().flip()
        super().__init__(
            {
                **flat_members("s_axil", self.lite),
                **flat_members("m_axi_d", self.read),
                **flat_members("m_axi_d", self.write),
                **{f"m_axi_d_{name}": Out(1) for name in ("arid", "awid")},
                **{f"m_axi_d_{name}": In(1) for name in ("rid", "bid")},
                "irq": Out(1),
                **{name: Out(InstructionPort()) for name in PLAYED},
                "activation": Out(ActivationWrite(arch)),
                "residual": Out(ResidualWrite(arch)),
                "table": Out(TableWrite()),
                "output": In(stream.Signature(16 * arch.lanes)),
                "fault_stream": In(FaultPort()),
                "idle": In(1),
                "halt": Out(1),
                "core_reset": Out(1),
                "activation_lookups": In(12),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.control = control = ControlUnit(self.arch)
        reset = ResetInserter(control.core_reset)
        load, store = LoadUnit(self.arch), StoreUnit(self.arch)
        arbiter = ReadArbiter(self.arch.data_port_bytes, 2)
        m.submodules.load = reset(load)
        m.submodules.store = reset(store)
        m.submodules.arbiter = reset(arbiter)
        join_flat(m, self, "s_axil", self.lite, control.bus)
        join_flat(m, self, "m_axi_d", self.read, arbiter.axi)
        join_flat(m, self, "m_axi_d", self.write, store.axi0)
        connect(m, control.fetch, arbiter.master0)
        connect(m, load.axi, arbiter.master1)
        connect(m, control.load, load.control)
        connect(m, control.store, store.control)
        connect(m, load.activation_write, flipped(self.activation))
        connect(m, load.residual_write, flipped(self.residual))
        connect(m, load.table_write, flipped(self.table))
        connect(m, flipped(self.output), store.output)
        for name in PLAYED:
            connect(m, getattr(control, name), flipped(getattr(self, name)))
        for w in range(4):
            connect(m, getattr(control, f"window{w}"), getattr(load, f"window{w}"))
        m.d.comb += [
            store.window0.base.eq(control.window3.base),
            store.window0.size.eq(control.window3.size),
            load.abort.eq(control.abort),
            store.abort.eq(control.abort),
            self.halt.eq(control.abort),
            self.irq.eq(control.irq),
            self.core_reset.eq(control.core_reset),
            control.idle.eq(self.idle & load.idle & store.idle),
            control.event_activation_lookups.eq(self.activation_lookups),
            control.event_data_read_bytes.eq(
                (self.m_axi_d_rvalid & self.m_axi_d_rready) * self.arch.data_port_bytes
            ),
        ]
        connect(m, load.fault, control.fault_load)
        connect(m, store.fault, control.fault_store)
        connect(m, flipped(self.fault_stream), control.fault_stream)
        return m
