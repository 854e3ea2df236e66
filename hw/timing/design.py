"""Links the netlists of blocks into one graph of the whole design."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from moesaic.hw.timing import delays
from moesaic.hw.timing.netlist import CONSTANT, Arcs, Ends, Ints, Kind, Netlist


@dataclass(frozen=True)
class Design:
    """A flat graph; fields as in :class:`~moesaic.hw.timing.netlist.Netlist`.

    Attributes
    ----------
    nets
        How many there are.
    arc_block, launch_block, capture_block
        Index into ``blocks`` of the cell of each arc, launch and capture.
    blocks
        Path of each instance of a block; the first is the top with the path "".
    """

    nets: int
    names: dict[int, str]
    arcs: Arcs
    launches: Ends
    captures: Ends
    arc_block: Ints
    launch_block: Ints
    capture_block: Ints
    blocks: list[str]


class _Linker:
    def __init__(self, netlists: Mapping[str, Netlist]) -> None:
        self.netlists = netlists
        self.nets = 0
        self.names: dict[int, str] = {}
        self.blocks: list[str] = []
        self.arcs: list[tuple[NDArray[np.generic], ...]] = []
        self.launches: list[tuple[NDArray[np.generic], ...]] = []
        self.captures: list[tuple[NDArray[np.generic], ...]] = []

    def place(self, module: str, path: str, ports: Mapping[str, Ints]) -> None:
        """Add an instance; ``ports`` are the outer nets at its ports."""
        netlist = self.netlists[module]
        number = len(self.blocks)
        self.blocks.append(path)
        # Every net of the block gets a new number, except those that are nets outside.
        outer = np.full(len(netlist.names), CONSTANT, np.int32)
        for inner in (netlist.inputs, netlist.outputs):
            for name, nets in inner.items():
                given = ports.get(name)
                if given is not None:
                    outer[nets[nets >= 0]] = given[nets >= 0]
        own = outer == CONSTANT
        tied = self._tied(netlist, ports)
        own[tied] = False
        outer[own] = self.nets + np.arange(own.sum(), dtype=np.int32)
        self.nets += int(own.sum())
        prefix = f"{path}." if path else ""
        for net, name in enumerate(netlist.names):
            if name and outer[net] != CONSTANT:
                self.names[int(outer[net])] = prefix + name
        arcs, block = netlist.arcs, np.full(len(netlist.arcs.source), number, np.int32)
        self.arcs.append(
            (outer[arcs.source], outer[arcs.target], arcs.delay, arcs.routed, arcs.cell, block)
        )
        for ends, into in ((netlist.launches, self.launches), (netlist.captures, self.captures)):
            where = np.full(len(ends.net), number, np.int32)
            # An end has a net; what captures there may have no output that names it.
            register = np.where(ends.register >= 0, outer[ends.register], CONSTANT)
            into.append((outer[ends.net], ends.delay, ends.routed, ends.cell, register, where))
        self._joints(netlist, outer, ports, number)
        for instance in netlist.instances:
            if instance.module not in self.netlists:
                continue
            inside = {
                name: np.where(nets >= 0, outer[nets], CONSTANT)
                for name, nets in instance.ports.items()
            }
            self.place(instance.module, prefix + instance.name, inside)

    @staticmethod
    def _tied(netlist: Netlist, ports: Mapping[str, Ints]) -> NDArray[np.bool_]:
        """Nets of inputs that are tied to a constant outside."""
        tied = np.zeros(len(netlist.names), np.bool_)
        for name, nets in netlist.inputs.items():
            given = ports.get(name)
            if given is not None:
                tied[nets[(nets >= 0) & (given < 0)]] = True
        return tied

    def _joints(
        self, netlist: Netlist, outer: Ints, ports: Mapping[str, Ints], number: int
    ) -> None:
        """Wires where one net inside is several outside: an input that is an output too, say."""
        for inner, inwards in ((netlist.inputs, True), (netlist.outputs, False)):
            for name in inner.keys() & ports.keys():
                nets, given = inner[name], ports[name]
                both = (nets >= 0) & (given >= 0)
                inside, outside = outer[nets[both]], given[both]
                apart = (inside != outside) & (inside >= 0)
                ends = (
                    (outside[apart], inside[apart]) if inwards else (inside[apart], outside[apart])
                )
                zeros = np.zeros(int(apart.sum()), np.float32)
                kinds = np.full(len(zeros), Kind.PORT, np.int32)
                where = np.full(len(zeros), number, np.int32)
                self.arcs.append((*ends, zeros, zeros.astype(np.bool_), kinds, where))


def _stack(parts: list[tuple[NDArray[np.generic], ...]], keep: int) -> list[NDArray[np.generic]]:
    """Columns of all parts, without rows whose first ``keep`` columns have a constant."""
    columns = [np.concatenate(column) for column in zip(*parts, strict=True)]
    good = np.all([column >= 0 for column in columns[:keep]], axis=0)  # type: ignore[operator]
    return [column[good] for column in columns]


def link(netlists: Mapping[str, Netlist], top: str, *, ports: bool = True) -> Design:
    """The whole design below ``top``; instances that have no netlist are left out.

    Signals at its own ports come from registers outside and go to such; without ``ports`` they
    come from nowhere.
    """
    linker = _Linker(netlists)
    linker.place(top, "", {})
    netlist = netlists[top]
    # The top is placed first, and so its nets keep their order.
    for by_name, into, delay in (
        (netlist.inputs, linker.launches, delays.CLOCK_TO_Q),
        (netlist.outputs, linker.captures, delays.SETUP),
    ):
        nets = np.concatenate([np.zeros(0, np.int32), *(by_name.values() if ports else ())])
        nets = nets[nets >= 0]
        into.append(
            (
                nets,
                np.full(len(nets), delay, np.float32),
                np.ones(len(nets), np.bool_),
                np.full(len(nets), Kind.PORT, np.int32),
                nets,
                np.zeros(len(nets), np.int32),
            )
        )
    *arcs, arc_block = _stack(linker.arcs, 2)
    *launches, launch_block = _stack(linker.launches, 1)
    *captures, capture_block = _stack(linker.captures, 1)
    return Design(
        linker.nets,
        linker.names,
        Arcs(*arcs),  # type: ignore[arg-type]
        Ends(*launches),  # type: ignore[arg-type]
        Ends(*captures),  # type: ignore[arg-type]
        arc_block,  # type: ignore[arg-type]
        launch_block,  # type: ignore[arg-type]
        capture_block,  # type: ignore[arg-type]
        linker.blocks,
    )
