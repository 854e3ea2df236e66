"""A design as Amaranth elaborates it, before synthesis: which bit depends on which at once.

Amaranth's netlist is used before its signals are resolved to what drives them: a wire from a port
to a port is still there, and every bit has the name that the gateware gives it. The Verilog has
neither. The netlist is no public interface of Amaranth; this file alone knows it.
"""

from __future__ import annotations

import gc
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from amaranth.hdl import Fragment, Value, _ir, _nir
from amaranth.lib import wiring

from moesaic.hw.memory.ram import ULTRA_RAM

Net = int
"""A bit: below zero one of a signal, 0 and 1 constants, above these an output of a cell."""
CLOCKED_INSTANCES = frozenset({"moesaic_ram", ULTRA_RAM})
"""Foreign modules whose outputs change at a clock's edge only; of others all depends on all."""

_ROOT = Path(__file__).resolve().parents[2]
_CELL_BITS = 16


def _constant(nets: Sequence[Net]) -> int | None:
    if all(net in (0, 1) for net in nets):
        return sum(net << place for place, net in enumerate(nets))
    return None


def _moved(nets: Sequence[Net], bit: int, step: int, by: Sequence[Net], signed: bool) -> list[Net]:
    """What comes to ``bit`` when ``nets`` are moved down by ``step`` places for each of ``by``."""
    amount = _constant(by)
    if amount is not None:
        at = bit + step * amount
        return [nets[at]] if 0 <= at < len(nets) else list(nets[-1:] if signed else ())
    places = range(bit, len(nets) if step > 0 else -1, step)
    return [*(nets[at] for at in places), *(nets[-1:] if signed else ()), *by]


def _operator(cell: Any, bit: int) -> Sequence[Net]:
    kind, inputs = cell.operator, cell.inputs
    if len(inputs) == 1:
        if kind == "~":
            return (inputs[0][bit],)
        return tuple(inputs[0][: bit + 1] if kind == "-" else inputs[0])
    if len(inputs) == 3:  # 1 chooses the second
        choice, ones, zeros = inputs[0][0], inputs[1][bit], inputs[2][bit]
        if choice in (0, 1):
            return (ones if choice else zeros,)
        return choice, ones, zeros
    left, right = inputs
    if kind in ("&", "|", "^"):
        nets = left[bit], right[bit]
        fixed = {"&": 0, "|": 1}.get(kind)
        return () if fixed in nets else nets
    if kind in ("+", "-", "*"):
        return (*left[: bit + 1], *right[: bit + 1])
    if kind in ("<<", "u>>", "s>>"):
        return _moved(left, bit, -1 if kind == "<<" else 1, right, kind == "s>>")
    return (*left, *right)


def _assigned(cell: Any, bit: int) -> list[Net]:
    nets = [cell.default[bit]]
    for assignment in cell.assignments:
        at = bit - assignment.start
        if 0 <= at < len(assignment.value) and assignment.cond != 0:
            value = assignment.value[at]
            # What is always assigned replaces all before it.
            nets = [value] if assignment.cond == 1 else [*nets, assignment.cond, value]
    return nets


def dependencies(cell: Any, bit: int) -> Sequence[Net]:
    """What a bit of a cell's output depends on at once; nothing, if it is a register.

    Raises
    ------
    TypeError
        A kind of cell that is not known.
    """
    match cell:
        case _nir.Operator():
            return _operator(cell, bit)
        case _nir.Part():
            return _moved(cell.value, bit, cell.stride, cell.offset, cell.value_signed)
        case _nir.Matches():
            used = [any(p[~i] != "-" for p in cell.patterns) for i in range(len(cell.value))]
            return [net for net, use in zip(cell.value, used, strict=True) if use]
        case _nir.PriorityMatch():
            return (cell.en, *cell.inputs[: bit + 1])
        case _nir.AssignmentList():
            return _assigned(cell, bit)
        case _nir.AsyncReadPort():
            return tuple(cell.addr)
        case _nir.FlipFlop():
            return (cell.arst,)
        case _nir.SyncReadPort() | _nir.Top() | _nir.AnyValue() | _nir.Initial():
            return ()
        case _nir.Instance():
            clocked = cell.type in CLOCKED_INSTANCES
            return () if clocked else [net for port in cell.ports_i.values() for net in port]
        case _:
            raise TypeError(f"what depends on what is not known of {type(cell).__name__}")


