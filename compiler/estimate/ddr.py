"""What a DDR memory behind all ports gives to traffic that is known, cycle by cycle.

The same rules as the simulated one's (``sim/harness/ddr.h``), written the slow and obvious way:
tests hold the two against each other, and the cost model takes its shares from here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from moesaic.spec.memory import DdrTiming


@dataclass(frozen=True)
class Request:
    """A burst of one port."""

    address: int
    beats: int
    write: bool = False


@dataclass
class _Burst:
    request: Request
    end: int
    """Of its bytes."""
    wanted_ps: int
    """When its data may begin; of a write, when they are complete."""
    response: int
    data_ps: int | None = None
    taken: int = 0
    admitted: bool = False
    passed: int = 0


@dataclass
class _Bank:
    row: int | None
    command_ps: int
    close_ps: int


@dataclass
class _Port:
    """A master that wants all of its bursts at once, as far as it may, and never makes a pause."""

    data_bytes: int
    todo: list[Request]
    outstanding: int
    reads: list[_Burst] = field(default_factory=list)
    writes: list[_Burst] = field(default_factory=list)
    stored: list[_Burst] = field(default_factory=list)
    """Writes that are complete: scheduled or not, until their response."""
    valid: bool = False
    ready: bool = False
    responds: bool = False
    read_cycles: list[int] = field(default_factory=list)
    write_cycles: list[int] = field(default_factory=list)
    """When the last beat of each read, and the response of each write, was taken."""

    def open(self, write: bool) -> bool:
        held = len(self.writes) + len(self.stored) if write else len(self.reads)
        return held < self.outstanding


class DdrModel:
    """A controller with ``ports`` masters, each with bursts of its own.

    Parameters
    ----------
    timing, data_bits
        Of the memory.
    period_ps, latency_cycles
        Of the ports: their clock, and what a read takes to an open row on a free bus.
    outstanding
        Bursts that a port has under way at most, in each direction.
    """

    def __init__(
        self,
        timing: DdrTiming,
        data_bits: int,
        period_ps: int,
        latency_cycles: int,
        outstanding: int = 8,
    ) -> None:
        self.timing, self.bus_bytes = timing, data_bits // 8
        self.period, self.latency, self.outstanding = period_ps, latency_cycles, outstanding
        self.cycle = 0
        self.ports: list[_Port] = []
        self.free_ps, self.refresh_ps = 0, timing.refresh_interval_ps
        self.wrote = self.draining = False
        self.banks = [_Bank(None, 0, 0) for _ in range(timing.banks)]
        self.activated = [0] * max(1, 4 // timing.groups)
        self.admitted_bytes = 0
        self.refreshes = self.turnarounds = self.openings = 0

    def run(self, traffic: Sequence[Sequence[Request]], data_bytes: Sequence[int]) -> int:
        """Serve all; returns the cycle in which the last beat or response was taken."""
        for bursts, size in zip(traffic, data_bytes, strict=True):
            self.ports.append(_Port(size, list(bursts), self.outstanding))
        while any(p.todo or p.reads or p.writes or p.stored for p in self.ports):
            self._begin()
            for port in self.ports:
                self._take(port)
        return self.cycle - 1

    def _begin(self) -> None:
        """What ports are shown in this cycle."""
        now = self.cycle * self.period
        ahead = now + self.timing.precharge_ps + self.timing.activate_ps + self.timing.read_ps
        while self.free_ps <= ahead and self._choose(now, ahead):
            pass
        for port in self.ports:
            port.valid = bool(port.reads) and self._arrived(port, port.reads[0], now)
            port.ready = bool(port.writes) and self._admit(port.writes[0])
            first = port.stored[0] if port.stored else None
            port.responds = (
                first is not None and first.data_ps is not None and first.response <= self.cycle
            )

    def _take(self, port: _Port) -> None:
        """What happens at the end of this cycle; the last port ends it."""
        asks = port.todo[0] if port.todo else None
        accepted = asks is not None and port.open(asks.write)
        if port.valid:
            burst = port.reads[0]
            burst.taken += 1
            if burst.taken == burst.request.beats:
                port.reads.pop(0)
                port.read_cycles.append(self.cycle)
        if port.responds:
            port.stored.pop(0)
            port.write_cycles.append(self.cycle)
        if port.ready:
            burst = port.writes[0]
            burst.taken += 1
            if burst.taken == burst.request.beats:
                burst.wanted_ps = self.cycle * self.period
                burst.response = self.cycle + max(1, self.latency)
                port.stored.append(port.writes.pop(0))
        if accepted and asks is not None:
            port.todo.pop(0)
            ready = self.cycle + self.latency
            end = asks.address + asks.beats * port.data_bytes
            burst = _Burst(asks, end, ready * self.period, ready)
            (port.writes if asks.write else port.reads).append(burst)
        if port is self.ports[-1]:
            self.cycle += 1

    def _admit(self, burst: _Burst) -> bool:
        size = burst.end - burst.request.address
        room = self.timing.write_buffer_bytes - self.admitted_bytes
        if not burst.admitted and (size <= room or not self.admitted_bytes):
            burst.admitted = True
            self.admitted_bytes += size
        return burst.admitted

    def _arrived(self, port: _Port, burst: _Burst, now: int) -> bool:
        if burst.data_ps is None:
            return False
        access = 8 * self.bus_bytes
        first = burst.request.address // access * access
        there = burst.request.address + (burst.taken + 1) * port.data_bytes - first
        return now >= burst.data_ps + there * 4 * self.timing.clock_ps // access

    def _next_read(self, port: _Port) -> _Burst | None:
        held = 0
        for burst in port.reads:
            size = burst.end - burst.request.address
            if burst.data_ps is None:
                fits = not held or held + size <= self.timing.read_buffer_bytes
                return burst if fits else None
            held += size - burst.taken * port.data_bytes
        return None

    def _choose(self, now: int, ahead: int) -> bool:
        reads = [r for port in self.ports if (r := self._next_read(port)) and r.wanted_ps <= ahead]
        waiting = [[w for w in port.stored if w.data_ps is None] for port in self.ports]
        writes = [one[0] for one in waiting if one and one[0].wanted_ps <= ahead]
        size = sum(w.end - w.request.address for one in waiting for w in one)
        if not writes:
            self.draining = False
        elif not reads or 2 * size >= self.timing.write_buffer_bytes:
            self.draining = True
        heads = writes if self.draining else reads
        if not heads:
            return False
        late = [burst for burst in heads if burst.passed >= self.timing.most_passes]
        if late:
            best = min(late, key=lambda burst: burst.wanted_ps)
        else:
            best = min(heads, key=lambda burst: (self._slot(burst, now)[0], burst.wanted_ps))
        if self.draining:
            self.admitted_bytes -= best.end - best.request.address
        else:
            for burst in reads:
                burst.passed += burst is not best
        self._serve(best, now)
        return True

    def _place(self, burst: _Burst) -> tuple[_Bank, int]:
        span = self.timing.groups * self.timing.columns * self.bus_bytes
        row, bank = divmod(burst.request.address // span, self.timing.banks)
        return self.banks[bank], row

    def _bus_ps(self, write: bool) -> int:
        if self.wrote and not write:
            return self.free_ps + self.timing.write_to_read_ps + self.timing.read_ps
        return self.free_ps + (self.timing.read_to_write_ps if write and not self.wrote else 0)

    def _slot(self, burst: _Burst, now: int) -> tuple[int, int | None]:
        """When its data begin, and when its row is opened, if it is."""
        timing, write = self.timing, burst.request.write
        bank, row = self._place(burst)
        opened, command = None, bank.command_ps
        if bank.row != row:
            opened = max(now, bank.close_ps)
            opened += 0 if bank.row is None else timing.precharge_ps
            opened = max(opened, self.activated[0] + timing.activate_window_ps)
            command = opened + timing.activate_ps
        delay = timing.write_ps if write else timing.read_ps
        return max(self._bus_ps(write), burst.wanted_ps, command + delay), opened

    def _serve(self, burst: _Burst, now: int) -> None:
        timing, write = self.timing, burst.request.write
        start = max(self._bus_ps(write), burst.wanted_ps)
        while max(start, self.free_ps) >= self.refresh_ps:
            self._refresh()
        begin, opened = self._slot(burst, now)
        bank, row = self._place(burst)
        if opened is not None:
            bank.row, bank.command_ps = row, opened + timing.activate_ps
            bank.close_ps = opened + timing.row_open_ps
            self.activated = [*self.activated[1:], opened]
            self.openings += 1
        size = 8 * self.bus_bytes
        end = begin + (-(-burst.end // size) - burst.request.address // size) * 4 * timing.clock_ps
        if write:
            bank.close_ps = max(bank.close_ps, end + timing.write_recovery_ps)
            burst.response = max(burst.response, -(-end // self.period))
        else:
            last = end - 4 * timing.clock_ps - timing.read_ps
            bank.close_ps = max(bank.close_ps, last + timing.read_to_close_ps)
        self.turnarounds += write != self.wrote
        burst.data_ps, self.free_ps, self.wrote = begin, end, write

    def _refresh(self) -> None:
        begin = max(self.refresh_ps, self.free_ps)
        begin = max([begin, *(bank.close_ps for bank in self.banks if bank.row is not None)])
        end = begin + self.timing.precharge_ps + self.timing.refresh_ps
        self.banks = [_Bank(None, end, end) for _ in self.banks]
        self.free_ps = end
        self.refresh_ps += self.timing.refresh_interval_ps
        self.refreshes += 1
