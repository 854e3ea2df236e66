"""The control block: everything between the driver and the units."""

from __future__ import annotations

from amaranth import Cat, ClockDomain, ClockSignal, Const, DomainRenamer, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from moesaic.hw.control.counters import EVENT_BITS, PerformanceCounters
from moesaic.hw.control.dispatch import Dispatcher
from moesaic.hw.control.fetch import InstructionFetch
from moesaic.hw.control.frame import FrameControl
from moesaic.hw.control.registers import RegisterFile
from moesaic.hw.control.tokens import TokenFile
from moesaic.hw.interfaces import AxiLite, AxiRead, FaultPort, InstructionPort, WindowSettings
from moesaic.spec import registers
from moesaic.spec.arch import ADDRESS_BITS, ArchConfig
from moesaic.spec.isa import Unit, Window
from moesaic.spec.registers import ErrorCode

MASTERS = (Unit.STREAM, Unit.LOAD, Unit.STORE)
"""Units with bus masters."""

_OWN_EVENTS = {
    "CYCLES",
    "INSTRUCTIONS",
    *(f"{unit.name}_{kind}" for unit in Unit for kind in ("BUSY", "WAIT_TOKEN", "STALL")),
}
UNIT_EVENTS = tuple(name.lower() for name, _ in registers.COUNTERS if name not in _OWN_EVENTS)
"""Counters that the units feed, lower case."""


