"""The stationary loader: the front end of the matrix unit, ahead of the streamer."""

from __future__ import annotations

from amaranth import Const, Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from moesaic.hw.arithmetic.countdown import Countdown
from moesaic.hw.interfaces import EXPERT_BITS, ActivationRead
from moesaic.hw.matrix.codes import TileCodes
from moesaic.hw.matrix.operand import OperandTile
from moesaic.hw.matrix.stationary import load_layout
from moesaic.hw.matrix.step import JOB_LOOPS, MATMUL, PASS_DISTANCE, job_layout
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
    count_soon, count_request, expert, count
        ``count_request``, a cycle after ``count_soon``, looks up a queue's entries: the port must
        show ``expert`` while it is high and ``count`` is taken in its second cycle.
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
                "count_soon": Out(1),
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
        # Beside the state too: IDLE, TOKENS, HAND_ON.
        idle, asks, hands_on = Signal(init=1), Signal(), Signal()
        m.d.comb += [
            own_tokens.eq(op.predicated | ~from_ring),
            segment.eq(op.predicated & (from_ring | op.parameters)),
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
            job.waits.eq(~own_tokens & op.wait.any()),
            job.empty.eq(empty),
            job.pause.eq(Mux((rows < PASS_DISTANCE) & ~empty, PASS_DISTANCE - rows, 0)),
            job.attention.eq(~from_ring),
            job.sixteen.eq((op.streamed == isa.Streamed.SIGNED16) & ~empty),
            job.only_wide.eq(op.last_wide == 0),
        ]
        for name in JOB_LOOPS:
            steps = rows if name == "rows" else op[name]
            m.d.comb += [
                job[f"more_{name}"].eq(Mux(empty, 0, steps - 1)),
                job[f"only_{name}"].eq((steps == 1) | empty),
            ]

        # Tile bookkeeping: occupied from the last word's request, landed from its arrival.
        occupied, landed = Signal(), Signal()
        still_occupied, operand_next, operand_open = Signal(), Signal(), Signal()
        tile_requested, tile_landing = Signal(), Signal()
        m.submodules.operand = operand = OperandTile(arch)
        wiring.connect(m, operand.read, wiring.flipped(self.operand))
        # A tile of the ring is requested, in the shadow store, and complete, all in one cycle; with
        # a register between, when its last word leaves that.
        codes, stored = None, self.ring_tile
        shadowing = tile_requested
        if arch.four_bit_weights:
            m.submodules.codes = codes = TileCodes(arch)
            stored = Signal(name="ring_tile_stored")
            m.d.comb += codes.ready_next.eq(~still_occupied)
            shadowing = stored | operand.requested
        m.d.comb += self.tile_ready.eq(landed | tile_landing)
        m.d.comb += still_occupied.eq(~self.tile_claim & (occupied | shadowing))
        m.d.sync += [
            occupied.eq(still_occupied),
            landed.eq(~self.tile_claim & (landed | tile_landing)),
            # An operand's tile may be read: much hangs on it.
            # And not while a word of the ring is, or may come to be, in between.
            operand_open.eq(operand_next & ~still_occupied & ~(ring_tiles | codes.o.valid))
            if codes
            else operand_open.eq(operand_next & ~still_occupied),
        ]

        words, no_words = Countdown(len(op.ring_words), "words"), Signal()
        block_words = Const(arch.parameter_ring_words)
        block = Countdown(len(block_words), "block")
        beat = Signal(range(max(arch.tile_ring_words, 2)))
        last_beat, word_comes = Signal(init=arch.tile_ring_words == 1), Signal()
        k_tiles = Countdown(len(op.k_tiles), "k_tiles")
        n_tiles = Countdown(len(op.n_tiles), "n_tiles")
        groups = Countdown(len(op.groups), "groups")
        raw = Signal(MATMUL)
        m.d.comb += raw.eq(self.instructions.payload)
        of_ring = raw.stationary == isa.Stationary.RING
        of_activations = raw.stationary != isa.Stationary.RING
        if arch.four_bit_weights:
            of_ring = raw.stationary.matches(*isa.FROM_RING)
            of_activations = ~of_ring

        parameter_word = Signal()

        def rest(m: Module) -> None:
            m.d.sync += idle.eq(1)
            m.next = "IDLE"

        def begin_tile(m: Module) -> None:
            m.d.sync += ring_tiles.eq(from_ring)
            m.d.comb += operand_next.eq(~from_ring)
            m.next = "TILE"

        def begin_nest(m: Module) -> None:
            with m.If(op.parameters):
                m.d.sync += parameters.eq(1)
                m.next = "PARAMETERS"
            with m.Else():
                begin_tile(m)

        m.d.comb += operand_next.eq(operand_tiles)
        m.d.sync += operand_tiles.eq(operand_next)
        with m.FSM():
            with m.State("IDLE"):
                with m.If(self.instructions.valid):
                    m.d.comb += self.accepted.eq(1)
                    m.d.sync += idle.eq(0)
                    with m.If(raw.predicated | of_activations):
                        m.d.sync += asks.eq(1)
                        m.next = "TOKENS"
                    with m.Else():
                        m.d.sync += hands_on.eq(1)
                        m.next = "HAND_ON"
            with m.State("TOKENS"):
                with m.If(self.token_granted):
                    m.d.sync += asks.eq(0)
                    with m.If(op.predicated):
                        m.d.comb += self.count_soon.eq(1)
                        m.next = "ASK_COUNT"
                    with m.Else():
                        m.d.sync += hands_on.eq(1)
                        m.next = "HAND_ON"
            with m.State("ASK_COUNT"):
                m.d.comb += self.count_soon.eq(1)
                m.next = "TAKE_COUNT"
            with m.State("TAKE_COUNT"):
                m.d.sync += [rows.eq(self.count), empty.eq(self.count == 0), hands_on.eq(1)]
                m.next = "HAND_ON"
            with m.State("HAND_ON"):
                with m.If(self.jobs.ready):
                    m.d.sync += hands_on.eq(0)
                    with m.If(segment):
                        m.next = "SEGMENT"
                    with m.Elif(empty):
                        rest(m)
                    with m.Else():
                        begin_nest(m)
            with m.State("SEGMENT"):
                m.d.comb += self.fetched.ready.eq(1)
                with m.If(self.fetched.valid):
                    with m.If(~empty):
                        begin_nest(m)
                    with m.Elif(self.fetched.payload & ~no_words):
                        m.d.sync += discards.eq(1)
                        m.next = "DISCARD"
                    with m.Else():
                        rest(m)
            with m.State("DISCARD"):
                with m.If(self.discard & words.last):
                    m.d.sync += discards.eq(0)
                    rest(m)
            with m.State("PARAMETERS"):
                with m.If(parameter_word & block.last):
                    m.d.sync += parameters.eq(0)
                    begin_tile(m)
            with m.State("TILE"):
                with m.If(tile_requested & k_tiles.last):
                    with m.If(n_tiles.last & groups.last):
                        m.d.sync += ring_tiles.eq(0)
                        m.d.comb += operand_next.eq(0)
                        rest(m)
                    with m.Elif(op.parameters):
                        m.d.sync += [ring_tiles.eq(0), parameters.eq(1)]
                        m.d.comb += operand_next.eq(0)
                        m.next = "PARAMETERS"

        # Tiles are requested in TILE only. An operand's tile is followed by another one after it
        # has landed at the earliest: there is time to count it a cycle late.
        operand_ends = Signal()
        m.d.sync += operand_ends.eq(operand.requested & k_tiles.last)
        with m.If(tile_requested):
            m.d.sync += k_tiles.step()
            with m.If(k_tiles.last):
                m.d.sync += k_tiles.restart(op.k_tiles - 1)
        with m.If((self.ring_tile & k_tiles.last) | operand_ends):
            m.d.sync += n_tiles.step()
            with m.If(n_tiles.last):
                m.d.sync += [*n_tiles.restart(op.n_tiles - 1), *groups.step()]
        with m.If(self.discard):
            m.d.sync += words.step()
        with m.If(parameter_word):
            m.d.sync += block.step()
        with m.If(idle):
            # What is there while nothing is taken does no harm.
            m.d.sync += [
                op.eq(raw),
                rows.eq(raw.rows),
                empty.eq(raw.rows == 0),
                from_ring.eq(of_ring),
                rows_mode.eq(raw.stationary == isa.Stationary.ROWS),
            ]
        with m.If(parameter_word & block.last):
            m.d.sync += block.begin(block_words)
        with m.If(hands_on):
            m.d.sync += [
                *words.begin(op.ring_words),
                no_words.eq(op.ring_words == 0),
                *block.begin(block_words),
                *k_tiles.begin(op.k_tiles),
                *n_tiles.begin(op.n_tiles),
                *groups.begin(op.groups),
            ]
        m.d.sync += self.count_request.eq(self.count_soon)
        m.d.comb += [
            self.instructions.ready.eq(idle),
            self.discard.eq(discards & self.ring.valid),
            parameter_word.eq(parameters & self.ring.valid & self.parameters.ready),
            self.token_request.eq(asks),
            self.waiting.eq(asks & ~self.token_granted),
            self.jobs.valid.eq(hands_on),
            operand.start.eq(hands_on),
        ]
        ring_word, load_beat, tile_word_taken = self.ring.payload, beat, ring_tiles & ~occupied
        if codes:
            halves = Signal()
            with m.If(idle):
                m.d.sync += halves.eq(raw.stationary == isa.Stationary.RING4)
            load_beat, ring_word = codes.o.payload.beat, codes.o.payload.word
            tile_word_taken = ring_tiles & codes.i.ready
            m.d.comb += [
                codes.i.payload.eq(self.ring.payload),
                codes.i.valid.eq(self.ring.valid & ring_tiles),
                codes.halves.eq(halves),
                codes.beat.eq(beat),
                codes.last.eq(last_beat),
                codes.o.ready.eq(~occupied),
                self.load.valid.eq(codes.o.valid & ~occupied),
                stored.eq(codes.final & ~occupied),
            ]
        with m.If(ring_tiles):
            m.d.comb += [
                word_comes.eq(codes.entered if codes else self.ring.valid & ~occupied),
                [] if codes else self.load.valid.eq(word_comes),
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
            self.ring.ready.eq(tile_word_taken | (parameters & self.parameters.ready) | discards),
            self.parameters.valid.eq(parameters & self.ring.valid),
            operand.enable.eq(operand_open),
            tile_requested.eq(self.ring_tile | operand.requested),
            self.active.eq(~idle),
            self.parameters.payload.eq(self.ring.payload),
            self.ring_word.eq(ring_word),
            operand.rows_mode.eq(rows_mode),
            operand.base.eq(op.stationary_base),
            operand.stride.eq(op.stationary_stride),
            operand.existing.eq(op.stationary_rows),
            operand.last_k.eq(k_tiles.last),
            self.operand_load.eq(operand.load.valid),
            tile_landing.eq(stored | operand.landed),
        ]
        with m.If(operand.load.valid):
            m.d.comb += self.load.eq(operand.load)
        with m.Else():
            m.d.comb += [self.load.ring.eq(1), self.load.beat.eq(load_beat)]
        return m