@contextmanager
def no_collector() -> Iterator[None]:
    """Netlists are millions of small objects and no garbage: looking for it is half of the time."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


class Elaborated:
    """The netlist of a component with everything below it.

    Parameters
    ----------
    component
        The top; its members are the design's ports.

    Attributes
    ----------
    modules
        Path of every module, names joined by dots; the first is the top with the path "".
    home
        Of every bit of a signal that is driven: index of the module that drives it.
    outputs
        Bits of the top's outputs.
    """

    def __init__(self, component: wiring.Component) -> None:
        with no_collector():
            members = [Value.cast(value) for *_, value in component.signature.flatten(component)]
            fragment = Fragment.get(component, None)
            design = fragment.prepare(ports=members, hierarchy=("top",))
            self._netlist = netlist = _nir.Netlist()
            emitter = _ir.NetlistEmitter(netlist, design)
            emitter.emit_fragment(design.fragment, None)
        self.modules = [".".join(module.name[1:]) for module in netlist.modules]
        self.outputs = {net for port in netlist.top.ports_o.values() for net in port}
        self.home: dict[Net, int] = {
            net: netlist.cells[driver >> _CELL_BITS].module_idx
            for net, driver in netlist.connections.items()
            if driver > 1
        }
        for signal, drivers in emitter.drivers.items():
            bits = netlist.signals[signal]
            for (module, _), driver in drivers.items():
                for part in driver.assignments if len(drivers) > 1 else ():
                    nets = bits[part.start : part.start + len(part.value)]
                    self.home.update(dict.fromkeys(nets, module))
                if len(drivers) == 1:
                    self.home.update(dict.fromkeys(bits, module))

    def before(self, net: Net) -> Sequence[Net]:
        """What a bit depends on at once, one step back, without constants."""
        if net < 0:
            nets: Sequence[Net] = (self._netlist.connections.get(net, 0),)
        else:
            nets = dependencies(self._netlist.cells[net >> _CELL_BITS], net & 0xFFFF)
        return [each for each in nets if each not in (0, 1)]

    def is_constant(self, net: Net) -> bool:
        """Whether a bit is wired to a constant."""
        passed = set()
        while net < 0 and net not in passed:  # wires may form a ring
            passed.add(net)
            net = self._netlist.connections.get(net, 0)
        return net in (0, 1)

    def is_pin(self, net: Net) -> bool:
        """Whether a bit is one of the top's inputs."""
        return 1 < self._netlist.connections.get(net, 0) < 1 << _CELL_BITS

    def name(self, net: Net) -> tuple[str, int]:
        """Name of a bit's signal and its place in the signal."""
        signal, bit = self._netlist.late_to_signal[net]
        return signal.name, bit

    def _readers(self) -> Iterator[tuple[int, Iterable[Net]]]:
        """Modules, and what they begin to read at: bits of signals and outputs of cells."""
        for net, driver in self._netlist.connections.items():
            yield self.home.get(net, 0), (driver,)
        for cell in self._netlist.cells:
            if isinstance(cell, _STORES):
                yield cell.module_idx, cell.input_nets()

    def reads(self, owner: Callable[[int], str]) -> dict[str, set[Net]]:
        """Bits of signals that are read by each owner of modules, in whatever it computes."""
        work: dict[str, list[Net]] = defaultdict(list)
        for module, nets in self._readers():
            work[owner(module)] += nets
        found: dict[str, set[Net]] = {}
        for mine, stack in work.items():
            found[mine] = {net for net in stack if net < 0}
            cells = {cell for net in stack if (cell := net >> _CELL_BITS) > 0}
            queue = deque(cells)
            while queue:
                inputs = self._netlist.cells[queue.popleft()].input_nets()
                found[mine].update(net for net in inputs if net < 0)
                more = {cell for net in inputs if (cell := net >> _CELL_BITS) > 0} - cells
                cells |= more
                queue.extend(more)
        return found

    def line(self, net: Net) -> str:
        """Where the gateware computes a cell's output, or declares a signal: ``hw/core.py:12``."""
        if net < 0:
            place = self._netlist.late_to_signal[net][0].src_loc
        else:
            place = self._netlist.cells[net >> _CELL_BITS].src_loc
        if place is None:
            return ""
        path = Path(place[0]).resolve()
        inside = path.is_relative_to(_ROOT)
        return f"{path.relative_to(_ROOT)}:{place[1]}" if inside else ""


_STORES = (
    _nir.Instance,
    _nir.AsyncReadPort,
    _nir.SyncReadPort,
    _nir.SyncWritePort,
)
