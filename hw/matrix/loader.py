"""The stationary loader: the front end of the matrix unit, ahead of the streamer."""

from __future__ import annotations

from amaranth import Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from moesaic.hw.arithmetic.countdown import Countdown
from moesaic.hw.interfaces import EXPERT_BITS, ActivationRead
from moesaic.hw.matrix.operand import OperandTile
from moesaic.hw.matrix.stationary import load_layout
from moesaic.hw.matrix.step import MATMUL, job_layout
from moesaic.spec import isa
from moesaic.spec.arch import ArchConfig


class StationaryLoader(wiring.Component):
    """Takes instructions, hands them on as jobs, and loads their tiles one after the other.

    It takes the next instruction when the last word of the last tile has been requested, which
    may be long before the streamer gets there. It holds one tile ready in the shadow store.

    Parameters
    ----------
    arch
        Sizes.

    Attributes
    ----------
    instructions
        Raw MATMULs in program order.
    jobs
        The same, for the streamer.
    token_wait, token_request, token_granted
        Tokens of predicated instructions and of those whose stationary operand is activations.
    ring, fetched, parameters
        Weight ring words; one bit per predicated segment; parameter words to the vector unit.
    operand
        Activations as stationary operand.
    count_request, expert, count
        Looks up a queue's entries: the port must show ``expert`` while ``count_request`` is high
        and ``count`` is taken in its second cycle.
    load, ring_word
        Writes to the shadow store; the operand's data goes there without passing here.
    tile_ready, tile_claim
        The shadow tile is complete, or will be by the rule of :class:`Array`; the
        streamer uses it, so that the next one may be loaded.
    accepted, ring_tile, operand_load
        Events: an instruction was accepted, a tile came from the ring, an operand word was read.
    waiting, active
        Lacks a token; is at work, perhaps on words of an instruction that has ended otherwise.
    discard
        A ring word of an expert without tokens was dropped.
    """

    def __init__(self, arch: ArchConfig) -> None:
        self.arch = arch
        ring_word = 8 * arch.ring_read_bytes
        super().__init__(
            {
                "instructions": In(stream.Signature(MATMUL.size)),
                "jobs": Out(stream.Signature(job_layout())),
                "token_wait": Out(isa.UNIT_COUNT),
                "token_request": Out(1),
                "token_granted": In(1),
                "ring": In(stream.Signature(ring_word)),
                "fetched": In(stream.Signature(1)),
                "parameters": Out(stream.Signature(ring_word)),
                "operand": Out(ActivationRead(arch)),
                "count_request": Out(1),
                "expert": Out(EXPERT_BITS),
                "count": In(range(arch.max_tokens + 1)),
                "load": Out(load_layout(arch)),
                "ring_word": Out(ring_word),
                "tile_ready": Out(1),
                "tile_claim": In(1),
                "accepted": Out(1),
                "ring_tile": Out(1),
                "operand_load": Out(1),
                "waiting": Out(1),
                "active": Out(1),
                "discard": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        arch = self.arch
        self.op = op = Signal(MATMUL)
        rows = Signal.like(op.rows)
        own_tokens, segment, empty = Signal(), Signal(), Signal()
        # Decoded when the instruction is taken.
        from_ring, rows_mode = Signal(), Signal()
        # Beside the state, for much hangs on words of the ring: what they are taken for.
        parameters, ring_tiles, operand_tiles, discards = Signal(), Signal(), Signal(), Signal()
        m.d.comb += [
            own_tokens.eq(op.predicated | ~from_ring),
            segment.eq(op.predicated & (from_ring | op.parameters)),
            empty.eq(rows == 0),
            self.token_wait.eq(op.wait),
            self.expert.eq(op.expert),
        ]
        job = self.jobs.payload
        for name in job_layout().members:
            if name in MATMUL.members:
                m.d.comb += job[name].eq(op[name])
        m.d.comb += [
            job.rows.eq(rows),
            job.taken.eq(own_tokens),
            job.empty.eq(empty),
            job.attention.eq(~from_ring),
        ]

        # Tile bookkeeping: occupied from the last word's request, landed from its arrival.
        occupied, landed = Signal(), Signal()
        tile_requested, tile_landing = Signal(), Signal()
        m.submodules.operand = operand = OperandTile(arch)
        wiring.connect(m, operand.read, wiring.flipped(self.operand))
        m.d.comb += self.tile_ready.eq(landed | tile_landing)
        with m.If(self.tile_claim):
            m.d.sync += [occupied.eq(0), landed.eq(0)]
        with m.Else():
            m.d.sync += [
                occupied.eq(occupied | tile_requested),
                landed.eq(landed | tile_landing),
            ]

        words = Signal(len(op.ring_words))
        beat = Signal(range(max(arch.tile_ring_words, 2)))
        last_beat, word_comes = Signal(init=arch.tile_ring_words == 1), Signal()
        k_tiles = Countdown(len(op.k_tiles), "k_tiles")
        n_tiles = Countdown(len(op.n_tiles), "n_tiles")
        groups = Countdown(len(op.groups), "groups")
        raw = Signal(MATMUL)
        m.d.comb += raw.eq(self.instructions.payload)

        def begin_tile(m: Module) -> None:
            m.d.sync += [ring_tiles.eq(from_ring), operand_tiles.eq(~from_ring)]
            m.next = "TILE"

        def begin_nest(m: Module) -> None:
            with m.If(op.parameters):
                m.d.sync += parameters.eq(1)
                m.next = "PARAMETERS"
            with m.Else():
                begin_tile(m)

        with m.FSM() as fsm:
            with m.State("IDLE"):
                m.d.comb += self.instructions.ready.eq(1)
                m.d.sync += [
                    op.eq(raw),
                    rows.eq(raw.rows),
                    from_ring.eq(raw.stationary == isa.Stationary.RING),
                    rows_mode.eq(raw.stationary == isa.Stationary.ROWS),
                ]
                with m.If(self.instructions.valid):
                    m.d.comb += self.accepted.eq(1)
                    with m.If(raw.predicated | (raw.stationary != isa.Stationary.RING)):
                        m.next = "TOKENS"
                    with m.Else():
                        m.next = "HAND_ON"
            with m.State("TOKENS"):
                m.d.comb += [
                    self.token_request.eq(1),
                    self.waiting.eq(~self.token_granted),
                ]
                with m.If(self.token_granted):
                    with m.If(op.predicated):
                        m.d.sync += self.count_request.eq(1)
                        m.next = "ASK_COUNT"
                    with m.Else():
                        m.next = "HAND_ON"
            with m.State("ASK_COUNT"):
                m.next = "TAKE_COUNT"
            with m.State("TAKE_COUNT"):
                m.d.sync += [rows.eq(self.count), self.count_request.eq(0)]
                m.next = "HAND_ON"
            with m.State("HAND_ON"):
                m.d.comb += [self.jobs.valid.eq(1), operand.start.eq(self.jobs.ready)]
                m.d.sync += [
                    words.eq(Mux(segment & empty, op.ring_words, arch.parameter_ring_words)),
                    *k_tiles.begin(op.k_tiles),
                    *n_tiles.begin(op.n_tiles),
                    *groups.begin(op.groups),
                ]
                with m.If(self.jobs.ready):
                    with m.If(segment):
                        m.next = "SEGMENT"
                    with m.Elif(empty):
                        m.next = "IDLE"
                    with m.Else():
                        begin_nest(m)
            with m.State("SEGMENT"):
                m.d.comb += self.fetched.ready.eq(1)
                with m.If(self.fetched.valid):
                    with m.If(~empty):
                        begin_nest(m)
                    with m.Elif(self.fetched.payload & (words != 0)):
                        m.d.sync += discards.eq(1)
                        m.next = "DISCARD"
                    with m.Else():
                        m.next = "IDLE"
            with m.State("DISCARD"):
                m.d.comb += self.discard.eq(self.ring.valid)
                with m.If(self.ring.valid):
                    m.d.sync += words.eq(words - 1)
                    with m.If(words == 1):
                        m.d.sync += discards.eq(0)
                        m.next = "IDLE"
            with m.State("PARAMETERS"):
                with m.If(self.ring.valid & self.parameters.ready):
                    m.d.sync += words.eq(words - 1)
                    with m.If(words == 1):
                        m.d.sync += [words.eq(arch.parameter_ring_words), parameters.eq(0)]
                        begin_tile(m)
            with m.State("TILE"):
                with m.If(tile_requested):
                    with m.If(k_tiles.last):
                        m.d.sync += k_tiles.restart(op.k_tiles)
                        with m.If(n_tiles.last):
                            m.d.sync += [*n_tiles.restart(op.n_tiles), *groups.step()]
                        with m.Else():
                            m.d.sync += n_tiles.step()
                        with m.If(n_tiles.last & groups.last):
                            m.d.sync += [ring_tiles.eq(0), operand_tiles.eq(0)]
                            m.next = "IDLE"
                        with m.Elif(op.parameters):
                            m.d.sync += [ring_tiles.eq(0), operand_tiles.eq(0), parameters.eq(1)]
                            m.next = "PARAMETERS"
                    with m.Else():
                        m.d.sync += k_tiles.step()

        with m.If(ring_tiles):
            m.d.comb += [
                word_comes.eq(self.ring.valid & ~occupied),
                self.load.valid.eq(word_comes),
                self.ring_tile.eq(word_comes & last_beat),
            ]
            with m.If(word_comes):
                m.d.sync += [
                    beat.eq(Mux(last_beat, 0, beat + 1)),
                    last_beat.eq(~last_beat & (beat + 2 == arch.tile_ring_words))
                    if arch.tile_ring_words > 1
                    else [],
                ]
        m.d.comb += [
            self.ring.ready.eq(
                (ring_tiles & ~occupied) | (parameters & self.parameters.ready) | discards
            ),
            self.parameters.valid.eq(parameters & self.ring.valid),
            operand.enable.eq(operand_tiles & ~occupied),
            tile_requested.eq(self.ring_tile | operand.requested),
            self.active.eq(~fsm.ongoing("IDLE")),
            self.parameters.payload.eq(self.ring.payload),
            self.ring_word.eq(self.ring.payload),
            operand.rows_mode.eq(rows_mode),
            operand.base.eq(op.stationary_base),
            operand.stride.eq(op.stationary_stride),
            operand.existing.eq(op.stationary_rows),
            operand.last_k.eq(k_tiles.last),
            self.operand_load.eq(operand.read.valid & operand.read.ready),
            tile_landing.eq(self.ring_tile | operand.landed),
        ]
        with m.If(operand.load.valid):
            m.d.comb += self.load.eq(operand.load)
        with m.Else():
            m.d.comb += [self.load.ring.eq(1), self.load.beat.eq(beat)]
        return m
