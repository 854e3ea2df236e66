"""The DDR controller behind all ports: cycles as a naive model has them, and what costs what."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Sequence

import pytest

from moesaic.compiler.estimate.ddr import DdrModel, Request
from moesaic.sim.dram import DramConfig, SharedDdr
from moesaic.spec.memory import DDR4_2400, DdrTiming
from tests.sim.dram_bench import DramBench, Signals

LATENCY, OUTSTANDING, BYTES = 20, 8, 16
Cycles = list[tuple[list[int], list[int]]]
"""Of each port: last beats of reads, and responses of writes."""


class Master:
    """Presents the bursts of one port in order, and takes whatever it is given."""

    def __init__(self, signals: Signals, todo: Sequence[Request]) -> None:
        self.s, self.todo = signals, list(todo)
        self.beats = [request.beats for request in todo if request.write]
        self.left = len(todo)
        self.reads: list[int] = []
        self.writes: list[int] = []
        self.s.rready = self.s.bready = 1
        self.s.wstrb = (1 << BYTES) - 1

    def present(self) -> None:
        self.s.arvalid = self.s.awvalid = 0
        if self.todo:
            request = self.todo[0]
            channel = "aw" if request.write else "ar"
            fields = (request.address, request.beats - 1, BYTES.bit_length() - 1, 1, 1)
            for name, value in zip(("addr", "len", "size", "burst", "valid"), fields, strict=True):
                setattr(self.s, channel + name, value)
        self.s.wvalid = bool(self.beats)
        self.s.wlast = bool(self.beats) and self.beats[0] == 1

    def look(self, cycle: int) -> None:
        """What crosses at the end of this cycle."""
        if (self.s.arvalid and self.s.arready) or (self.s.awvalid and self.s.awready):
            self.todo.pop(0)
        if self.s.rvalid and self.s.rlast:
            self.reads.append(cycle)
        if self.s.bvalid:
            self.writes.append(cycle)
        if self.s.wvalid and self.s.wready:
            self.beats[0] -= 1
            if not self.beats[0]:
                self.beats.pop(0)


def simulated(
    traffic: Sequence[Sequence[Request]], timing: DdrTiming, bits: int, mhz: float
) -> Cycles:
    """By the simulated DRAM; cycles from the first one in which something is presented."""
    ddr = SharedDdr(timing, bits, mhz)
    config = DramConfig(
        latency_cycles=LATENCY, max_outstanding=OUTSTANDING, check_hazards=False, ddr=ddr
    )
    bench = DramBench(config, ports=len(traffic), size=1 << 22)
    masters = [Master(s, todo) for s, todo in zip(bench.ports, traffic, strict=True)]
    wanted = sum(map(len, traffic))
    for _ in range(200_000):
        if sum(len(m.reads) + len(m.writes) for m in masters) == wanted:
            break
        for master in masters:
            master.present()
            master.look(bench.cycle)
        bench.tick()
    assert bench.violations == []
    return [(master.reads, master.writes) for master in masters]


def naive(
    traffic: Sequence[Sequence[Request]], timing: DdrTiming, bits: int, mhz: float
) -> tuple[Cycles, DdrModel]:
    model = DdrModel(timing, bits, SharedDdr(timing, bits, mhz).period_ps, LATENCY, OUTSTANDING)
    model.cycle = 1  # as the bench, whose first cycle has passed
    model.run(traffic, [BYTES] * len(traffic))
    return [(port.read_cycles, port.write_cycles) for port in model.ports], model


def random_traffic(seed: int, ports: int, bursts: int, writes: float) -> list[list[Request]]:
    """Runs of bursts that follow each other, from anywhere, short and long."""
    generator = random.Random(seed)
    traffic = []
    for _ in range(ports):
        mine: list[Request] = []
        while len(mine) < bursts:
            address = generator.randrange(1 << 21) // BYTES * BYTES
            write = generator.random() < writes
            longest = generator.choice([1, 4, 16, 64])
            for _ in range(generator.randint(1, 6)):
                room = (4096 - address % 4096) // BYTES
                beats = min(room, generator.randint(1, longest))
                mine.append(Request(address, beats, write))
                address += beats * BYTES
        traffic.append(mine)
    return traffic


@pytest.mark.parametrize(
    ("ports", "bits", "mhz", "writes"),
    [(1, 64, 300, 0.0), (1, 64, 300, 0.5), (3, 64, 301, 0.3), (4, 32, 302, 0.2), (5, 16, 100, 0.4)],
)
def test_cycles_are_those_of_the_naive_model(
    ports: int, bits: int, mhz: float, writes: float
) -> None:
    traffic = random_traffic(ports + bits, ports, 800 // ports, writes)
    expected, model = naive(traffic, DDR4_2400, bits, mhz)
    assert simulated(traffic, DDR4_2400, bits, mhz) == expected
    assert model.openings > 10 and bool(model.turnarounds) == bool(writes)
    assert model.refreshes > 0


@pytest.mark.parametrize(
    "field",
    [field.name for field in dataclasses.fields(DdrTiming) if field.name.endswith("_ps")],
)
def test_every_time_counts(field: str) -> None:
    """Of a memory with another one, random bursts take other cycles: the comparison sees it."""
    traffic = random_traffic(7, 3, 120, 0.3)
    other = dataclasses.replace(DDR4_2400, **{field: 3 * getattr(DDR4_2400, field)})
    assert simulated(traffic, other, 32, 300) != simulated(traffic, DDR4_2400, 32, 300)


def sequential(ports: int, bursts: int, apart: int) -> list[list[Request]]:
    return [[Request(p * apart + b * 1024, 64) for b in range(bursts)] for p in range(ports)]


def rate(traffic: Sequence[Sequence[Request]], timing: DdrTiming = DDR4_2400) -> float:
    """Share of the memory's peak, 64 bits at 300 MHz, behind the latency of the first burst."""
    ends = [max(reads, default=0) for reads, _ in simulated(traffic, timing, 64, 300)]
    size = sum(request.beats * BYTES for bursts in traffic for request in bursts)
    seconds = (max(ends) - LATENCY - 1) / 300e6
    return size / seconds / (64 / 8 * 2 / 833e-12)


def test_sequential_reads_lose_what_refreshes_take() -> None:
    timing = DDR4_2400
    lost = (timing.precharge_ps + timing.refresh_ps + timing.activate_ps + timing.read_ps) / (
        timing.refresh_interval_ps
    )
    assert rate(sequential(4, 200, 1 << 19 | 1 << 14)) == pytest.approx(1 - lost, abs=0.012)
    never = dataclasses.replace(timing, refresh_interval_ps=4_000_000_000)
    assert rate(sequential(4, 200, 1 << 19 | 1 << 14), never) > 0.985


def test_rows_of_one_bank_cost_and_banks_of_their_own_do_not() -> None:
    """Distances of a whole round of banks put all streams into the same bank."""
    assert rate(sequential(4, 60, 1 << 16)) < rate(sequential(4, 60, 1 << 16 | 1 << 14)) - 0.05


def test_ports_share_one_bus() -> None:
    """One port is bound by its own width, four by the memory."""
    assert rate(sequential(1, 60, 0)) < 0.26
    assert 0.85 < rate(sequential(4, 60, 1 << 19 | 1 << 14)) <= 1


@pytest.mark.parametrize(
    ("bits", "mhz"), [(0, 300.0), (48, 300.0), (1024, 300.0), (64, 0.5), (64, 2001.0)]
)
def test_bad_memory_is_refused(bits: int, mhz: float) -> None:
    with pytest.raises(ValueError, match="must be"):
        SharedDdr(DDR4_2400, bits, mhz)
