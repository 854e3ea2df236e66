"""When signals arrive: the longest path to every net and every end."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from moesaic.hw.timing import delays
from moesaic.hw.timing.design import Design
from moesaic.hw.timing.netlist import Ints, Kind

Floats = NDArray[np.float32]
NONE = -1


class LoopError(Exception):
    """Cells drive themselves, so no arrival time exists."""


@dataclass(frozen=True)
class Analysis:
    """Arrival times of a design, ns.

    Attributes
    ----------
    loads
        Routed pins on each net.
    wire
        Delay of each net to its routed pins.
    arrival
        Of each net: at its driver, the latest; -inf where no path begins.
    through
        Of each net: the arc that the latest signal came by, or ``NONE`` where its path begins.
    launch
        Of each net: the launch that drives it, or ``NONE``.
    total
        Of each capture: length of the longest path, setup included.
    """

    design: Design
    loads: NDArray[np.int64]
    wire: Floats
    arrival: Floats
    through: Ints
    launch: Ints
    total: Floats


def _local(design: Design) -> tuple[NDArray[np.bool_], Floats, NDArray[np.bool_], Floats]:
    """Which pins are reached without the fabric, and delays, once cells share slices and DSPs.

    - A LUT that drives one carry input or one flip-flop lies in its slice, and so does a carry
      sum that drives one flip-flop.
    - A flip-flop in front of a multiplier is the multiplier's own register: replicated, where it
      drives more. So is one behind it, if nothing else sees the product.
    """
    arcs, captures = design.arcs, design.captures
    kinds = np.full(design.nets, NONE, np.int32)
    kinds[arcs.target] = arcs.cell
    kinds[design.launches.net] = design.launches.cell
    pins = np.bincount(arcs.source[arcs.routed], minlength=design.nets)
    pins += np.bincount(captures.net[captures.routed], minlength=design.nets)
    alone = pins == 1
    near = alone & np.isin(kinds, (Kind.LUT, Kind.CARRY, Kind.MUX))

    routed, delay = arcs.routed.copy(), arcs.delay.copy()
    routed &= ~((arcs.cell == Kind.CARRY) & near[arcs.source] & (kinds[arcs.source] == Kind.LUT))
    own = (arcs.cell == Kind.DSP) & routed & (kinds[arcs.source] == Kind.FLIP_FLOP)
    routed[own] = False
    delay[own] = -delays.CLOCK_TO_Q  # the multiplier's time counts from its own register

    flip_flop = captures.cell == Kind.FLIP_FLOP
    captured, setup = captures.routed.copy(), captures.delay.copy()
    captured &= ~(flip_flop & near[captures.net])
    elsewhere = np.zeros(design.nets, np.bool_)
    elsewhere[arcs.source] = True
    elsewhere[captures.net[~flip_flop]] = True
    held = flip_flop & (kinds[captures.net] == Kind.DSP) & ~elsewhere[captures.net]
    captured[held] = False
    setup[held] = 0.0
    return routed, delay, captured, setup


def _levels(design: Design) -> list[NDArray[np.int64]]:
    """Arcs in rounds: those of a round begin at nets whose arrivals are known by then.

    Raises
    ------
    LoopError
        Some never are; the message names nets of the loop.
    """
    arcs = design.arcs
    waiting = np.bincount(arcs.target, minlength=design.nets)
    order = np.argsort(arcs.source, kind="stable")
    first = np.searchsorted(arcs.source[order], np.arange(design.nets + 1))
    ready = np.flatnonzero(waiting == 0)
    rounds, done = [], 0
    while len(ready):
        begin, count = first[ready], first[ready + 1] - first[ready]
        offset = np.repeat(begin - np.concatenate([[0], np.cumsum(count)[:-1]]), count)
        chosen = order[np.arange(count.sum()) + offset]
        done += len(chosen)
        if len(chosen):
            rounds.append(chosen)
        targets, times = np.unique(arcs.target[chosen], return_counts=True)
        waiting[targets] -= times
        ready = targets[waiting[targets] == 0]
    if done < len(arcs.source):
        stuck = np.flatnonzero(waiting > 0)
        some = [design.names[net] for net in stuck.tolist() if net in design.names]
        raise LoopError(f"combinational loop through {', '.join(some[:4]) or 'unnamed nets'}")
    return rounds


def analyse(design: Design) -> Analysis:
    """The longest path to every net and every capture.

    Raises
    ------
    LoopError
        The design has a combinational loop.
    """
    arcs, launches, captures = design.arcs, design.launches, design.captures
    routed, delay, captured, setup = _local(design)
    loads = np.bincount(arcs.source[routed], minlength=design.nets)
    loads += np.bincount(captures.net[captured], minlength=design.nets)
    wire = delays.wire(loads)

    arrival = np.full(design.nets, -np.inf, np.float32)
    through = np.full(design.nets, NONE, np.int32)
    launch = np.full(design.nets, NONE, np.int32)
    np.maximum.at(arrival, launches.net, launches.delay)
    launch[launches.net] = np.arange(len(launches.net), dtype=np.int32)
    for chosen in _levels(design):
        source, target = arcs.source[chosen], arcs.target[chosen]
        value = arrival[source] + np.where(routed[chosen], wire[source], 0) + delay[chosen]
        order = np.lexsort((value, target))
        last = np.flatnonzero(np.diff(target[order], append=-1))
        best, nets = value[order][last], target[order][last]
        better = best > arrival[nets]
        arrival[nets[better]] = best[better]
        through[nets[better]] = chosen[order][last][better]
    total = arrival[captures.net] + np.where(captured, wire[captures.net], 0) + setup
    return Analysis(design, loads, wire, arrival, through, launch, total)
