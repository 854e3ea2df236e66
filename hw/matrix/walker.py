"""The loop nest of the streamer: which activation word meets which tile and goes where."""

from __future__ import annotations

from amaranth import Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from moesaic.hw.interfaces import QueueRead
from moesaic.hw.matrix.step import PASS_DISTANCE, job_layout, request_layout, row_bits
from moesaic.spec import isa
from moesaic.spec.arch import ArchConfig

REQUEST_SLOTS = 8
"""Requests that may be on their way or waiting: covers the walker's pipeline."""


class Walker(wiring.Component):
    """Turns jobs into one request per streamed word, one per cycle.

    Requests come three cycles after their step of the loop; ``taken`` frees a slot. A job's tokens
    are taken here unless the loader has done it. An empty job makes one request without a word,
    so that its tokens are given in order.

    Parameters
    ----------
    arch
        Sizes.

    Attributes
    ----------
    jobs
        From the loader.
    token_wait, token_want, token_granted, token_taken
        The tokens of the next job, asked for while the last one is still at work; one cycle for
        every job whose tokens are taken here, though it may have none.
    waiting
        Nothing is at work, and the next job lacks tokens.
    queue, queue_hold
        Expert queues for ``gather``; while ``queue_hold`` is high somebody else drives the port.
    requests
        ``valid`` is a pulse: there is always room, and no ready.
    taken
        A request has left the waiting line.
    idle
        No job.
    """

    def __init__(self, arch: ArchConfig) -> None:
        self.arch = arch
        super().__init__(
            {
                "jobs": In(stream.Signature(job_layout())),
                "token_wait": Out(isa.UNIT_COUNT),
                "token_want": Out(1),
                "token_granted": In(1),
                "token_taken": Out(1),
                "waiting": Out(1),
                "queue": Out(QueueRead(arch)),
                "queue_hold": In(1),
                "requests": Out(stream.Signature(request_layout(arch), always_ready=True)),
                "taken": In(1),
                "idle": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        self.job = job = Signal(job_layout())
        # `planes`: this k-tile and those before it have two planes; `planar`: and are streamed so.
        self.planes, self.planar = Signal(), Signal()
        planar = self.planar
        # Loop counters, the accumulator row of row 0, valid columns from this n-tile on, and the
        # activation words of row 0 for this k-tile and for this plane of it.
        self.row = row = Signal(job_layout()["rows"].shape)
        self.plane = plane = Signal()
        self.k, self.n = Signal(len(job.k_tiles)), Signal(len(job.n_tiles))
        self.group = Signal(len(job.groups))
        self.first_row_address = Signal(row_bits(self.arch))
        self.columns = Signal(len(job.stationary_rows))
        self.k_word, self.word = Signal(len(job.stream_base)), Signal(len(job.stream_base))
        walking, advance = Signal(), Signal()
        slots = Signal(range(REQUEST_SLOTS + 1), init=REQUEST_SLOTS)
        m.d.sync += slots.eq(slots + self.taken - advance)
        m.d.comb += [
            planar.eq((job.streamed == isa.Streamed.SIGNED16) & self.planes),
            advance.eq(walking & (slots != 0) & ~self.queue_hold),
        ]

        last_row, last_plane = Signal(), Signal()
        last_k, last_n, last_group = Signal(), Signal(), Signal()
        finished = Signal()
        m.d.comb += [
            last_row.eq((row + 1 == job.rows) | job.empty),
            last_plane.eq(plane | ~planar | job.empty),
            last_k.eq((self.k + 1 == job.k_tiles) | job.empty),
            last_n.eq((self.n + 1 == job.n_tiles) | job.empty),
            last_group.eq((self.group + 1 == job.groups) | job.empty),
            finished.eq(last_row & last_plane & last_k & last_n & last_group),
        ]

        following = self.jobs.payload
        lacking = Signal()
        m.d.comb += [
            self.token_wait.eq(following.wait),
            self.token_want.eq(self.jobs.valid & ~following.taken & following.wait.any()),
            lacking.eq(self.token_want & ~self.token_granted),
        ]
        with m.FSM() as fsm:
            with m.State("IDLE"):
                m.d.comb += [
                    self.jobs.ready.eq(~lacking),
                    self.token_taken.eq(self.jobs.valid & ~lacking & ~following.taken),
                    self.waiting.eq(lacking),
                ]
                with m.If(self.jobs.valid & ~lacking):
                    m.d.sync += [
                        job.eq(self.jobs.payload),
                        self.columns.eq(self.jobs.payload.stationary_rows),
                        self.planes.eq(1),
                        self.k_word.eq(self.jobs.payload.stream_base),
                        self.word.eq(self.jobs.payload.stream_base),
                    ]
                    m.next = "WALK"
            with m.State("WALK"):
                m.d.comb += walking.eq(1)
                with m.If(advance & finished):
                    m.next = "IDLE"
        m.d.comb += self.idle.eq(fsm.ongoing("IDLE") & ~self.jobs.valid)
        with m.If(advance):
            self._count(m, last_row, last_plane, last_k, last_n, last_group)
        self._emit(m, advance, last_row & last_plane & last_k, last_n, finished)
        return m

    def _count(
        self,
        m: Module,
        last_row: Signal,
        last_plane: Signal,
        last_k: Signal,
        last_n: Signal,
        last_group: Signal,
    ) -> None:
        job = self.job
        # Behind the last tile with a high plane only the low plane goes on, where `word` is then.
        leaves_planes, next_word = Signal(), Signal.like(self.word)
        m.d.comb += [
            leaves_planes.eq(self.k == job.last_wide),
            next_word.eq(Mux(self.planar & leaves_planes, self.word, self.k_word) + 1),
        ]
        m.d.sync += self.row.eq(self.row + 1)
        with m.If(last_row):
            m.d.sync += [self.row.eq(0), self.plane.eq(~last_plane)]
            with m.If(~last_plane):
                m.d.sync += self.word.eq(self.word + job.plane_stride)
            with m.Elif(~last_k):
                m.d.sync += [self.k.eq(self.k + 1), self.k_word.eq(next_word)]
                m.d.sync += [self.word.eq(next_word), self.planes.eq(self.planes & ~leaves_planes)]
            with m.Else():
                m.d.sync += [
                    self.k.eq(0),
                    self.planes.eq(1),
                    self.k_word.eq(job.stream_base),
                    self.word.eq(job.stream_base),
                    self.n.eq(Mux(last_n, 0, self.n + 1)),
                    self.first_row_address.eq(Mux(last_n, 0, self.first_row_address + job.rows)),
                    self.columns.eq(
                        Mux(self.columns > self.arch.width, self.columns - self.arch.width, 0)
                    ),
                ]
                with m.If(last_n):
                    m.d.sync += self.group.eq(Mux(last_group, 0, self.group + 1))

    def _emit(
        self, m: Module, advance: Signal, n_end: Signal, last_n: Signal, finished: Signal
    ) -> None:
        """Request pipeline: queue look-up, times stride, plus base."""
        job, row, width = self.job, self.row, self.arch.width
        m.d.comb += [self.queue.expert.eq(job.expert), self.queue.index.eq(row)]

        shape = request_layout(self.arch)
        stages = [Signal(shape, name=f"request{i}") for i in range(3)]
        valid = Signal(3)
        m.d.sync += [valid.eq((valid << 1) | advance)]
        m.d.sync += [later.eq(earlier) for earlier, later in zip(stages, stages[1:], strict=False)]

        start = Signal()
        m.d.comb += start.eq((row == 0) & (self.k == 0) & ~self.plane)
        entry, step = stages[0], stages[0].step
        high = self.planar & ~self.plane
        final = (self.k + 1 == job.k_tiles) & (self.plane | ~self.planar)
        columns = Mux(self.columns > width, width, self.columns)
        m.d.sync += [
            entry.pause.eq(
                Mux(
                    (row == 0) & (job.rows < PASS_DISTANCE) & ~job.empty,
                    PASS_DISTANCE - job.rows,
                    0,
                )
            ),
            entry.group_start.eq(start & (self.n == 0) & ~job.empty),
            entry.attention.eq(job.attention),
            step.word.eq(~job.empty),
            step.swap.eq((row == 0) & ~self.plane & ~job.empty),
            step.is_signed.eq(high | (job.streamed == isa.Streamed.SIGNED8)),
            step.high.eq(high),
            step.overwrite.eq((self.k == 0) & ~self.plane),
            step.track.eq(job.track_maximum & final & ~job.empty),
            step.first.eq(self.n == 0),
            step.group_last.eq(n_end & last_n & ~job.empty),
            step.last.eq(finished),
            step.columns.eq(columns),
            step.address.eq(self.first_row_address + row),
            step.row.eq(row),
            step.signal.eq(job.signal),
        ]

        # The queue's token comes one cycle after the index, in step with stages[0].
        index, gather, stride = Signal.like(row), Signal(), Signal(len(job.stream_stride))
        words = [Signal(len(self.word), name=f"word{i}") for i in range(2)]
        product, address = Signal(len(index) + len(stride)), Signal(len(self.word))
        m.d.sync += [
            index.eq(row),
            gather.eq(job.gather),
            stride.eq(job.stream_stride),
            words[0].eq(self.word),
            words[1].eq(words[0]),
            product.eq(Mux(gather, self.queue.token, index) * stride),
            address.eq(words[1] + product),
        ]
        m.d.comb += [
            self.requests.valid.eq(valid[2]),
            self.requests.payload.eq(stages[2]),
            self.requests.payload.address.eq(address),
        ]
