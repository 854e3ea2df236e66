"""The matrix unit: loader, streamer, array and accumulators."""

from __future__ import annotations

from amaranth import Cat, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from moesaic.hw.interfaces import AccumulatorRead, ActivationRead, InstructionPort, QueueRead
from moesaic.hw.matrix.accumulators import STEP_TO_SUMS_CYCLES, Accumulators
from moesaic.hw.matrix.array import Array
from moesaic.hw.matrix.issue import Issue
from moesaic.hw.matrix.loader import StationaryLoader
from moesaic.hw.matrix.step import MATMUL, Timing, job_layout, step_layout
from moesaic.hw.matrix.walker import Walker
from moesaic.hw.memory.half import HalfBuffer
from moesaic.hw.memory.shallow import ShallowQueue
from moesaic.spec.arch import ArchConfig

EVENTS = (
    "matrix_stream_words",
    "matrix_ring_tiles",
    "matrix_operand_loads",
    "attention_stream_words",
    "matrix_wait_tile",
    "matrix_wait_bank",
)
"""Names of the counters that this unit drives, one-cycle pulses each."""
JOB_SLOTS = 4
"""Instructions between loader and streamer: one under way and a few empty ones."""
_UNFINISHED_MAX = 64


class MatrixUnit(wiring.Component):
    """Executes MATMUL (``docs/architecture.md``, Matrix unit).

    One word per cycle and no pause between tiles as long as tiles load in time: the tile after
    the one in use is loaded while ``max(rows, PASS_DISTANCE)`` words per plane are streamed.

    Parameters
    ----------
    arch
        Sizes.

    Attributes
    ----------
    control
        Instructions and tokens.
    ring, fetched
        Words of the weight ring; one bit per predicated segment, high if its words are there.
    stream_read, stationary_read
        Activation ports of the streamed and of the stationary operand. The first one must take
        every read at once.
    queue
        Expert queues: counts and token indices.
    parameters
        Parameter words on their way to the vector unit.
    accumulators
        The vector unit's read port.
    discard
        A ring word of an expert without tokens was dropped.
    events
        Counter pulses.
    """

    def __init__(self, arch: ArchConfig) -> None:
        self.arch = arch
        ring_word = 8 * arch.ring_read_bytes
        super().__init__(
            {
                "control": In(InstructionPort()),
                "ring": In(stream.Signature(ring_word)),
                "fetched": In(stream.Signature(1)),
                "stream_read": Out(ActivationRead(arch)),
                "stationary_read": Out(ActivationRead(arch)),
                "queue": Out(QueueRead(arch)),
                "parameters": Out(stream.Signature(ring_word)),
                "accumulators": In(AccumulatorRead(arch)),
                "discard": Out(1),
                "events": Out(data.StructLayout({name: 1 for name in EVENTS})),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        arch = self.arch
        timing = Timing(arch)
        m.submodules.loader = loader = StationaryLoader(arch)
        m.submodules.walker = walker = Walker(arch)
        m.submodules.issue = issue = Issue(arch)
        m.submodules.array = array = Array(arch)
        m.submodules.accumulate = accumulate = Accumulators(arch)
        m.submodules.jobs = jobs = ShallowQueue(job_layout(), JOB_SLOTS)

        wiring.connect(m, wiring.flipped(self.ring), loader.ring)
        m.submodules.outcome = outcome = HalfBuffer(1)
        wiring.connect(m, wiring.flipped(self.fetched), outcome.i)
        wiring.connect(m, outcome.o, loader.fetched)
        # The next instruction is here already: the dispatcher does not hang on the loader.
        m.submodules.following = following = HalfBuffer(MATMUL.size)
        m.d.comb += [
            following.i.valid.eq(self.control.queue.valid),
            following.i.payload.eq(self.control.queue.payload),
            self.control.queue.ready.eq(following.i.ready),
        ]
        wiring.connect(m, following.o, loader.instructions)
        wiring.connect(m, loader.parameters, wiring.flipped(self.parameters))
        wiring.connect(m, loader.operand, wiring.flipped(self.stationary_read))
        wiring.connect(m, issue.read, wiring.flipped(self.stream_read))
        wiring.connect(m, wiring.flipped(self.accumulators), accumulate.port)
        wiring.connect(m, walker.requests, issue.requests)
        wiring.connect(m, loader.jobs, jobs.put)
        wiring.connect(m, jobs.take, walker.jobs)
        m.d.comb += [
            walker.taken.eq(issue.taken),
            issue.tile_ready.eq(loader.tile_ready),
            loader.tile_claim.eq(issue.tile_claim),
            self.discard.eq(loader.discard),
            issue.bank_free.eq(accumulate.bank_free),
            accumulate.claim.eq(issue.bank_claim),
        ]

        # The queue port is the walker's, save for the two cycles of a count look-up.
        m.d.comb += [
            walker.queue_hold.eq(loader.count_soon),
            self.queue.expert.eq(Mux(loader.count_request, loader.expert, walker.queue.expert)),
            self.queue.index.eq(walker.queue.index),
            walker.queue.token.eq(self.queue.token),
            loader.count.eq(self.queue.count),
        ]

        # Fixed timing from the issue on.
        step = issue.step
        for i in range(1, timing.add - STEP_TO_SUMS_CYCLES + 1):
            later = Signal(step_layout(arch), name=f"step{i}")
            m.d.sync += later.eq(step)
            step = later
            if i == timing.arrive:
                m.d.comb += [
                    array.valid.eq(step.word),
                    array.swap.eq(step.swap),
                    array.is_signed.eq(step.is_signed),
                ]
        m.d.comb += [
            array.word.eq(self.stream_read.data),
            array.load.eq(loader.load),
            array.ring_word.eq(loader.ring_word),
            array.operand_word.eq(self.stationary_read.data),
            accumulate.step.eq(step),
            accumulate.sums.eq(array.sums),
        ]
        self._tokens(m, loader, walker, issue, accumulate)
        m.d.sync += [
            self.events.matrix_stream_words.eq(issue.streaming),
            self.events.matrix_ring_tiles.eq(loader.ring_tile),
            self.events.matrix_operand_loads.eq(loader.operand_load),
            self.events.attention_stream_words.eq(issue.attention),
            self.events.matrix_wait_tile.eq(issue.wait_tile),
            self.events.matrix_wait_bank.eq(issue.wait_bank),
        ]
        return m

    def _tokens(
        self,
        m: Module,
        loader: StationaryLoader,
        walker: Walker,
        issue: Issue,
        accumulate: Accumulators,
    ) -> None:
        """Tokens in program order: the loader's turn is when the streamer owes none."""
        control = self.control
        owed = Signal(JOB_SLOTS + 1)  # jobs that owe, as so many ones from below
        mine = Signal()
        owing = loader.jobs.valid & loader.jobs.ready & ~loader.jobs.payload.taken
        m.d.sync += [
            owed.eq(
                Mux(
                    owing == walker.token_taken,
                    owed,
                    Mux(owing, Cat(1, owed)[:-1], owed >> 1),
                )
            ),
        ]
        m.d.comb += mine.eq(~owed[0])
        m.d.comb += [
            control.wait.eq(Mux(mine, loader.token_wait, walker.token_wait)),
            control.want.eq(Mux(mine, loader.token_request, walker.token_want)),
            loader.token_granted.eq(mine & control.granted),
            walker.token_granted.eq(~mine & control.granted),
            control.take.eq(
                Mux(
                    mine,
                    loader.token_request & control.granted,
                    walker.token_due & (control.granted | ~walker.token_want),
                )
            ),
            control.give.eq(accumulate.done),
            control.signal.eq(accumulate.signal),
        ]

        unfinished = Signal(range(_UNFINISHED_MAX))
        m.d.sync += unfinished.eq(unfinished + loader.accepted - accumulate.done)
        m.d.comb += [
            control.busy.eq(
                (unfinished != 0) | loader.active | loader.instructions.valid | control.queue.valid
            ),
        ]
        # Counted a cycle late: these come late in their cycle.
        m.d.sync += [
            control.working.eq(issue.streaming),
            control.stalled.eq(issue.stalled),
            control.wait_token.eq(
                ~issue.streaming
                & ~issue.stalled
                & (walker.waiting | (loader.waiting & walker.idle))
            ),
        ]
