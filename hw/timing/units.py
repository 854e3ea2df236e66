"""Feed-throughs of a design's units: outputs that depend on inputs with no register between.

A path from register to register that passes a feed-through has come from another unit and goes to
a third one. A unit is a module with everything below it; what lies between units, wires and
logic of the modules around them, is nobody's.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from moesaic.hw.timing.analysis import LoopError
from moesaic.hw.timing.elaborated import Elaborated, Net

TOP = "top"
"""The design itself, as a unit: its outputs must not depend on its inputs either."""


@dataclass(frozen=True)
class Feedthrough:
    """One output word of a unit that depends on one input word of it.

    Attributes
    ----------
    unit, input, output
        Names; a port's is that of its signal, behind the path of its module if that is deeper.
    input_bits, output_bits
        Which bits of the words take part.
    steps
        One way from the lowest of these: signals with their modules, and the line that computes
        each.
    """

    unit: str
    input: str
    output: str
    input_bits: Sequence[int]
    output_bits: Sequence[int]
    steps: Sequence[str]

    @property
    def name(self) -> str:
        """What lists have: no bits, for these depend on the target."""
        return f"{self.unit}: {self.input} -> {self.output}"


def reach(
    design: Elaborated, roots: Iterable[Net], is_input: Callable[[Net], bool]
) -> tuple[dict[Net, int], list[Net]]:
    """Which inputs each bit depends on.

    Returns
    -------
    tuple
        Of every bit on the way a mask of inputs, and the inputs in the order of the mask's bits.
        What is behind an input is not looked at.

    Raises
    ------
    LoopError
        A bit depends on itself.
    """
    masks: dict[Net, int] = {}
    begun: set[Net] = set()
    inputs: list[Net] = []
    stack: list[tuple[Net, Collection[Net] | None]] = [(root, None) for root in roots]
    while stack:
        net, behind = stack.pop()
        if net in masks:
            continue
        if behind is not None:
            mask = 0
            for each in behind:
                mask |= masks[each]
            masks[net] = mask
        elif is_input(net):
            masks[net] = 1 << len(inputs)
            inputs.append(net)
        elif net in begun:
            raise LoopError(f"combinational loop through {design.line(net)}")
        else:
            begun.add(net)
            behind = design.before(net)
            stack.append((net, behind))
            stack += [(each, None) for each in behind if each not in masks]
    return masks, inputs


def members(mask: int, nets: list[Net]) -> list[Net]:
    """The nets of a mask."""
    found = []
    while mask:
        found.append(nets[(mask & -mask).bit_length() - 1])
        mask &= mask - 1
    return found


class Units:
    """The units of a design, their ports and what feeds through.

    Parameters
    ----------
    design
        The netlist.
    paths
        Path of each unit's module, by the unit's name.

    Attributes
    ----------
    reads
        Of each unit the bits that it reads; the unit "" is what is between them.
    feeds
        Of every output bit of a unit that depends on inputs of the unit, these.
    """

    def __init__(self, design: Elaborated, paths: Mapping[str, str]) -> None:
        self.design = design
        self._paths = {**paths, "": ""}
        self._owners = [self._owner(module) for module in design.modules]
        self.reads = design.reads(self._owners.__getitem__)
        self.outputs: dict[str, set[Net]] = {name: set() for name in paths}
        used = [(name, net) for name, nets in self.reads.items() for net in nets]
        for reader, net in [*used, *(("", net) for net in design.outputs)]:
            if (owner := self.owner(net)) not in ("", reader):
                self.outputs[owner].add(net)
        self.feeds: dict[Net, list[Net]] = {}
        for name, outputs in self.outputs.items():
            self.feeds |= self._fed(outputs, self._outside(name))

    def _owner(self, module: str) -> str:
        inside = [n for n, path in self._paths.items() if n and f"{module}.".startswith(f"{path}.")]
        return inside[0] if inside else ""

    def owner(self, net: Net) -> str:
        """The unit that drives a bit of a signal, or ""."""
        return self._owners[self.design.home.get(net, 0)]

    def _outside(self, name: str) -> Callable[[Net], bool]:
        design, home, owners = self.design, self.design.home, self._owners
        if name == TOP:
            return lambda net: net < 0 and design.is_pin(net)
        return lambda net: (
            net < 0 and net in home and owners[home[net]] != name and not design.is_constant(net)
        )

    def _fed(
        self, outputs: Collection[Net], is_input: Callable[[Net], bool]
    ) -> dict[Net, list[Net]]:
        masks, inputs = reach(self.design, outputs, is_input)
        return {net: members(masks[net], inputs) for net in outputs if masks[net]}

    def port(self, net: Net, unit: str) -> str:
        """What a bit's word is called at a unit's border."""
        name, _ = self.design.name(net)
        module = self.design.modules[self.design.home.get(net, 0)]
        inside = self._paths.get(unit, "")
        if self.owner(net) == unit != "":
            module = module[len(inside) :].removeprefix(".")
        elif not module or f"{inside}.".startswith(f"{module}."):
            module = ""
        return f"{module}.{name}" if module else name

    def feedthroughs(self) -> list[Feedthrough]:
        """All of them, the design's own too, in the order of their names."""
        found = []
        whole = self._fed(self.design.outputs, self._outside(TOP))
        for name, outputs in [*self.outputs.items(), (TOP, self.design.outputs)]:
            feeds = whole if name == TOP else self.feeds
            words: dict[tuple[str, str], list[tuple[Net, Net]]] = defaultdict(list)
            for output in outputs & feeds.keys():
                for source in feeds[output]:
                    key = self.port(source, name), self.port(output, name)
                    words[key].append((source, output))
            for (source_name, output_name), pairs in words.items():
                bits = [
                    tuple(sorted({self.design.name(net)[1] for net in nets}))
                    for nets in zip(*pairs, strict=True)
                ]
                steps = self._way(*min(pairs, key=lambda p: self.design.name(p[0])[1]), name)
                found.append(Feedthrough(name, source_name, output_name, bits[0], bits[1], steps))
        return sorted(found, key=lambda each: each.name)

    def _way(self, source: Net, output: Net, unit: str) -> tuple[str, ...]:
        """A shortest way between two bits, by the signals on it."""
        ahead: dict[Net, Net | None] = {output: None}
        queue, outside = deque([output]), self._outside(unit)
        while source not in ahead:
            net = queue.popleft()
            for each in self.design.before(net):
                if each not in ahead and (each == source or not outside(each)):
                    ahead[each] = net
                    queue.append(each)
        steps, line = [], ""
        at: Net | None = source
        while at is not None:
            if at < 0:
                name, bit = self.design.name(at)
                module = self.design.modules[self.design.home.get(at, 0)]
                text = f"{module or TOP}.{name}[{bit}]"
                steps.append(f"{text} ({line})" if line else text)
                line = ""
            else:
                line = self.design.line(at) or line
            at = ahead[at]
        return tuple(steps)
