"""Register stages, queues in LUT and in block RAM, and changes of width."""

from __future__ import annotations

from amaranth import Cat, Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from moesaic.hw.memory import credit, fifo, resize, shallow, skid
from tests.formal.harness import Control, Harness, Opened, Proof, implies, mutant
from tests.formal.streams import Watch, hold


class Queue(Harness):
    """A queue with a stream at either end: what it takes comes out once, in order."""

    def __init__(
        self,
        component: wiring.Component,
        i,
        o,
        most: int,
        *,
        flush=None,
        level=None,
        speed: int = 0,
    ) -> None:
        super().__init__()
        self.component, self.i, self.o, self.most = component, i, o, most
        self.flush, self.level, self.speed = flush, level, speed

    def describe(self, m: Module) -> None:
        i, o = self.i, self.o
        m.submodules.dut = Opened(self.component)
        value = self.fixed(m, len(i.payload), "value")
        m.d.comb += [
            i.valid.eq(self.free(m, 1, "put")),
            i.payload.eq(self.free(m, len(i.payload), "word")),
            o.ready.eq(self.free(m, 1, "take")),
        ]
        forget = self.free(m, 1, "flush") if self.flush is not None else 0
        if self.flush is not None:
            m.d.comb += self.flush.eq(forget)
        enter, leave = i.valid & i.ready, o.valid & o.ready
        watch = Watch(
            self,
            m,
            enter=enter,
            leave=leave,
            most=self.most,
            matches=i.payload == value,
            forget=forget,
        )
        self.ensure(
            "the word that is watched comes out in its turn", implies(watch.due, o.payload == value)
        )
        self.ensure("nothing comes out that was not put", implies(o.valid, watch.level != 0))
        self.ensure(f"never more than {self.most} words inside", watch.level <= self.most)
        self.ensure(
            "an offer stands until it is taken",
            hold(self, m, o.valid, o.ready, o.payload, "offer", forget),
        )
        if self.level is not None:
            self.ensure("level is the number of words", self.level == watch.level)
        self.cover("full", watch.level == self.most)
        self.cover(
            "the watched word comes out of a full queue", watch.due & (watch.level == self.most)
        )


def _skid(module=skid):
    dut = module.SkidBuffer(4)
    return Queue(dut, dut.i, dut.o, 2, flush=dut.flush)


def _fifo(module=fifo, *, registered=False):
    dut = module.RamFifo(2, 4, registered=registered)
    return Queue(dut, dut.put, dut.take, 5 + registered, level=dut.level)


class _Producer(wiring.Component):
    """In front of a credit buffer: puts what it is offered when there was room a cycle before."""

    def __init__(self, buffer) -> None:
        self.buffer = buffer
        shape = buffer.shape
        super().__init__({"i": In(stream.Signature(shape)), "o": Out(stream.Signature(shape))})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.buffer = buffer = self.buffer
        m.d.sync += self.i.ready.eq(buffer.room)
        m.d.comb += [
            buffer.i.valid.eq(self.i.valid & self.i.ready),
            buffer.i.payload.eq(self.i.payload),
        ]
        wiring.connect(m, buffer.o, wiring.flipped(self.o))
        return m


def _credit(module=credit):
    dut = _Producer(module.CreditBuffer(2))
    return Queue(dut, dut.i, dut.o, 3)


def _shallow(module=shallow):
    dut = module.ShallowQueue(2, 4)
    return Queue(dut, dut.put, dut.take, 4)


class Widening(Harness):
    def __init__(self, module=resize) -> None:
        super().__init__()
        self.dut = module.Widen(2, 6)

    def describe(self, m: Module) -> None:
        m.submodules.dut = dut = self.dut
        i, o = dut.i, dut.o
        m.d.comb += [
            i.valid.eq(self.free(m, 1, "put")),
            i.payload.eq(self.free(m, len(i.payload), "part")),
            o.ready.eq(self.free(m, 1, "take")),
        ]
        enter = i.valid & i.ready
        parts = [Signal(2, name=f"part_{n}") for n in range(2)]
        count = Signal(range(3))
        m.d.sync += count.eq(Mux(enter, Mux(count == 2, 0, count + 1), count))
        for n, part in enumerate(parts):
            with m.If(enter & (count == n)):
                m.d.sync += part.eq(i.payload)
        self.ensure(
            "a word is there with the last of its parts", o.valid == (i.valid & (count == 2))
        )
        self.ensure(
            "parts are in order, the first one lowest",
            implies(o.valid, o.payload == Cat(*parts, i.payload)),
        )
        self.ensure(
            "a part is taken unless its word is not",
            i.ready == ((count != 2) | o.ready),
        )
        self.cover("a word is taken", enter & o.valid)


