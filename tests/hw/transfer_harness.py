"""Load unit, store unit and a second read master on AXI4 ports with the names of the top."""

from __future__ import annotations

from amaranth import Module
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from moesaic.hw.axi.arbiter import ReadArbiter
from moesaic.hw.axi.burst import command_layout
from moesaic.hw.axi.read import ReadEngine, beat_layout
from moesaic.hw.interfaces import (
    ActivationWrite,
    AxiRead,
    AxiWrite,
    InstructionPort,
    ResidualWrite,
    TableWrite,
    WindowSettings,
)
from moesaic.hw.transfer.load import LoadUnit
from moesaic.hw.transfer.store import StoreUnit
from moesaic.spec import isa
from moesaic.spec.arch import ArchConfig


class TransferHarness(wiring.Component):
    """The data port as the accelerator has it, and the other output ports, which here write alone;
    ``other`` stands for the instruction fetch."""

    def __init__(self, arch: ArchConfig) -> None:
        self.arch = arch
        size = arch.data_port_bytes
        self.writes = dict(AxiWrite(size).members)
        self.others = range(1, arch.output_ports)
        self.axi = [*AxiRead(size).members.items(), *self.writes.items()]
        super().__init__(
            {
                "load": In(InstructionPort()),
                "store": In(InstructionPort()),
                "activation": Out(ActivationWrite(arch)),
                "residual": Out(ResidualWrite(arch)),
                "table": Out(TableWrite()),
                "output": In(stream.Signature(16 * arch.lanes)),
                "other": In(stream.Signature(command_layout(32, 32))),
                "other_data": Out(stream.Signature(beat_layout(size))),
                **{f"window{w.value}": In(WindowSettings()) for w in isa.Window},
                "abort": In(1),
                "idle": Out(1),
                "faults": Out(6),
                **{f"output{p}": In(WindowSettings()) for p in self.others},
                **{
                    f"m_axi_w{p}_{name}": member
                    for p in self.others
                    for name, member in self.writes.items()
                },
                **{f"m_axi_w{p}_awid": Out(1) for p in self.others},
                **{f"m_axi_w{p}_bid": In(1) for p in self.others},
                **{f"m_axi_d_{name}": member for name, member in self.axi},
                **{f"m_axi_d_{name}": Out(1) for name in ("arid", "awid")},
                **{f"m_axi_d_{name}": In(1) for name in ("rid", "bid")},
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.load = load = LoadUnit(self.arch)
        m.submodules.store = store = StoreUnit(self.arch)
        m.submodules.other = other = ReadEngine(self.arch.data_port_bytes)
        m.submodules.arbiter = arbiter = ReadArbiter(self.arch.data_port_bytes, 2)
        connect(m, flipped(self.load), load.control)
        connect(m, flipped(self.store), store.control)
        connect(m, load.activation_write, flipped(self.activation))
        connect(m, load.residual_write, flipped(self.residual))
        connect(m, load.table_write, flipped(self.table))
        connect(m, flipped(self.output), store.output)
        connect(m, flipped(self.other), other.command)
        connect(m, other.data, flipped(self.other_data))
        connect(m, other.axi, arbiter.master0)
        connect(m, load.axi, arbiter.master1)
        for w in isa.Window:
            connect(m, flipped(getattr(self, f"window{w}")), getattr(load, f"window{w}"))
        for target, window in ((store.window0, self.window3), (other.window, self.window0)):
            m.d.comb += [target.base.eq(window.base), target.size.eq(window.size)]
        for name, member in self.axi:
            port = getattr(self, f"m_axi_d_{name}")
            inner = getattr(
                store.axi0 if name[0] in "awb" and name[:2] != "ar" else arbiter.axi, name
            )
            m.d.comb += port.eq(inner) if member.flow == Out else inner.eq(port)
        for p in self.others:
            connect(m, flipped(getattr(self, f"output{p}")), getattr(store, f"window{p}"))
            for name, member in self.writes.items():
                port, inner = getattr(self, f"m_axi_w{p}_{name}"), getattr(store, f"axi{p}")
                inner = getattr(inner, name)
                m.d.comb += port.eq(inner) if member.flow == Out else inner.eq(port)
        m.d.comb += [
            self.idle.eq(load.idle & store.idle & other.idle),
            *(unit.abort.eq(self.abort) for unit in (load, store, other)),
        ]
        for i, unit in enumerate((load, store, other)):
            m.d.comb += self.faults[2 * i].eq(unit.fault.window)
            m.d.comb += self.faults[2 * i + 1].eq(unit.fault.bus)
        return m
