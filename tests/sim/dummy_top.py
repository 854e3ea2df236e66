"""A small accelerator with the bus interface of the real one, to test the simulator with.

Registers (32 bits, byte offsets): 0x00 command, 0x04 source, 0x08 destination, 0x0c beats,
0x10 status, 0x14 sum, 0x18 error, 0x1c bytes per beat, 0x20 a memory word that nothing
initialises; anything else answers SLVERR.
Command 1 copies beats from source to destination on port ``d``, one beat at a time in bursts of
one; command 2 reads beats from source on every port ``w``, in bursts of 16, as fast as the
memory gives them, and adds up their 32-bit words; command 3 fails an assertion. All end in
``irq``, which command 0 clears.
"""

from __future__ import annotations

from amaranth import Assert, Cat, Const, Elaboratable, Instance, Module, Signal
from amaranth.back import verilog

_READ = {"araddr": 40, "arlen": 8, "arsize": 3, "arburst": 2, "arcache": 4, "arprot": 3}
_WRITE = {"awaddr": 40, "awlen": 8, "awsize": 3, "awburst": 2, "awcache": 4, "awprot": 3}
_BURST_BEATS = 16
_UNINITIALISED = """
module uninitialised (output wire [31:0] word);
  reg [31:0] memory [0:3];
  assign word = memory[2];
endmodule
"""