class Narrowing(Harness):
    def __init__(self, module=resize) -> None:
        super().__init__()
        self.dut = module.Narrow(8, 2)

    def describe(self, m: Module) -> None:
        m.submodules.dut = dut = self.dut
        i, o = dut.i, dut.o
        m.d.comb += [
            i.valid.eq(self.free(m, 1, "put")),
            i.payload.eq(self.free(m, len(i.payload), "word")),
            o.ready.eq(self.free(m, 1, "take")),
        ]
        enter, leave = i.valid & i.ready, o.valid & o.ready
        word, sent = Signal(8), Signal(range(5), init=4)
        with m.If(enter):
            m.d.sync += [word.eq(i.payload), sent.eq(0)]
        with m.Elif(leave):
            m.d.sync += sent.eq(sent + 1)
        self.ensure(
            "a word is taken when the one before is gone", implies(enter, sent + leave == 4)
        )
        self.ensure("parts come while there are any", o.valid == (sent != 4))
        self.ensure(
            "parts are in order, the lowest first",
            implies(o.valid, o.payload == word.word_select(sent[:2], 2)),
        )
        self.ensure(
            "an offer stands until it is taken", hold(self, m, o.valid, o.ready, o.payload, "offer")
        )
        self.cover("a word comes as the last part goes", enter & leave)


_TURN = "the word that is watched comes out in its turn"
PROOFS = (
    Proof(
        "skid",
        _skid,
        (
            Control(
                "ready while both words are full",
                "the word that is watched comes out in its turn",
                lambda: _skid(mutant(skid, "self.i.ready.eq(free)", "self.i.ready.eq(1)")),
            ),
            Control(
                "two words in a row go to one place",
                "the word that is watched comes out in its turn",
                lambda: _skid(mutant(skid, "turn ^ put", "turn")),
            ),
        ),
        quick=True,
    ),
    Proof(
        "credit",
        _credit,
        (
            Control(
                "room whatever is put",
                _TURN,
                lambda: _credit(mutant(credit, "(count == 2) & ~put", "(count == 2)")),
            ),
            Control(
                "the third word is left out",
                _TURN,
                lambda: _credit(mutant(credit, "Mux(oldest[1], 0, oldest + 1)", "~oldest[0]")),
            ),
        ),
        quick=True,
    ),
    Proof(
        "shallow",
        _shallow,
        (
            Control(
                "ready while it is full",
                _TURN,
                lambda: _shallow(
                    mutant(shallow, "self.put.ready.eq(words.w_rdy)", "self.put.ready.eq(1)")
                ),
            ),
        ),
        quick=True,
    ),
    Proof(
        "fifo",
        _fifo,
        (
            Control(
                "one word too many in the ring",
                _TURN,
                lambda: _fifo(mutant(fifo, "self.put.ready.eq(~full)", "self.put.ready.eq(1)")),
            ),
            Control(
                "a word is fetched while another waits",
                _TURN,
                lambda: _fifo(mutant(fifo, "(~loaded | self.take.ready)", "1")),
            ),
        ),
        quick=True,
    ),
    Proof(
        "fifo-registered",
        lambda: _fifo(registered=True),
        (
            Control(
                "the register takes a word while its own waits",
                _TURN,
                lambda: _fifo(mutant(fifo, "~shown | self.take.ready", "1"), registered=True),
            ),
            Control(
                "a word is shown twice",
                _TURN,
                lambda: _fifo(mutant(fifo, "shown.eq(loaded)", "shown.eq(1)"), registered=True),
            ),
        ),
        quick=True,
    ),
    Proof(
        "widen",
        Widening,
        (
            Control(
                "the first part on top",
                "parts are in order, the first one lowest",
                lambda: Widening(
                    mutant(
                        resize,
                        "Cat(*early, self.i.payload)",
                        "Cat(self.i.payload, *early)",
                    )
                ),
            ),
        ),
        quick=True,
    ),
    Proof(
        "narrow",
        Narrowing,
        (
            Control(
                "ready a part too early",
                "a word is taken when the one before is gone",
                lambda: Narrowing(mutant(resize, "~some | (last & self.o.ready)", "~some | last")),
            ),
        ),
        quick=True,
    ),
)