class ControlUnit(wiring.Component):
    """Registers, frame control, instruction fetch and dispatch, tokens and counters.

    Parameters
    ----------
    arch
        Sizes.

    Attributes
    ----------
    bus
        The AXI4-Lite registers.
    irq
        Interrupt, high while an enabled cause is set.
    <unit>
        Instructions and tokens of a unit, by its lower-case name.
    fetch
        Read channels of the instruction fetch.
    window<w>, weight<p>, output<p>
        Windows of the data port by number of ``isa.Window``, of the weight ports, and of the
        output ports from 1 on.
    fault_<unit>
        Faults of stream, load and store unit.
    abort, idle
        Stop all bus masters; none of those outside the control block is at work.
    core_reset
        Reset of all units.
    event_<name>
        What to add to a counter in this cycle.
    """

    def __init__(self, arch: ArchConfig) -> None:
        self.arch = arch
        super().__init__(
            {
                "bus": In(AxiLite()),
                "irq": Out(1),
                **{unit.name.lower(): Out(InstructionPort()) for unit in Unit},
                "fetch": Out(AxiRead(arch.data_port_bytes)),
                **{f"window{w.value}": Out(WindowSettings()) for w in Window},
                **{f"weight{p}": Out(WindowSettings()) for p in range(arch.weight_ports)},
                **{f"output{p}": Out(WindowSettings()) for p in range(1, arch.output_ports)},
                **{f"fault_{unit.name.lower()}": In(FaultPort()) for unit in MASTERS},
                "abort": Out(1),
                "idle": In(1),
                "core_reset": Out(1),
                **{f"event_{name}": In(EVENT_BITS) for name in UNIT_EVENTS},
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        errors = [
            ErrorCode.BAD_INSTRUCTION,
            ErrorCode.PROGRAM_OVERRUN,
            ErrorCode.TOKEN_OVERFLOW,
            ErrorCode.WINDOW,
            ErrorCode.BUS,
        ]
        m.submodules.registers = file = RegisterFile(self.arch)
        m.submodules.frame = frame = FrameControl(errors)
        counters = PerformanceCounters()
        fetch = InstructionFetch(self.arch)
        dispatcher = Dispatcher(self.arch)
        tokens = TokenFile()
        # Domains of their own, so that resets reach registers without a gate. Counters begin anew
        # with START; the frame begins some cycles later.
        clear = Signal(init=1)
        m.d.sync += clear.eq(frame.clear)
        resets = {"fetch": (fetch, frame.core_reset), "dispatcher": (dispatcher, frame.core_reset)}
        resets |= {"tokens": (tokens, frame.core_reset), "counters": (counters, clear)}
        for name, (part, reset) in resets.items():
            domain = ClockDomain(f"{name}_parts", local=True)
            m.domains += domain
            m.d.comb += [domain.clk.eq(ClockSignal()), domain.rst.eq(reset)]
            m.submodules[name] = DomainRenamer(domain.name)(part)

        connect(m, flipped(self.bus), file.bus)
        connect(m, fetch.axi, flipped(self.fetch))
        connect(m, fetch.instructions, dispatcher.instructions)
        self._connect_units(m, dispatcher, tokens)
        windows = self._connect_windows(m, file, frame)
        m.d.comb += [fetch.window.base.eq(windows[0].base), fetch.window.size.eq(windows[0].size)]

        busy = Signal(len(Unit))
        m.d.sync += busy.eq(Cat(getattr(self, unit.name.lower()).busy for unit in Unit))
        all_idle, finished, run, abort = Signal(), Signal(), Signal(), Signal()
        m.d.sync += [
            run.eq(frame.running & ~frame.abort & ~dispatcher.ended),
            abort.eq(frame.abort),
            all_idle.eq(self.idle & fetch.idle),
            finished.eq(dispatcher.ended & dispatcher.empty & ~busy.any() & self.idle & fetch.idle),
        ]
        m.d.comb += [
            self.irq.eq(file.irq),
            self.abort.eq(frame.abort),
            self.core_reset.eq(frame.core_reset),
            fetch.run.eq(run),
            fetch.abort.eq(abort),
            frame.start.eq(file.start),
            frame.reset.eq(file.reset),
            frame.watchdog.eq(file.watchdog),
            frame.idle.eq(all_idle),
            frame.finished.eq(finished),
            file.status.eq(frame.status),
            file.error.eq(frame.error),
            file.error_info.eq(frame.error_info),
            file.irq_set.eq(frame.irq_set),
        ]
        self._connect_errors(m, frame, fetch, dispatcher, tokens)
        self._connect_counters(m, counters, file, frame, dispatcher)
        return m

    def _connect_units(self, m: Module, dispatcher: Dispatcher, tokens: TokenFile) -> None:
        for unit in Unit:
            port = getattr(self, unit.name.lower())
            queue = getattr(dispatcher, f"queue{unit.value}")
            connect(m, queue, flipped(port.queue))
            m.d.comb += [
                getattr(tokens, f"wait{unit.value}").eq(port.wait),
                getattr(tokens, f"want{unit.value}").eq(port.want),
                getattr(tokens, f"take{unit.value}").eq(port.take),
                port.granted.eq(getattr(tokens, f"granted{unit.value}")),
                getattr(tokens, f"signal{unit.value}").eq(port.signal),
                getattr(tokens, f"give{unit.value}").eq(port.give),
            ]

    def _connect_windows(
        self, m: Module, file: RegisterFile, frame: FrameControl
    ) -> list[wiring.PureInterface]:
        """Windows from their registers, in the order of the map; checks them for START.

        In three cycles, which ``FrameControl`` gives them: ends, offences, the first offender.
        """
        names = [(w.name, f"window{w.value}") for w in Window]
        names += [(f"OUTPUT{p}", f"output{p}") for p in range(1, self.arch.output_ports)]
        names += [(f"WEIGHT{p}", f"weight{p}") for p in range(self.arch.weight_ports)]
        aligned = registers.WINDOW_ALIGNMENT.bit_length() - 1
        windows: list[wiring.PureInterface] = []
        offences: list[Value] = []
        misconfigured = Signal()
        offender = Signal(registers.OFFSET_BITS, reset_less=True)
        # The last assignment wins: go backwards so that the first offender is named.
        for register, port in reversed(names):
            low, high, size = (
                getattr(file, f"{register}_{part}".lower())
                for part in ("BASE_LO", "BASE_HI", "SIZE")
            )
            window = getattr(self, port)
            windows.insert(0, window)
            m.d.comb += [window.base.eq(Cat(low, high)), window.size.eq(size)]
            end = Signal(ADDRESS_BITS + 1, name=f"{port}_end", reset_less=True)
            wrong = Signal(name=f"{port}_wrong", reset_less=True)
            m.d.sync += [
                end.eq(window.base + size),
                wrong.eq(low[:aligned].any() | (end > 1 << ADDRESS_BITS)),
            ]
            with m.If(wrong):
                m.d.sync += offender.eq(registers.offset(f"{register}_BASE_LO"))
            offences.append(wrong)
        m.d.sync += misconfigured.eq(Cat(offences).any())
        m.d.comb += [frame.misconfigured.eq(misconfigured), frame.offender.eq(offender)]
        return windows

    def _connect_errors(
        self,
        m: Module,
        frame: FrameControl,
        fetch: InstructionFetch,
        dispatcher: Dispatcher,
        tokens: TokenFile,
    ) -> None:
        masters: list[tuple[int, wiring.PureInterface]] = [
            (unit.value, getattr(self, f"fault_{unit.name.lower()}")) for unit in MASTERS
        ]
        masters.append((registers.FETCH_MASTER, fetch.fault))

        def first(kind: str) -> tuple[Value, Value]:
            number: Value = Const(0, range(registers.FETCH_MASTER + 1))
            for master, fault in reversed(masters):
                number = Mux(getattr(fault, kind), master, number)
            return Cat(getattr(fault, kind) for _, fault in masters).any(), number

        sources: dict[ErrorCode, tuple[Value, Value]] = {
            ErrorCode.BAD_INSTRUCTION: (dispatcher.malformed, dispatcher.offset),
            ErrorCode.PROGRAM_OVERRUN: (
                fetch.exhausted & ~dispatcher.busy & ~dispatcher.ended & ~dispatcher.malformed,
                dispatcher.offset,
            ),
            ErrorCode.TOKEN_OVERFLOW: (tokens.overflow, tokens.giver),
            ErrorCode.WINDOW: first("window"),
            ErrorCode.BUS: first("bus"),
        }
        for i, error in enumerate(frame.errors):
            raised, info = sources[error]
            m.d.sync += [
                getattr(frame, f"raise{i}").eq(raised & ~frame.core_reset),
                getattr(frame, f"info{i}").eq(info),
            ]

    def _connect_counters(
        self,
        m: Module,
        counters: PerformanceCounters,
        file: RegisterFile,
        frame: FrameControl,
        dispatcher: Dispatcher,
    ) -> None:
        events: dict[str, Value] = {name: getattr(self, f"event_{name}") for name in UNIT_EVENTS}
        events |= {"cycles": frame.running, "instructions": dispatcher.dispatched}
        for unit in Unit:
            port = getattr(self, unit.name.lower())
            events[f"{unit.name.lower()}_busy"] = port.working
            events[f"{unit.name.lower()}_wait_token"] = port.wait_token
            events[f"{unit.name.lower()}_stall"] = port.stalled
        for name, event in events.items():
            count = getattr(counters, f"count_{name}")
            m.d.comb += [
                getattr(counters, f"event_{name}").eq(Mux(frame.core_reset, 0, event)),
                getattr(file, f"count_{name}").eq(count),
            ]
