"""Several read masters on one AXI4 read port."""

from __future__ import annotations

from amaranth import Cat, Module, Signal
from amaranth.lib import data, wiring
from amaranth.lib.fifo import SyncFIFOBuffered
from amaranth.lib.wiring import In, Out

from moesaic.hw.axi.burst import OUTSTANDING_BURSTS
from moesaic.hw.interfaces import AxiRead
from moesaic.hw.memory.skid import SkidBuffer


class ReadArbiter(wiring.Component):
    """Shares one AXI4 read port between masters; data go back in the order of the addresses.

    A lower number wins when several masters have an address. Adds two cycles to the address
    channel, none to the data channel. A master that does not take its data holds up the others:
    each must have room for what it asks for, or make room without the others' help.

    Parameters
    ----------
    data_bytes
        Bytes per beat.
    masters
        How many.
    outstanding
        Bursts under way at most, of all masters; power of two.

    Attributes
    ----------
    master0, master1, ...
        Towards the masters.
    axi
        Towards the bus.
    """

    def __init__(
        self, data_bytes: int, masters: int, outstanding: int = 2 * OUTSTANDING_BURSTS
    ) -> None:
        self.masters, self.outstanding = masters, outstanding
        super().__init__(
            {
                **{f"master{i}": In(AxiRead(data_bytes)) for i in range(masters)},
                "axi": Out(AxiRead(data_bytes)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        axi = self.axi
        masters = [getattr(self, f"master{i}") for i in range(self.masters)]
        # Whose burst is the oldest, in a register as soon as data can come.
        m.submodules.owners = owners = SyncFIFOBuffered(width=self.masters, depth=self.outstanding)
        free, accept, ended = Signal(), Signal(), Signal()
        # No master's address hangs on the bus within the cycle.
        address = data.StructLayout({"araddr": len(axi.araddr), "arlen": len(axi.arlen)})
        waiting = []
        for i, port in enumerate(masters):
            m.submodules[f"address{i}"] = skid = SkidBuffer(address)
            m.d.comb += [
                skid.i.valid.eq(port.arvalid),
                skid.i.payload.eq(Cat(port.araddr, port.arlen)),
                port.arready.eq(skid.i.ready),
            ]
            waiting.append(skid.o)
        m.d.comb += [
            free.eq((~axi.arvalid | axi.arready) & owners.w_rdy),
            accept.eq(free & Cat(one.valid for one in waiting).any()),
            ended.eq(axi.rvalid & axi.rready & axi.rlast),
        ]
        m.d.comb += [
            axi.arsize.eq(masters[0].arsize),
            axi.arburst.eq(masters[0].arburst),
        ]
        with m.If(accept):
            m.d.sync += axi.arvalid.eq(1)
        with m.Elif(axi.arready):
            m.d.sync += axi.arvalid.eq(0)
        m.d.comb += [owners.w_en.eq(accept), owners.r_en.eq(ended)]

        for i, port in enumerate(masters):
            chosen = Signal(name=f"chosen{i}")
            mine = Signal(name=f"mine{i}")
            m.d.comb += [
                chosen.eq(waiting[i].valid & ~Cat(other.valid for other in waiting[:i]).any()),
                waiting[i].ready.eq(free & chosen),
                owners.w_data[i].eq(chosen),
                mine.eq(owners.r_data[i] & owners.r_rdy),
                port.rvalid.eq(axi.rvalid & mine),
                port.rdata.eq(axi.rdata),
                port.rresp.eq(axi.rresp),
                port.rlast.eq(axi.rlast),
            ]
            with m.If(mine):
                m.d.comb += axi.rready.eq(port.rready)
            with m.If(accept & chosen):
                m.d.sync += Cat(axi.araddr, axi.arlen).eq(waiting[i].payload)
        return m
