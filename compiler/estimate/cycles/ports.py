"""Bus ports of the memory: what they transfer by when."""

from __future__ import annotations

from moesaic.compiler.estimate.cycles.timing import Memory, SharedBus, Timing


class Port:
    """A bus port of the memory: a bandwidth share that saves up some credit while idle.

    Short bursts cost bandwidth behind a long latency: only so many may be under way, each for the
    latency, its beats and a few cycles.
    """

    def __init__(self, memory: Memory, timing: Timing) -> None:
        self.share, self.limit = memory.share, memory.credit
        round_trip = memory.latency + timing.burst_beats + timing.burst
        self.beat_cycles = max(1 + memory.gap, round_trip / timing.outstanding_beats)
        self.time = 0.0
        self.credit = float(memory.credit)
        self.beats = 0.0

    def serve(self, beats: float, earliest: float, *, write: bool = False) -> float:
        """Transfer ``beats`` from ``earliest`` on; returns when the last one has crossed."""
        # Called for every tile of a frame: comparisons are quicker than min and max.
        start, share, limit, credit = self.time, self.share, self.limit, self.credit
        if earliest > start:
            credit = min(limit, credit + (earliest - start) * share)
            start = earliest
        cycles = max(beats * self.beat_cycles, (beats - credit) / share)
        credit = credit + cycles * share - beats
        self.credit = credit if credit < limit else limit
        self.time = start + cycles
        self.beats += beats
        return self.time

    def least(self, beats: float) -> float:
        """No more than ``serve`` returns once ``beats`` have crossed, whenever they are asked
        for."""
        return self.time + max(beats * self.beat_cycles, (beats - self.credit) / self.share)

    def wait(self, at: float) -> float:
        """Cycles beyond the latency that the first beat of what is asked for at ``at`` takes."""
        return 0.0

    def hold(self, until: float) -> float:
        """Nobody took the last beat before ``until``."""
        if until > self.time:
            self.credit = min(self.limit, self.credit + (until - self.time) * self.share)
            self.time = until
        return self.time


class WeightsOfBus(Port):
    """The weight ports on a bus that the data port uses, too."""

    def __init__(self, memory: Memory, timing: Timing, bus: SharedBus) -> None:
        super().__init__(memory, timing)
        self.share, self.limit = bus.weights, bus.credit
        self.credit = 0.0
        self.beat_cycles = max(1.0, self.beat_cycles - memory.gap)
        self.owed = 0.0
        """Cycles in which the bus was with others, and that no idle time has made up for."""

    def serve(self, beats: float, earliest: float, *, write: bool = False) -> float:
        self.owed = max(0.0, self.owed - max(0.0, earliest - self.time))
        self.time += self.owed
        self.owed = 0.0
        return super().serve(beats, earliest)

    def hold(self, until: float) -> float:
        self.owed = max(0.0, self.owed - max(0.0, until - self.time))
        return super().hold(until)


class DataOfBus(Port):
    """The data port, or the output ports, on a bus that weights use, too."""

    def __init__(
        self, memory: Memory, timing: Timing, bus: SharedBus, weights: WeightsOfBus
    ) -> None:
        super().__init__(memory, timing)
        self.bus, self.weights = bus, weights
        self.share, self.limit, self.credit = bus.data, 0, 0.0
        self.beat_cycles = max(1.0, self.beat_cycles - memory.gap)

    def serve(self, beats: float, earliest: float, *, write: bool = False) -> float:
        self.share = self.bus.data
        if self._busy(max(self.time, earliest)):
            self.share = self.bus.write_busy if write else self.bus.read_busy
        self.weights.owed += beats * (self.bus.write_cost if write else self.bus.read_cost)
        return super().serve(beats, earliest if write else earliest + self.wait(earliest))

    def wait(self, at: float) -> float:
        return self.bus.busy_wait if self._busy(at) else 0.0

    def _busy(self, at: float) -> bool:
        return self.weights.time >= at


def weight_port(memory: Memory, timing: Timing) -> Port:
    """What all weight ports do together, on a port of their own each or on the memory's bus."""
    return WeightsOfBus(memory, timing, memory.bus) if memory.bus else Port(memory, timing)
