"""Several read masters on one AXI4 read port."""

from __future__ import annotations

from amaranth import Cat, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from moesaic.hw.axi.burst import OUTSTANDING_BURSTS
from moesaic.hw.interfaces import AxiRead


class ReadArbiter(wiring.Component):
    """Shares one AXI4 read port between masters; data go back in the order of the addresses.

    A lower number wins when several masters have an address. Adds a cycle to the address channel,
    none to the data channel. A master that does not take its data holds up the others: each must
    have room for what it asks for, or make room without the others' help.

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
        head, tail = Signal(range(self.outstanding)), Signal(range(self.outstanding))
        under_way = Signal(range(self.outstanding + 1))
        free, accept, ended = Signal(), Signal(), Signal()
        m.d.comb += [
            free.eq((~axi.arvalid | axi.arready) & (under_way != self.outstanding)),
            accept.eq(free & Cat(port.arvalid for port in masters).any()),
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
        with m.If(accept):
            m.d.sync += tail.eq(tail + 1)
        with m.If(ended):
            m.d.sync += head.eq(head + 1)
        m.d.sync += under_way.eq(under_way + accept - ended)

        for i, port in enumerate(masters):
            chosen = Signal(name=f"chosen{i}")
            owners = Signal(self.outstanding, name=f"owners{i}")
            mine = Signal(name=f"mine{i}")
            m.d.comb += [
                chosen.eq(port.arvalid & ~Cat(other.arvalid for other in masters[:i]).any()),
                port.arready.eq(free & chosen),
                mine.eq(owners.bit_select(head, 1) & (under_way != 0)),
                port.rvalid.eq(axi.rvalid & mine),
                port.rdata.eq(axi.rdata),
                port.rresp.eq(axi.rresp),
                port.rlast.eq(axi.rlast),
            ]
            with m.If(mine):
                m.d.comb += axi.rready.eq(port.rready)
            with m.If(accept):
                m.d.sync += owners.bit_select(tail, 1).eq(chosen)
                with m.If(chosen):
                    m.d.sync += [axi.araddr.eq(port.araddr), axi.arlen.eq(port.arlen)]
        return m
