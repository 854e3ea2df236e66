"""The AXI4-Lite register file, built from the register map."""

from __future__ import annotations

from amaranth import Cat, Const, Module, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from moesaic.hw.arithmetic.pipeline import delay
from moesaic.hw.arithmetic.tree import select
from moesaic.hw.interfaces import REGISTER_BITS, AxiLite
from moesaic.spec import registers
from moesaic.spec.arch import ADDRESS_BITS, ArchConfig
from moesaic.spec.registers import Access, Register

_COUNTER_REGISTERS = {
    f"{name}_{half}": (name, bit)
    for name, _ in registers.COUNTERS
    for half, bit in (("LO", 0), ("HI", REGISTER_BITS))
}

_RADIX_LOG2 = 2
"""Registers that one multiplexer of a read chooses from."""
_WORD = registers.REGISTER_BYTES.bit_length() - 1
"""Address bits below a register's."""


def is_built(arch: ArchConfig, register: Register) -> bool:
    """Whether ``arch`` has the register: windows of ports beyond its own read as zero."""
    missing = [f"WEIGHT{p}_" for p in range(arch.weight_ports, registers.MAX_WEIGHT_PORTS)]
    missing += [f"OUTPUT{p}_" for p in range(arch.output_ports, registers.MAX_OUTPUT_PORTS)]
    return not register.name.startswith(tuple(missing))


def register_bits(register: Register) -> int:
    """Bits of a read-write register that exist; the others read as zero."""
    if register.name.endswith("_BASE_HI"):
        return ADDRESS_BITS - REGISTER_BITS
    if register.name == "IRQ_ENABLE":
        return registers.used_bits("IRQ_STATUS")
    return REGISTER_BITS


def _find(name: str) -> Register:
    return next(register for register in registers.REGISTERS if register.name == name)


