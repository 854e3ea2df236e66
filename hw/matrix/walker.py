"""The loop nest of the streamer: which activation word meets which tile and goes where."""

from __future__ import annotations

from amaranth import Cat, Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from moesaic.hw.arithmetic.countdown import Countdown
from moesaic.hw.interfaces import QueueRead
from moesaic.hw.matrix.step import PASS_DISTANCE, job_layout, request_layout, row_bits
from moesaic.spec import isa
from moesaic.spec.arch import ArchConfig

REQUEST_SLOTS = 9
"""Requests that may be on their way or waiting: covers the walker's pipeline, and the cycle after
which a slot counts as free."""

_STAGES = 4
"""From a step of the loop to its request: queue, row, product, address."""


class Walker(wiring.Component):
    """Turns jobs into one request per streamed word, one per cycle.

    Requests come four cycles after their step of the loop; ``taken`` frees a slot. A job's tokens
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
    token_due
        The next job begins in this cycle if it has its tokens, or needs none.
    waiting
        Nothing is at work, and the next job lacks tokens.
    queue, queue_hold
        Expert queues for ``gather``; in the cycle after one with ``queue_hold`` somebody else
        drives the port.
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
                "token_due": Out(1),
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
        width_log2 = self.arch.width.bit_length() - 1
        self.job = job = Signal(job_layout())
        # `planes`: this k-tile and those before it have two planes; `planar`: and are streamed so.
        self.planes, self.planar = Signal(), Signal()
        # The job has words of 16 bits; and this k-tile is the last one with two planes: the next
        # word is behind the low plane. Registers.
        self.signed16, self.from_low = Signal(), Signal()
        # This plane is the k-tile's last one: `plane` or not `planar`, a cycle ahead.
        self.last_plane = Signal()
        planar = self.planar
        # Loop counters, the accumulator row of row 0, and the activation words of row 0 for this
        # k-tile and for this plane of it.
        self.row = row = Signal(job_layout()["rows"].shape)
        self.plane = plane = Signal()
        self.rows_left = Countdown(len(job.rows), "rows")
        self.k_tiles = Countdown(len(job.more_k_tiles), "k_tiles")
        self.n_tiles = Countdown(len(job.more_n_tiles), "n_tiles")
        self.groups = Countdown(len(job.more_groups), "groups")
        self.wide_left = Countdown(len(job.last_wide), "wide")
        self.first_row, self.first_k, self.first_n = Signal(), Signal(), Signal()
        self.pause = Signal(range(PASS_DISTANCE))
        self.first_row_address = Signal(row_bits(self.arch))
        # Full n-tiles from this one on; valid columns of the one behind them; that is past.
        self.full_tiles = Signal(len(job.stationary_rows) - width_log2)
        self.last_columns, self.no_columns = Signal(width_log2), Signal()
        self.k_word, self.word = Signal(len(job.stream_base)), Signal(len(job.stream_base))
        # Registers: no job is at work, for all that loads one; one is; a step is made.
        idle, walking, advance = Signal(init=1), Signal(), Signal()
        slots = Signal(range(REQUEST_SLOTS + 1), init=REQUEST_SLOTS)
        next_walking = Signal()
        m.d.sync += [
            slots.eq(slots + self.taken - advance),
            # Decided a cycle ahead, for all of the loop hangs on it: a slot that becomes free
            # meanwhile counts in the next one.
            advance.eq(next_walking & ((slots > 1) | ((slots == 1) & ~advance)) & ~self.queue_hold),
            idle.eq(~next_walking),
            walking.eq(next_walking),
        ]
        m.d.comb += planar.eq(self.signed16 & self.planes)

        # All of these are registers: every register of the loop hangs on them.
        last_row, last_k = self.rows_left.last, self.k_tiles.last
        last_n, last_group = self.n_tiles.last, self.groups.last
        last_plane = self.last_plane
        finished = Signal()
        m.d.comb += finished.eq(last_row & last_plane & last_k & last_n & last_group)

        following = self.jobs.payload
        sixteen = following.sixteen
        lacking = Signal()
        m.d.comb += [
            self.token_wait.eq(following.wait),
            self.token_want.eq(self.jobs.valid & following.waits),
            lacking.eq(self.token_want & ~self.token_granted),
        ]
        with m.If(idle):
            # What is there while no job is taken does no harm.
            m.d.sync += [
                job.eq(self.jobs.payload),
                Cat(self.last_columns, self.full_tiles).eq(following.stationary_rows),
                self.no_columns.eq(0),
                self.planes.eq(1),
                self.signed16.eq(sixteen),
                self.last_plane.eq(~sixteen),
                self.from_low.eq(sixteen & following.only_wide),
                self.k_word.eq(following.stream_base),
                self.word.eq(following.stream_base),
                *self.rows_left.behind(following.more_rows, following.only_rows),
                *self.k_tiles.behind(following.more_k_tiles, following.only_k_tiles),
                *self.n_tiles.behind(following.more_n_tiles, following.only_n_tiles),
                *self.groups.behind(following.more_groups, following.only_groups),
                *self.wide_left.behind(following.last_wide, following.only_wide),
                row.eq(0),
                plane.eq(0),
                self.first_row.eq(1),
                self.first_k.eq(1),
                self.first_n.eq(1),
                self.first_row_address.eq(0),
                self.pause.eq(following.pause),
            ]
        m.d.comb += [
            next_walking.eq(Mux(walking, ~(advance & finished), self.jobs.valid & ~lacking)),
            self.jobs.ready.eq(~walking & ~lacking),
            self.token_taken.eq(~walking & self.jobs.valid & ~lacking & ~following.taken),
            self.waiting.eq(~walking & lacking),
            self.token_due.eq(~walking & self.jobs.valid & ~following.taken),
            self.idle.eq(~walking & ~self.jobs.valid),
        ]
        with m.If(advance):
            self._count(m, last_row, last_plane, last_k, last_n)
        self._emit(m, advance, last_row, last_row & last_plane & last_k, last_n, finished)
        return m

    def _count(
        self,
        m: Module,
        last_row: Signal,
        last_plane: Signal,
        last_k: Signal,
        last_n: Signal,
    ) -> None:
        job = self.job
        # Behind the last tile with a high plane only the low plane goes on, where `word` is then.
        leaves_planes, next_word = Signal(), Signal.like(self.word)
        m.d.comb += [
            leaves_planes.eq(self.wide_left.last),
            next_word.eq(Mux(self.from_low, self.word, self.k_word) + 1),
        ]
        m.d.sync += [self.row.eq(self.row + 1), self.first_row.eq(0), *self.rows_left.step()]
        with m.If(last_row):
            m.d.sync += [
                self.row.eq(0),
                self.first_row.eq(1),
                *self.rows_left.restart(job.more_rows),
                self.plane.eq(~last_plane),
            ]
            with m.If(~last_plane):
                m.d.sync += [self.word.eq(self.word + job.plane_stride), last_plane.eq(1)]
            with m.Elif(~last_k):
                m.d.sync += [*self.k_tiles.step(), *self.wide_left.step(), self.first_k.eq(0)]
                m.d.sync += [
                    self.k_word.eq(next_word),
                    self.from_low.eq(self.planar & ~leaves_planes & (self.wide_left.left == 1)),
                ]
                m.d.sync += [
                    self.word.eq(next_word),
                    self.planes.eq(self.planes & ~leaves_planes),
                    last_plane.eq(~self.planar | leaves_planes),
                ]
            with m.Else():
                m.d.sync += [
                    *self.k_tiles.restart(job.more_k_tiles),
                    *self.wide_left.restart(job.last_wide),
                    self.first_k.eq(1),
                    self.planes.eq(1),
                    last_plane.eq(~self.signed16),
                    self.from_low.eq(self.signed16 & self.wide_left.only),
                    self.k_word.eq(job.stream_base),
                    self.word.eq(job.stream_base),
                    *self.n_tiles.step(),
                    self.first_n.eq(last_n),
                    self.first_row_address.eq(Mux(last_n, 0, self.first_row_address + job.rows)),
                    self.full_tiles.eq(Mux(self.full_tiles.any(), self.full_tiles - 1, 0)),
                    self.no_columns.eq(self.no_columns | ~self.full_tiles.any()),
                ]
                with m.If(last_n):
                    m.d.sync += [*self.n_tiles.restart(job.more_n_tiles), *self.groups.step()]

    def _emit(
        self,
        m: Module,
        advance: Signal,
        last_row: Signal,
        n_end: Signal,
        last_n: Signal,
        finished: Signal,
    ) -> None:
        """Request pipeline: queue look-up, times stride, plus base."""
        job, row, width = self.job, self.row, self.arch.width
        m.d.comb += [self.queue.expert.eq(job.expert), self.queue.index.eq(row)]

        shape = request_layout(self.arch)
        stages = [Signal(shape, name=f"request{i}") for i in range(_STAGES)]
        valid = Signal(_STAGES)
        m.d.sync += [valid.eq((valid << 1) | advance)]
        m.d.sync += [later.eq(earlier) for earlier, later in zip(stages, stages[1:], strict=False)]

        start = Signal()
        m.d.comb += start.eq(self.first_row & self.first_k & ~self.plane)
        entry, step = stages[0], stages[0].step
        high = self.planar & ~self.plane
        final = self.k_tiles.last & (self.plane | ~self.planar)
        columns = Mux(self.full_tiles.any(), width, Mux(self.no_columns, 0, self.last_columns))
        m.d.sync += [
            entry.pause.eq(Mux(last_row & ~finished, self.pause, 0)),
            entry.group_start.eq(start & self.first_n & ~job.empty),
            entry.attention.eq(job.attention),
            step.word.eq(~job.empty),
            step.swap.eq(self.first_row & ~self.plane & ~job.empty),
            step.is_signed.eq(high | (job.streamed == isa.Streamed.SIGNED8)),
            step.high.eq(high),
            step.overwrite.eq(self.first_k & ~self.plane),
            step.track.eq(job.track_maximum & final & ~job.empty),
            step.first.eq(self.first_n),
            step.group_last.eq(n_end & last_n & ~job.empty),
            step.last.eq(finished),
            step.columns.eq(columns),
            step.address.eq(self.first_row_address + row),
            step.row.eq(row),
            step.signal.eq(job.signal),
        ]

        # The queue's token comes one cycle after the index, in step with stages[0].
        index, gather, stride = Signal.like(row), Signal(), Signal(len(job.stream_stride))
        where, stride_1 = Signal.like(row), Signal.like(stride)
        words = [Signal(len(self.word), name=f"word{i}") for i in range(_STAGES - 1)]
        product, address = Signal(len(index) + len(stride)), Signal(len(self.word))
        m.d.sync += [
            index.eq(row),
            gather.eq(job.gather),
            stride.eq(job.stream_stride),
            where.eq(Mux(gather, self.queue.token, index)),
            stride_1.eq(stride),
            product.eq(where * stride_1),
            *(later.eq(word) for word, later in zip([self.word, *words], words, strict=False)),
            address.eq(words[-1] + product),
        ]
        m.d.comb += [
            self.requests.valid.eq(valid[-1]),
            self.requests.payload.eq(stages[-1]),
            self.requests.payload.address.eq(address),
        ]
