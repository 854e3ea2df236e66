"""The streamer's gate: requests wait here for a tile, a bank and the activation port."""

from __future__ import annotations

from amaranth import Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from moesaic.hw.interfaces import ActivationRead
from moesaic.hw.matrix.step import PASS_DISTANCE, request_layout, step_layout
from moesaic.hw.matrix.walker import REQUEST_SLOTS
from moesaic.hw.memory.shallow import ShallowQueue
from moesaic.spec.arch import ArchConfig


class Issue(wiring.Component):
    """Issues one request per cycle, in order, as soon as nothing it needs is missing.

    From here on a word's way through the unit has fixed timing: it never waits again. The
    scratchpad must take every read at once; ``read`` and ``step`` are registers, a cycle behind
    the decision.

    Parameters
    ----------
    arch
        Sizes.

    Attributes
    ----------
    requests
        From the walker, at most ``REQUEST_SLOTS`` at a time.
    taken
        A request is issued: ``step`` holds it in the next cycle.
    read
        Port of the activation scratchpad; the array takes its data.
    step
        The issued step; all zero in other cycles.
    tile_ready, tile_claim
        The next stationary tile is complete; it is put to use.
    bank_free, bank_claim
        See :class:`Accumulators`.
    streaming, attention, wait_tile, wait_bank, stalled
        For the counters: a word was requested; it was one of an attention product; a request
        waits for a tile, for a bank, for anything.
    """

    def __init__(self, arch: ArchConfig) -> None:
        self.arch = arch
        super().__init__(
            {
                "requests": In(stream.Signature(request_layout(arch), always_ready=True)),
                "taken": Out(1),
                "read": Out(ActivationRead(arch)),
                "step": Out(step_layout(arch)),
                "tile_ready": In(1),
                "tile_claim": Out(1),
                "bank_free": In(2),
                "bank_claim": Out(2),
                "streaming": Out(1),
                "attention": Out(1),
                "wait_tile": Out(1),
                "wait_bank": Out(1),
                "stalled": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        # The queue's RAM alone has a place for every request, so that it is always ready.
        m.submodules.queue = queue = ShallowQueue(request_layout(self.arch), REQUEST_SLOTS + 2)
        head, here = queue.take.payload, queue.take.valid
        m.d.comb += [
            queue.put.payload.eq(self.requests.payload),
            queue.put.valid.eq(self.requests.valid),
            queue.take.ready.eq(self.taken),
        ]

        # Whether the bank whose turn it is is free, as of the cycle before: it is claimed by nobody
        # else.
        bank, free, next_bank = Signal(), Signal(init=1), Signal()
        # Idle cycles that the last request asks for; whether they are over.
        pause, rested = Signal(range(PASS_DISTANCE)), Signal(init=1)
        bank_ok, tile_ok = Signal(), Signal()
        m.d.comb += [
            bank_ok.eq(~head.group_start | free),
            next_bank.eq(self.taken & head.step.group_last),
            tile_ok.eq(~head.step.swap | self.tile_ready),
            self.taken.eq(here & bank_ok & tile_ok & rested),
        ]
        with m.If(self.taken):
            m.d.sync += [pause.eq(head.pause), rested.eq(head.pause == 0)]
        with m.Elif(~rested):
            m.d.sync += [pause.eq(pause - 1), rested.eq(pause == 1)]
        m.d.sync += [
            bank.eq(bank ^ next_bank),
            free.eq(
                Mux(
                    next_bank,
                    self.bank_free.bit_select(~bank, 1),
                    self.bank_free.bit_select(bank, 1),
                )
            ),
        ]

        m.d.sync += [
            self.read.valid.eq(self.taken & head.step.word),
            self.read.address.eq(head.address),
            self.step.eq(head.step),
            self.step.bank.eq(bank),
        ]
        # Of a step that is none, these would be taken for one.
        for name in ("word", "swap", "track", "group_last", "last"):
            m.d.sync += self.step[name].eq(self.taken & head.step[name])
        m.d.comb += [
            self.tile_claim.eq(self.taken & head.step.swap),
            self.bank_claim.eq(Mux(self.taken & head.group_start, 1 << bank, 0)),
            self.streaming.eq(self.taken & head.step.word),
            self.attention.eq(self.streaming & head.attention),
            self.wait_bank.eq(here & ~bank_ok),
            self.wait_tile.eq(here & bank_ok & ~tile_ok),
            self.stalled.eq(here & ~self.taken),
        ]
        return m