class RegisterFile(wiring.Component):
    """Registers of ``spec.registers`` on an AXI4-Lite bus, one access at a time.

    Every access is answered with OKAY: offsets without a register read as zero and ignore
    writes. Write strobes count per byte. A write takes effect in the cycle before its response is
    offered, ``start`` and ``reset`` follow with it; a read returns the values of the cycle after
    its address was taken, some cycles later.

    Attributes
    ----------
    bus
        The AXI4-Lite bus.
    <name>
        For every read-write register, its value; for every read-only one that the frame
        control makes (STATUS, ERROR, ERROR_INFO), the value to show. Lower case.
    counters
        For every counter, ``count_<name>``: its value.
    start, reset
        One-cycle pulses: CONTROL.START, CONTROL.RESET.
    irq_set
        Causes to set in IRQ_STATUS, by bit.
    irq
        A cause is set and enabled.
    """

    def __init__(self, arch: ArchConfig) -> None:
        self.arch = arch
        self.built = [r for r in registers.REGISTERS if is_built(arch, r)]
        super().__init__(
            {
                "bus": In(AxiLite()),
                **{r.name.lower(): Out(register_bits(r)) for r in self._with(Access.RW)},
                **{name: In(REGISTER_BITS) for name in ("status", "error", "error_info")},
                **{
                    f"count_{name.lower()}": In(registers.COUNTER_BITS)
                    for name, _ in registers.COUNTERS
                },
                "start": Out(1),
                "reset": Out(1),
                "irq_set": In(registers.used_bits("IRQ_STATUS")),
                "irq": Out(1),
            }
        )

    def _with(self, access: Access) -> list[Register]:
        return [register for register in self.built if register.access is access]

    def elaborate(self, platform: object) -> Module:
        m = Module()
        bus = self.bus

        # Write: address and data may come in either order.
        write_address = Signal.like(bus.awaddr)
        write_data = Signal.like(bus.wdata)
        write_strobe = Signal.like(bus.wstrb)
        have_address, have_data, write = Signal(), Signal(), Signal()
        decoded = Signal()  # the cycle before found the register
        m.d.comb += [
            bus.awready.eq(~have_address),
            bus.wready.eq(~have_data),
            bus.bresp.eq(0),
            write.eq(decoded & ~bus.bvalid),
        ]
        m.d.sync += decoded.eq(have_address & have_data & ~write)
        with m.If(bus.awvalid & bus.awready):
            m.d.sync += [have_address.eq(1), write_address.eq(bus.awaddr)]
        with m.If(bus.wvalid & bus.wready):
            m.d.sync += [have_data.eq(1), write_data.eq(bus.wdata), write_strobe.eq(bus.wstrb)]
        with m.If(write):
            m.d.sync += [bus.bvalid.eq(1), have_address.eq(0), have_data.eq(0)]
        with m.Elif(bus.bready):
            m.d.sync += bus.bvalid.eq(0)
        mask = Cat(strobe.replicate(8) for strobe in write_strobe)
        ones = Signal(len(write_data))
        m.d.comb += ones.eq(write_data & mask)

        def written(register: Register) -> Value:
            hit = Signal(name=f"write_{register.name.lower()}", reset_less=True)
            m.d.sync += hit.eq(write_address[_WORD:] == register.offset // registers.REGISTER_BYTES)
            return write & hit

        for register in self._with(Access.RW):
            value, now = getattr(self, register.name.lower()), written(register)
            # An enable for each byte, where a mask would cost a gate for each bit.
            for byte in range(-(-len(value) // 8)):
                bits = slice(8 * byte, min(8 * byte + 8, len(value)))
                with m.If(now & write_strobe[byte]):
                    m.d.sync += value[bits].eq(write_data[bits])
        control = written(_find("CONTROL"))
        m.d.sync += [
            self.start.eq(control & (ones & registers.bit("CONTROL", "START")).any()),
            self.reset.eq(control & (ones & registers.bit("CONTROL", "RESET")).any()),
        ]
        irq_status = Signal.like(self.irq_set)
        clear = Signal.like(self.irq_set)
        with m.If(written(_find("IRQ_STATUS"))):
            m.d.comb += clear.eq(ones)
        m.d.sync += irq_status.eq(irq_status & ~clear | self.irq_set)
        m.d.comb += self.irq.eq((irq_status & self.irq_enable).any())

        # Read: one of four, and again, until one is left; a cycle each.
        read_address = Signal.like(bus.araddr)
        reading, stages = Signal(), -(-(registers.OFFSET_BITS - _WORD) // _RADIX_LOG2)
        m.d.comb += [bus.arready.eq(~reading), bus.rresp.eq(0)]
        with m.If(bus.arvalid & bus.arready):
            m.d.sync += [reading.eq(1), read_address.eq(bus.araddr)]
        done = delay(m, bus.arvalid & bus.arready, stages + 1, "read_stage", control=True)
        index = read_address[_WORD:]
        values: dict[int, Value] = {
            register.offset // registers.REGISTER_BYTES: self._read_value(register, irq_status)
            for register in self.built
        }
        for stage in range(stages):
            following: dict[int, Value] = {}
            for group in sorted({number >> _RADIX_LOG2 for number in values}):
                choices = [
                    values.get((group << _RADIX_LOG2) + i, Const(0, REGISTER_BITS))
                    for i in range(1 << _RADIX_LOG2)
                ]
                value = Signal(REGISTER_BITS, name=f"read{stage}_{group}", reset_less=True)
                m.d.sync += value.eq(select(index[stage * _RADIX_LOG2 :], choices))
                following[group] = value
            values = following
        with m.If(done):
            m.d.sync += [bus.rvalid.eq(1), bus.rdata.eq(values[0])]
        with m.Elif(bus.rvalid & bus.rready):
            m.d.sync += [bus.rvalid.eq(0), reading.eq(0)]
        return m

    def _read_value(self, register: Register, irq_status: Signal) -> Signal | Const:
        constants = {
            "ID": registers.MAGIC,
            "VERSION": registers.INTERFACE_VERSION,
            "ARCH_HASH": self.arch.hash,
        }
        if register.name in constants:
            return Const(constants[register.name], REGISTER_BITS)
        if register.name in _COUNTER_REGISTERS:
            name, bit = _COUNTER_REGISTERS[register.name]
            return getattr(self, f"count_{name.lower()}")[bit : bit + REGISTER_BITS]
        if register.access is Access.WO:
            return Const(0, REGISTER_BITS)
        if register.access is Access.W1C:
            return irq_status
        return getattr(self, register.name.lower())
