"""The life of a frame: start, run, done; or error or reset, and back to rest."""

from __future__ import annotations

from amaranth import Cat, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from moesaic.hw.interfaces import REGISTER_BITS
from moesaic.spec import registers
from moesaic.spec.registers import ErrorCode

QUIET_CYCLES = 8
"""Cycles without any activity that make the end of a frame."""
CHECK_CYCLES = 4
"""Between START and the frame: the windows have been checked by then."""
ABORT_CYCLES = 8
"""Shortest abort: masters need a few cycles to show what they still owe the bus."""


class FrameControl(wiring.Component):
    """State of the accelerator, error codes, watchdog, and the units' common reset.

    The units are in reset unless a frame runs. A frame ends when ``finished`` stayed up for
    ``QUIET_CYCLES``. An error or RESET raises ``abort`` until ``idle``, then puts the units into
    reset; of several errors the first one is reported, in the order of ``errors`` if they come in
    the same cycle. An error raises its interrupt when the abort is over, but at the latest after
    ``ABORT_LIMIT_CYCLES``.

    Parameters
    ----------
    errors
        Codes that units can raise, the most important first.

    Attributes
    ----------
    start, reset
        Commands; START is ignored while a frame runs.
    misconfigured, offender
        A window breaks its rules; what ERROR_INFO then says.
    raise<i>, info<i>
        Error i of ``errors`` is there; its ERROR_INFO.
    watchdog
        Cycles a frame may take, 0 for no limit.
    finished
        END is reached and nothing is under way.
    idle
        No bus master owes or is owed anything.
    core_reset, abort
        To the units. During ``abort`` they are not in reset.
    running
        A frame is under way.
    clear
        A frame begins: clear the counters.
    status, error, error_info
        Register values.
    irq_set
        Causes of an interrupt, by bit of IRQ_STATUS.
    """

    def __init__(self, errors: list[ErrorCode]) -> None:
        self.errors = errors
        super().__init__(
            {
                "start": In(1),
                "reset": In(1),
                "misconfigured": In(1),
                "offender": In(registers.OFFSET_BITS),
                **{f"raise{i}": In(1) for i in range(len(errors))},
                **{f"info{i}": In(REGISTER_BITS) for i in range(len(errors))},
                "watchdog": In(REGISTER_BITS),
                "finished": In(1),
                "idle": In(1),
                "core_reset": Out(1, init=1),
                "abort": Out(1),
                "running": Out(1),
                "clear": Out(1),
                "status": Out(REGISTER_BITS),
                "error": Out(REGISTER_BITS),
                "error_info": Out(REGISTER_BITS),
                "irq_set": Out(registers.used_bits("IRQ_STATUS")),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        busy, done, failed = Signal(), Signal(), Signal()
        reported = Signal()  # the error of this frame has raised its interrupt
        code = Signal(ErrorCode)
        cycles = Signal(len(self.watchdog))
        timer = Signal(range(registers.ABORT_LIMIT_CYCLES + 2))
        quiet = Signal(range(QUIET_CYCLES + 1))
        report_done, report_error = Signal(), Signal()
        # Conditions on counters are a cycle old where they decide.
        limited, expired, checked = Signal(), Signal(), Signal()
        long_enough, late = Signal(), Signal()
        m.d.sync += [
            limited.eq(self.watchdog.any()),
            expired.eq(self.running & limited & (cycles + 3 >= self.watchdog)),
            checked.eq(timer == CHECK_CYCLES - 1),
            long_enough.eq(timer >= ABORT_CYCLES),
            late.eq(self.abort & (late | (timer == registers.ABORT_LIMIT_CYCLES))),
        ]

        # The first error, chosen a cycle before it takes effect.
        raised, raised_code, raised_info = Signal(), Signal(ErrorCode), Signal.like(self.error_info)
        m.d.sync += raised.eq(0)
        sources = [
            (getattr(self, f"raise{i}"), error, getattr(self, f"info{i}"))
            for i, error in enumerate(self.errors)
        ]
        for signal, error, info in reversed([*sources, (expired, ErrorCode.WATCHDOG, 0)]):
            with m.If(signal):
                m.d.sync += [raised.eq(1), raised_code.eq(error), raised_info.eq(info)]

        def mask(name: str) -> int:
            return registers.bit("STATUS", name)

        m.d.comb += [
            self.status.eq(
                Mux(busy, mask("BUSY"), 0)
                | Mux(done, mask("DONE"), 0)
                | Mux(failed, mask("ERROR"), 0)
            ),
            self.error.eq(code),
            self.irq_set.eq(
                Mux(report_done, registers.bit("IRQ_STATUS", "DONE"), 0)
                | Mux(report_error, registers.bit("IRQ_STATUS", "ERROR"), 0)
            ),
        ]
        with m.If(report_error):
            m.d.sync += [failed.eq(1), reported.eq(1)]

        with m.FSM():
            with m.State("REST"):
                m.d.sync += self.core_reset.eq(1)
                with m.If(self.reset):
                    m.d.sync += [done.eq(0), failed.eq(0), code.eq(0), self.error_info.eq(0)]
                with m.Elif(self.start):
                    m.d.comb += self.clear.eq(1)
                    m.d.sync += [
                        busy.eq(1),
                        done.eq(0),
                        failed.eq(0),
                        reported.eq(0),
                        code.eq(ErrorCode.NONE),
                        self.error_info.eq(0),
                        cycles.eq(0),
                        quiet.eq(0),
                        timer.eq(0),
                    ]
                    m.next = "LAUNCH"
            with m.State("LAUNCH"):
                m.d.sync += timer.eq(timer + 1)
                with m.If(self.reset):
                    m.d.sync += busy.eq(0)
                    m.next = "REST"
                with m.Elif(checked & self.misconfigured):
                    m.d.comb += report_error.eq(1)
                    m.d.sync += [
                        code.eq(ErrorCode.BAD_CONFIGURATION),
                        self.error_info.eq(self.offender),
                        busy.eq(0),
                    ]
                    m.next = "REST"
                with m.Elif(checked):
                    m.d.sync += [self.core_reset.eq(0), timer.eq(0)]
                    m.next = "RUN"
            with m.State("RUN"):
                m.d.comb += self.running.eq(1)
                m.d.sync += [cycles.eq(cycles + 1), quiet.eq(Mux(self.finished, quiet + 1, 0))]
                with m.If(self.reset):
                    m.next = "ABORT"
                with m.Elif(raised):
                    m.d.sync += [code.eq(raised_code), self.error_info.eq(raised_info)]
                    m.next = "ABORT"
                with m.Elif(quiet == QUIET_CYCLES):
                    m.d.comb += report_done.eq(1)
                    m.d.sync += [busy.eq(0), done.eq(1), self.core_reset.eq(1)]
                    m.next = "REST"
            with m.State("ABORT"):
                m.d.comb += [self.running.eq(1), self.abort.eq(1)]
                over = Signal()
                m.d.comb += [
                    over.eq(self.idle & long_enough),
                    report_error.eq(Cat(code).any() & ~self.reset & ~reported & (over | late)),
                ]
                with m.If(~late):
                    m.d.sync += timer.eq(timer + 1)
                with m.If(self.reset):  # the driver gives the frame up: nothing to report
                    m.d.sync += [code.eq(ErrorCode.NONE), self.error_info.eq(0), failed.eq(0)]
                with m.If(over):
                    m.d.sync += [busy.eq(0), self.core_reset.eq(1)]
                    m.next = "REST"
        return m
