"""Parameter blocks on their way from the weight ring to the lanes."""

from __future__ import annotations

from amaranth import Cat, Module, Mux, Signal, Value, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from moesaic.hw.arithmetic.pipeline import delay
from moesaic.spec.arch import ArchConfig
from moesaic.spec.formats import PARAMETER, PARAMETER_BYTES


def parameter_layout() -> data.StructLayout:
    """Parameters of one column: ``requantise(acc + bias, multiplier, shift)``."""
    return data.StructLayout(PARAMETER)


class ParameterBuffer(wiring.Component):
    """FIFO of whole parameter blocks, read at random within them.

    Attributes
    ----------
    words
        Ring words; what lies behind a block's end in its last word is dropped.
    available, some
        Complete blocks inside, those consumed in the cycle before included; whether there are any.
        Registers both.
    block, chunk
        Read address: block counted from the oldest, lanes within it.
    entries
        Parameters of the addressed lanes, two cycles later.
    consume, amount
        Drop so many of the oldest blocks. ``amount`` stays for another cycle; of several, nothing
        is consumed in the next one.
    """

    def __init__(self, arch: ArchConfig) -> None:
        self.arch = arch
        self.blocks = arch.parameter_blocks
        super().__init__(
            {
                "words": In(stream.Signature(8 * arch.ring_read_bytes)),
                "available": Out(range(self.blocks + 1)),
                "some": Out(1),
                "block": In(range(self.blocks)),
                "chunk": In(range(max(2, arch.chunks))),
                "entries": Out(data.ArrayLayout(parameter_layout(), arch.lanes)),
                "consume": In(1),
                "amount": In(range(self.blocks + 1)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        arch = self.arch
        block_bytes = PARAMETER_BYTES * arch.width
        chunk_bytes = PARAMETER_BYTES * arch.lanes
        word_bytes = min(arch.ring_read_bytes, block_bytes)
        entry_bytes = max(chunk_bytes, word_bytes)
        entries = self.blocks * block_bytes // entry_bytes
        parts = entry_bytes // word_bytes

        memory = Memory(shape=unsigned(8 * entry_bytes), depth=entries, init=[])
        m.submodules.memory = memory
        write = memory.write_port(granularity=8 * word_bytes)
        read = memory.read_port()

        # Everything is a power of two, so one counter is block, entry and part at once.
        # The ring is far away, and wide: what comes is written a cycle later. Room is counted when
        # a block has come, so that none is taken for which there is none.
        put, came = Signal(), Signal()
        word = Signal(8 * word_bytes, reset_less=True)
        held, consumed = Signal(range(self.blocks + 1)), Signal()
        position = Signal(range(self.blocks * block_bytes // word_bytes))
        part_bits = (parts - 1).bit_length()
        word_of_block = position[: (block_bytes // word_bytes - 1).bit_length()]
        complete, room, last = Signal(), Signal(init=1), Signal()
        counted, now = Signal(), Signal.like(held)
        m.d.comb += now.eq(held + counted - Mux(consumed, self.amount, 0))
        arriving = Signal.like(word_of_block) if len(word_of_block) else None
        arriving_last = Signal()  # it is the block's last word that comes next
        m.d.comb += [
            self.words.ready.eq(room),
            came.eq(self.words.valid & room),
            last.eq(came & (1 if arriving is None else arriving_last)),
            complete.eq(put & (word_of_block.all() if len(word_of_block) else 1)),
            write.addr.eq(position[part_bits:]),
            write.data.eq(word.replicate(parts)),
        ]
        m.d.sync += [
            put.eq(came),
            word.eq(self.words.payload[: 8 * word_bytes]),
            consumed.eq(self.consume),
            counted.eq(last),
            held.eq(now),
            # The last word of a block comes late in its cycle, so it only chooses.
            room.eq(Mux(last, now < self.blocks - 1, now != self.blocks)),
        ]
        if arriving is not None:
            most = (1 << len(arriving)) - 1
            m.d.sync += [
                arriving.eq(arriving + came),
                arriving_last.eq(Mux(came, arriving == most - 1, arriving == most)),
            ]
        if parts == 1:
            m.d.comb += write.en.eq(put)
        else:
            with m.If(put):
                m.d.comb += write.en.eq(1 << position[:part_bits])
        m.d.sync += position.eq(position + put)

        oldest = Signal(range(self.blocks))
        # That some are consumed comes late in its cycle: the count sees it a cycle later, and here
        # it only chooses. They are consumed in a row one by one only.
        available, amount = self.available, self.amount
        more_than_amount = available > amount
        m.d.sync += [
            oldest.eq(Mux(self.consume, oldest + amount, oldest)),
            available.eq(available + complete - Mux(consumed, amount, 0)),
            self.some.eq(
                complete
                | Mux(
                    self.consume,
                    Mux(consumed, available > 2, more_than_amount),
                    Mux(consumed, more_than_amount, available.any()),
                )
            ),
        ]
        slot = Signal(range(self.blocks))
        chunk_bits = (arch.chunks - 1).bit_length()
        index: Value = Cat(self.chunk[:chunk_bits], slot)
        inside_bits = (entry_bytes // chunk_bytes - 1).bit_length()
        inside = Signal(max(1, inside_bits), reset_less=True)
        address = Signal.like(read.addr, reset_less=True)
        m.d.comb += [
            slot.eq(oldest + self.block),
            read.addr.eq(address),
            read.en.eq(1),
            self.entries.eq(read.data.word_select(inside, 8 * chunk_bytes)),
        ]
        m.d.sync += [
            address.eq(index[inside_bits:]),
            inside.eq(delay(m, index[:inside_bits], 1, "inside")),
        ]
        return m
