"""Paths from register to register through three units or more.

Every such path passes a feed-through: it begins in the unit that drives the feed-through's input,
and ends in the one that reads its output. What is outside of the design counts as a unit.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from moesaic.hw.timing.analysis import LoopError
from moesaic.hw.timing.elaborated import Net
from moesaic.hw.timing.units import Units, members, reach

OUTSIDE = "outside"

Chain = tuple[str, ...]
"""Where it begins (``unit.port``), the names of the feed-throughs, and where it ends."""


class _Chains:
    def __init__(self, units: Units) -> None:
        self.units = units
        self.sources = self._between({net for nets in units.feeds.values() for net in nets})
        self.sinks = self._sinks()
        self.fed_by: dict[Net, set[Net]] = defaultdict(set)
        for output, inputs in units.feeds.items():
            for net in inputs:
                self.fed_by[net].add(output)
        self.heads: dict[Net, set[Chain]] = {}
        self.pending: set[Net] = set()

    def _between(self, roots: Iterable[Net]) -> dict[Net, list[Net]]:
        """Of bits that units read the outputs of units, or pins, that they come from."""
        roots = set(roots)
        units, design = self.units, self.units.design
        masks, found = reach(
            design, roots, lambda net: net < 0 and (units.owner(net) != "" or design.is_pin(net))
        )
        return {net: members(masks[net], found) for net in roots if masks[net]}

    def _sinks(self) -> dict[Net, list[tuple[str, Net]]]:
        """Of fed outputs the units that read them, and as what."""
        units = self.units
        design, fed = units.design, units.feeds
        ends = [
            (unit, net)
            for unit, nets in units.reads.items()
            for net in (nets if unit else ())
            if units.owner(net) != unit
        ]
        ends += [(OUTSIDE, net) for net in design.outputs]
        roots = {net for _, net in ends}
        masks, found = reach(
            design, roots, lambda net: net < 0 and (net in fed or units.owner(net) != "")
        )
        passed = {net: [n for n in members(masks[net], found) if n in fed] for net in roots}
        sinks: dict[Net, list[tuple[str, Net]]] = defaultdict(list)
        for unit, net in ends:
            for output in passed[net]:
                sinks[output].append((unit, net))
        return sinks

    def up_to(self, output: Net) -> set[Chain]:
        """Chains that end with a feed-through's output."""
        if output in self.pending:
            raise LoopError(f"combinational loop from unit {self.units.owner(output)} to itself")
        if output not in self.heads:
            self.pending.add(output)
            units, found = self.units, set()
            for net in units.feeds[output]:
                unit = units.owner(output)
                step = f"{unit}: {units.port(net, unit)} -> {units.port(output, unit)}"
                for source in self.sources.get(net, ()):
                    if source in units.feeds:
                        found |= {(*chain, step) for chain in self.up_to(source)}
                    else:
                        found.add((self._place(units.owner(source), source), step))
                if net not in self.sources:  # a register between the units
                    found.add(("", step))
            self.pending.remove(output)
            self.heads[output] = found
        return self.heads[output]

    def _place(self, unit: str, net: Net) -> str:
        return f"{unit or OUTSIDE}.{self.units.port(net, unit)}"

    def whole(self) -> set[Chain]:
        found: set[Chain] = set()
        for output in self.units.feeds:
            self.up_to(output)
            for unit, net in self.sinks.get(output, ()):
                onward = self.fed_by.get(net, set()) & self.sinks.keys()
                if any(self.units.owner(further) == unit for further in onward):
                    continue
                end = self._place("" if unit == OUTSIDE else unit, net)
                found |= {(*chain, end) for chain in self.up_to(output)}
        return found


def chains(units: Units) -> list[Chain]:
    """The paths through three units or more, the longest first; of equal names once.

    Raises
    ------
    LoopError
        One comes back to where it has been.
    """
    # The place where it begins is "" for a register that is in no unit.
    found = [chain for chain in _Chains(units).whole() if chain[0] or len(chain) > 3]
    return sorted(found, key=lambda chain: (-len(chain), chain))
