"""The six units and the memories between them: what the control block resets as one."""

from __future__ import annotations

from typing import Any

from amaranth import ClockDomain, ClockSignal, Const, DomainRenamer, Module, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from moesaic.hw.axi.arbiter import ReadArbiter
from moesaic.hw.control.counters import EVENT_BITS
from moesaic.hw.control.unit import MASTERS, UNIT_EVENTS
from moesaic.hw.interfaces import (
    AxiRead,
    AxiWrite,
    FaultPort,
    InstructionPort,
    WindowSettings,
)
from moesaic.hw.matrix.unit import MatrixUnit
from moesaic.hw.memory.scratchpad import ActivationScratchpad
from moesaic.hw.router.unit import RouterUnit
from moesaic.hw.stream.unit import StreamUnit
from moesaic.hw.transfer.load import LoadUnit
from moesaic.hw.transfer.store import StoreUnit
from moesaic.hw.vector.unit import VectorUnit
from moesaic.spec.arch import ArchConfig
from moesaic.spec.isa import Unit, Window


class Core(wiring.Component):
    """Stream, matrix, vector, router, load and store unit, connected.

    ``reset`` reaches one unit after the other, a cycle each, so that no register drives all of
    them. Raise it only when ``idle`` is up while ``abort`` is held, or when ``idle`` is up and no
    instruction is under way: bus transfers cannot be recalled.

    Parameters
    ----------
    arch
        Sizes.

    Attributes
    ----------
    <unit>
        Instructions and tokens of a unit, by its lower-case name.
    fetch
        The instruction fetch, which shares the data port.
    weight_axi<p>, data_read, write<p>
        Bus masters; ``write0`` is the data port's.
    window<w>, weight<p>, output<p>
        Address windows; that of ``write0`` is ``isa.Window.OUTPUT``.
    fault_<unit>
        Faults of the units with bus masters.
    abort, idle
        Stop the masters; they have nothing outstanding.
    reset
        Of all units.
    event_<name>
        What to add to a counter in this cycle.
    """

    def __init__(self, arch: ArchConfig) -> None:
        self.arch = arch
        ports, outputs = range(arch.weight_ports), range(arch.output_ports)
        super().__init__(
            {
                **{unit.name.lower(): In(InstructionPort()) for unit in Unit},
                "fetch": In(AxiRead(arch.data_port_bytes)),
                **{f"weight_axi{p}": Out(AxiRead(arch.weight_port_bytes)) for p in ports},
                "data_read": Out(AxiRead(arch.data_port_bytes)),
                **{f"write{p}": Out(AxiWrite(arch.data_port_bytes)) for p in outputs},
                **{f"window{w.value}": In(WindowSettings()) for w in Window},
                **{f"weight{p}": In(WindowSettings()) for p in ports},
                **{f"output{p}": In(WindowSettings()) for p in outputs if p},
                **{f"fault_{unit.name.lower()}": Out(FaultPort()) for unit in MASTERS},
                "abort": In(1),
                "reset": In(1),
                "idle": Out(1),
                **{f"event_{name}": Out(EVENT_BITS) for name in UNIT_EVENTS},
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        arch = self.arch
        stream, matrix, vector = StreamUnit(arch), MatrixUnit(arch), VectorUnit(arch)
        router, load, store = RouterUnit(arch), LoadUnit(arch), StoreUnit(arch)
        units: dict[str, Any] = {"stream": stream, "matrix": matrix, "vector": vector}
        units |= {"router": router, "load": load, "store": store}
        scratchpad = ActivationScratchpad(arch)
        arbiter = ReadArbiter(arch.data_port_bytes, 2)
        reset: Value = self.reset
        for name, part in [*units.items(), ("scratchpad", scratchpad), ("arbiter", arbiter)]:
            # A domain of its own, so that the register reaches the unit's without a gate.
            later = Signal(name=f"reset_{name}", init=1)
            domain = ClockDomain(f"unit_{name}", local=True)
            m.domains += domain
            m.d.sync += later.eq(reset)
            m.d.comb += [domain.clk.eq(ClockSignal()), domain.rst.eq(later)]
            m.submodules[name] = DomainRenamer(domain.name)(part)
            reset = later

        for name, unit in units.items():
            connect(m, flipped(getattr(self, name)), unit.control)
        # Weights.
        connect(m, stream.ring, matrix.ring)
        connect(m, stream.fetched, matrix.fetched)
        connect(m, router.state, stream.router)
        m.d.comb += stream.discard.eq(matrix.discard)
        # Activations: the streamed operand first, for whatever waits for it idles the array.
        connect(m, matrix.stream_read, scratchpad.read0)
        connect(m, matrix.stationary_read, scratchpad.read1)
        connect(m, vector.activation_write, scratchpad.write0)
        connect(m, load.activation_write, scratchpad.write1)
        connect(m, load.residual_write, vector.residual_write)
        connect(m, load.table_write, vector.table_write)
        # Results.
        connect(m, vector.accumulators, matrix.accumulators)
        connect(m, matrix.parameters, vector.parameters)
        connect(m, vector.logits, router.logits)
        connect(m, vector.output, store.output)
        connect(m, matrix.queue, router.matrix)
        connect(m, vector.queue, router.vector)

        self._connect_bus(m, stream, load, store, arbiter)
        self._connect_events(m, units)
        return m

    def _connect_bus(
        self,
        m: Module,
        stream: StreamUnit,
        load: LoadUnit,
        store: StoreUnit,
        arbiter: ReadArbiter,
    ) -> None:
        for p in range(self.arch.weight_ports):
            connect(m, getattr(stream, f"axi{p}"), flipped(getattr(self, f"weight_axi{p}")))
            connect(m, flipped(getattr(self, f"weight{p}")), getattr(stream, f"window{p}"))
        # Instructions first: they are few, and everything waits for them.
        connect(m, flipped(self.fetch), arbiter.master0)
        connect(m, load.axi, arbiter.master1)
        connect(m, arbiter.axi, flipped(self.data_read))
        for p in range(self.arch.output_ports):
            connect(m, getattr(store, f"axi{p}"), flipped(getattr(self, f"write{p}")))
            if p:
                connect(m, flipped(getattr(self, f"output{p}")), getattr(store, f"window{p}"))
        for w in Window:
            window = getattr(self, f"window{w.value}")
            targets = [getattr(load, f"window{w.value}")]
            targets += [store.window0] if w is Window.OUTPUT else []
            for target in targets:
                m.d.comb += [target.base.eq(window.base), target.size.eq(window.size)]
        masters: dict[str, Any] = {"stream": stream, "load": load, "store": store}
        for name, unit in masters.items():
            connect(m, unit.fault, flipped(getattr(self, f"fault_{name}")))
            m.d.sync += unit.abort.eq(self.abort)
        m.d.sync += self.idle.eq(stream.idle & load.idle & store.idle)

    def _connect_events(self, m: Module, units: dict[str, Any]) -> None:
        read = self.data_read
        writes = [getattr(self, f"write{p}") for p in range(self.arch.output_ports)]
        beats = sum((write.wvalid & write.wready for write in writes), start=Const(0, 1))
        beat_bytes = self.arch.data_port_bytes
        events: dict[str, Value] = {
            "data_read_bytes": (read.rvalid & read.rready) * beat_bytes,
            "data_write_bytes": beats * beat_bytes,
        }
        for unit in units.values():
            holders = [unit, *([unit.events] if hasattr(unit, "events") else [])]
            for name in UNIT_EVENTS:
                for holder in holders:
                    try:
                        events[name] = getattr(holder, name)
                    except AttributeError:
                        continue
        missing = sorted(set(UNIT_EVENTS) - set(events))
        if missing:
            raise AssertionError(f"no unit drives the counters {', '.join(missing)}")
        for name, event in events.items():
            m.d.comb += getattr(self, f"event_{name}").eq(event)