def _master(name: str, data_bits: int, writable: bool) -> dict[str, Signal]:
    widths = _READ | {"arvalid": 1, "arready": 1, "rdata": data_bits, "rresp": 2, "rlast": 1}
    widths |= {"rvalid": 1, "rready": 1}
    if writable:
        widths |= _WRITE | {"awvalid": 1, "awready": 1, "wdata": data_bits}
        widths |= {"wstrb": data_bits // 8, "wlast": 1, "wvalid": 1, "wready": 1, "bresp": 2}
        widths |= {"bvalid": 1, "bready": 1}
    return {key: Signal(width, name=f"m_axi_{name}_{key}") for key, width in widths.items()}


class DummyTop(Elaboratable):
    """``weight_ports`` read-only masters and one read-write master, all ``data_bits`` wide."""

    def __init__(self, weight_ports: int, data_bits: int) -> None:
        self.data_bits = data_bits
        self.w = [_master(f"w{i}", data_bits, False) for i in range(weight_ports)]
        self.d = _master("d", data_bits, True)
        widths = {"awaddr": 12, "awprot": 3, "awvalid": 1, "awready": 1, "wdata": 32, "wstrb": 4}
        widths |= {"wvalid": 1, "wready": 1, "bresp": 2, "bvalid": 1, "bready": 1, "araddr": 12}
        widths |= {"arprot": 3, "arvalid": 1, "arready": 1, "rdata": 32, "rresp": 2, "rvalid": 1}
        widths |= {"rready": 1}
        self.lite = {key: Signal(width, name=f"s_axil_{key}") for key, width in widths.items()}
        self.irq = Signal()

    def ports(self) -> list[Signal]:
        masters = [signal for port in (*self.w, self.d) for signal in port.values()]
        return [self.irq, *self.lite.values(), *masters]

    def elaborate(self, platform: object) -> Module:
        m = Module()
        command, source, destination = Signal(32), Signal(32), Signal(32)
        beats, total, error = Signal(32), Signal(32), Signal(2)
        start = Signal()
        registers = [command, source, destination, beats, self.irq, total, error]
        word = Signal(32)
        m.submodules.memory = Instance("uninitialised", o_word=word)
        registers += [Const(self.data_bits // 8, 32), word]
        m.d.sync += start.eq(0)
        self._bus(m, registers, start)
        size = (self.data_bits // 8).bit_length() - 1
        for port in (*self.w, self.d):
            m.d.comb += [port["arsize"].eq(size), port["arburst"].eq(1)]
            m.d.comb += [port["arcache"].eq(0), port["arprot"].eq(0)]
        with m.If(start):
            m.d.sync += [self.irq.eq(command == 3), total.eq(0), error.eq(0)]
            m.d.sync += Assert(command != 3)
        self._copy(m, start & (command == 1), source, destination, beats, error, size)
        self._sum(m, start & (command == 2), source, beats, total)
        return m

    def _bus(self, m: Module, registers: list, start: Signal) -> None:
        lite = self.lite
        write = Signal()
        m.d.comb += write.eq(lite["awvalid"] & lite["wvalid"] & ~lite["bvalid"])
        m.d.comb += [lite["awready"].eq(write), lite["wready"].eq(write)]
        with m.If(lite["bready"]):
            m.d.sync += lite["bvalid"].eq(0)
        with m.If(write):
            m.d.sync += [lite["bvalid"].eq(1), lite["bresp"].eq(2)]
            for index in range(4):
                with m.If(lite["awaddr"] == 4 * index):
                    m.d.sync += [registers[index].eq(lite["wdata"]), lite["bresp"].eq(0)]
                    m.d.sync += start.eq(index == 0)
        m.d.comb += lite["arready"].eq(~lite["rvalid"])
        with m.If(lite["rready"]):
            m.d.sync += lite["rvalid"].eq(0)
        with m.If(lite["arvalid"] & lite["arready"]):
            m.d.sync += [lite["rvalid"].eq(1), lite["rresp"].eq(2)]
            for index, register in enumerate(registers):
                with m.If(lite["araddr"] == 4 * index):
                    m.d.sync += [lite["rdata"].eq(register), lite["rresp"].eq(0)]

    def _copy(self, m, start, source, destination, beats, error, size) -> None:
        d = self.d
        left, offset = Signal(32), Signal(32)
        m.d.comb += [d["awsize"].eq(size), d["awburst"].eq(1), d["wlast"].eq(1)]
        m.d.comb += [d["wstrb"].eq(~Const(0, self.data_bits // 8)), d["rready"].eq(1)]
        m.d.comb += [d["araddr"].eq(source + offset), d["awaddr"].eq(destination + offset)]
        m.d.comb += [d["bready"].eq(1), d["arlen"].eq(0), d["awlen"].eq(0)]
        m.d.comb += [d["awcache"].eq(0), d["awprot"].eq(0)]
        with m.If(start):
            m.d.sync += [left.eq(beats), offset.eq(0), d["arvalid"].eq(1)]
        with m.If(d["arvalid"] & d["arready"]):
            m.d.sync += d["arvalid"].eq(0)
        with m.If(d["rvalid"]):
            m.d.sync += [d["wdata"].eq(d["rdata"]), d["awvalid"].eq(1), d["wvalid"].eq(1)]
            m.d.sync += error.eq(error | d["rresp"])
        with m.If(d["awvalid"] & d["awready"]):
            m.d.sync += d["awvalid"].eq(0)
        with m.If(d["wvalid"] & d["wready"]):
            m.d.sync += d["wvalid"].eq(0)
        with m.If(d["bvalid"]):
            m.d.sync += [left.eq(left - 1), offset.eq(offset + self.data_bits // 8)]
            m.d.sync += [error.eq(error | d["bresp"]), d["arvalid"].eq(left != 1)]
            m.d.sync += self.irq.eq(left == 1)

    def _sum(self, m, start, source, beats, total) -> None:
        running, done = Signal(), []
        sums = []
        for index, port in enumerate(self.w):
            asked, got = Signal(32, name=f"asked{index}"), Signal(32, name=f"got{index}")
            subtotal = Signal(32, name=f"sum{index}")
            sums.append(subtotal)
            done.append(got == beats)
            m.d.comb += [port["arlen"].eq(_BURST_BEATS - 1), port["rready"].eq(1)]
            m.d.comb += port["araddr"].eq(source + asked * (self.data_bits // 8))
            with m.If(start):
                m.d.sync += [asked.eq(0), got.eq(0), subtotal.eq(0), port["arvalid"].eq(1)]
            with m.If(port["arvalid"] & port["arready"]):
                m.d.sync += asked.eq(asked + _BURST_BEATS)
                m.d.sync += port["arvalid"].eq(asked + _BURST_BEATS != beats)
            with m.If(port["rvalid"]):
                words = [port["rdata"][i : i + 32] for i in range(0, self.data_bits, 32)]
                m.d.sync += [got.eq(got + 1), subtotal.eq(sum(words, subtotal))]
        with m.If(start):
            m.d.sync += running.eq(1)
        with m.Elif(running & Cat(done).all()):
            m.d.sync += [running.eq(0), self.irq.eq(1), total.eq(sum(sums, Const(0, 32)))]


def dummy_verilog(weight_ports: int, data_bits: int) -> str:
    """Verilog of a :class:`DummyTop`, as module ``top``."""
    top = DummyTop(weight_ports, data_bits)
    text = verilog.convert(top, name="top", ports=top.ports(), emit_src=False)
    return f"{text}{_UNINITIALISED}"
