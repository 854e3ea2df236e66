"""The activation scratchpad: banked int8 words that several units read and write."""

from __future__ import annotations

from amaranth import Cat, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In

from moesaic.hw.arithmetic.tree import select
from moesaic.hw.interfaces import ACTIVATION_READ_LATENCY, ActivationRead, ActivationWrite
from moesaic.hw.memory.ram import Ram
from moesaic.spec.arch import ArchConfig


class ActivationScratchpad(wiring.Component):
    """``activation_banks`` banks, chosen by the upper address bits, of words of ``depth`` bytes.

    Every bank serves one read and one write per cycle. Ports with a lower number win: the unit
    whose wait would idle the array comes first. Ports on different banks never disturb each
    other. Data follows a granted read by ``ACTIVATION_READ_LATENCY`` cycles; a write is seen by
    reads granted from the next cycle on.

    Parameters
    ----------
    arch
        Sizes.
    readers, writers
        Numbers of ports.

    Attributes
    ----------
    read0, read1, ..., write0, write1, ...
        The ports.
    """

    def __init__(self, arch: ArchConfig, readers: int = 2, writers: int = 2) -> None:
        self.arch = arch
        self.readers, self.writers = readers, writers
        super().__init__(
            {
                **{f"read{i}": In(ActivationRead(arch)) for i in range(readers)},
                **{f"write{i}": In(ActivationWrite(arch)) for i in range(writers)},
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        arch = self.arch
        banks = arch.activation_banks
        words = arch.activation_words // banks
        bank_bits, word_bits = (banks - 1).bit_length(), words.bit_length() - 1
        reads = [getattr(self, f"read{i}") for i in range(self.readers)]
        writes = [getattr(self, f"write{i}") for i in range(self.writers)]
        rams = []
        for b in range(banks):
            ram = Ram(8 * arch.depth, words, lanes=arch.depth, ultra=arch.ultra_activations)
            m.submodules[f"bank{b}"] = ram
            rams.append(ram)

            def in_bank(port: wiring.PureInterface, bank: int = b) -> Signal:
                return port.valid & (port.address[word_bits:] == bank)

            # The last of several enabled assignments wins: visit the ports from the weakest.
            m.d.comb += ram.read_enable.eq(0)
            for port in reversed(reads):
                with m.If(in_bank(port)):
                    m.d.comb += [
                        ram.read_address.eq(port.address[:word_bits]),
                        ram.read_enable.eq(1),
                    ]
            for port in reversed(writes):
                with m.If(in_bank(port)):
                    m.d.comb += [
                        ram.write_address.eq(port.address[:word_bits]),
                        ram.write_data.eq(port.data),
                        ram.write_enable.eq(port.mask),
                    ]
        for ports in (reads, writes):
            for i, port in enumerate(ports):
                clash = [
                    other.valid & (other.address[word_bits:] == port.address[word_bits:])
                    for other in ports[:i]
                ]
                m.d.comb += port.ready.eq(~Cat(*clash).any() if clash else 1)
        if ACTIVATION_READ_LATENCY != 2:
            raise AssertionError("the pipeline below has two stages")
        # What an address behind the last bank reads, which no plan has, is of no meaning.
        data = [ram.read_data for ram in rams]
        data += data[:1] * ((1 << bank_bits) - banks)
        for port in reads:
            bank = Signal(max(bank_bits, 1))
            granted = Signal()
            m.d.sync += [
                bank.eq(port.address[word_bits:] if bank_bits else 0),
                granted.eq(port.valid & port.ready),
                port.data_valid.eq(granted),
                port.data.eq(select(bank, data)),
            ]
        return m
