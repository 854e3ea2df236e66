"""Small parts against naive models: ranks, products, countdowns, register stages."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

import pytest
from amaranth import Module, Signal, signed, unsigned
from amaranth.hdl import Shape
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from amaranth.sim import Simulator, SimulatorContext

from moesaic.hw.arithmetic.countdown import Countdown
from moesaic.hw.arithmetic.product import wide_product
from moesaic.hw.memory.credit import CreditBuffer
from moesaic.hw.memory.half import HalfBuffer
from moesaic.hw.memory.resize import Narrow, Widen
from moesaic.hw.router.ranks import Ranks
from moesaic.spec.parts import FACTOR_BITS


def simulate(design: object, bench: Callable[[SimulatorContext], object]) -> None:
    simulator = Simulator(design)  # type: ignore[arg-type]
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)  # type: ignore[arg-type]
    simulator.run()


def ranks(keys: list[int], enabled: list[bool]) -> dict[int, int]:
    """Of every enabled key: how many come before it."""
    order = sorted((e for e, exists in enumerate(enabled) if exists), key=lambda e: (-keys[e], e))
    return {e: rank for rank, e in enumerate(order)}


@pytest.mark.parametrize(
    ("slots", "distances"), [(8, 1), (8, 4), (16, 1), (16, 2), (16, 4), (32, 4), (32, 16)]
)
def test_ranks_are_those_of_a_stable_sort(slots: int, distances: int) -> None:
    bits = 6
    dut = Ranks(slots, bits, distances)
    cases = []
    for trial in range(60):
        experts = random.Random(trial).randint(1, slots)
        top = 2 if trial % 3 == 0 else 1 << bits  # often equal
        keys = [random.Random(trial * 99 + e).randrange(top) for e in range(slots)]
        cases.append((keys, experts))

    async def bench(sim: SimulatorContext) -> None:
        """One set of keys behind the other, each with a naive sort's ranks."""
        results: list[list[int]] = []
        for keys, experts in cases:
            packed = sum(key << bits * e for e, key in enumerate(keys))
            sim.set(dut.enabled, (1 << experts) - 1)
            sim.set(dut.next_keys, packed)
            sim.set(dut.load, 1)
            await sim.tick()
            sim.set(dut.load, 0)
            sim.set(dut.keys, packed)
            for _ in range(dut.cycles + Ranks.LATENCY - 1):
                await sim.tick()
            results.append([int(sim.get(dut.rank[e])) for e in range(slots)])
        for (keys, experts), found in zip(cases, results, strict=True):
            expected = ranks(keys, [e < experts for e in range(slots)])
            assert {e: found[e] for e in expected} == expected, (keys, experts)

    simulate(dut, bench)


class Product(wiring.Component):
    """``a * b`` behind so many registers."""

    def __init__(self, a: Shape, b: Shape, cycles: int, factors: tuple[int, int]) -> None:
        self.cycles, self.factors = cycles, factors
        shape = (Signal(a) * Signal(b)).shape()
        super().__init__({"a": In(a), "b": In(b), "p": Out(shape)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.d.comb += self.p.eq(wide_product(m, self.a, self.b, self.cycles, "p", self.factors))
        return m


def extremes(shape: Shape) -> Iterator[int]:
    low = -(1 << shape.width - 1) if shape.signed else 0
    high = (1 << shape.width - shape.signed) - 1
    yield from (low, high, 0, 1, low + 1, high - 1)
    while True:
        yield random.randint(low, high)


@pytest.mark.parametrize("family", FACTOR_BITS)
@pytest.mark.parametrize(
    ("a", "b", "cycles"),
    [
        (signed(33), unsigned(16), 2),
        (signed(25), unsigned(16), 2),
        (signed(24), unsigned(16), 2),
        (signed(24), unsigned(16), 4),
        (unsigned(44), unsigned(13), 3),
        (signed(30), signed(30), 3),
        (signed(60), signed(40), 5),
    ],
)
def test_wide_products(a: Shape, b: Shape, cycles: int, family: str) -> None:
    dut = Product(a, b, cycles, FACTOR_BITS[family])

    async def bench(sim: SimulatorContext) -> None:
        pairs = list(
            zip(
                (x for x, _ in zip(extremes(a), range(80), strict=False)),
                (y for y, _ in zip(extremes(b), range(80), strict=False)),
                strict=True,
            )
        )
        pairs += [
            (x, y)
            for x, _ in zip(extremes(a), range(6), strict=False)
            for y, _ in zip(extremes(b), range(6), strict=False)
        ]
        for i in range(len(pairs) + cycles):
            if i >= cycles:
                x, y = pairs[i - cycles]
                assert sim.get(dut.p) == x * y, (x, y)
            if i < len(pairs):
                sim.set(dut.a, pairs[i][0])
                sim.set(dut.b, pairs[i][1])
            await sim.tick()

    simulate(dut, bench)


@pytest.mark.parametrize("family", FACTOR_BITS)
def test_a_product_of_one_block_takes_one_cycle(family: str) -> None:
    wide, narrow = FACTOR_BITS[family]
    test_wide_products(signed(wide), signed(narrow), 1, family)
    with pytest.raises(ValueError, match="1 cycles are too few for the product p"):
        test_wide_products(signed(wide + 1), signed(narrow), 1, family)


def test_product_without_enough_cycles_is_refused() -> None:
    m = Module()
    with pytest.raises(ValueError, match="2 cycles are too few for the product p"):
        wide_product(m, Signal(signed(60)), Signal(signed(60)), 2, "p")


def test_words_of_odd_ratios_are_refused() -> None:
    with pytest.raises(ValueError, match="wide must be a multiple of narrow 5, not 16"):
        Widen(5, 16)
    with pytest.raises(ValueError, match="wide must be a power of two of words of 2, not 6"):
        Narrow(6, 2)


@pytest.mark.parametrize("ratio", [1, 2, 8])
def test_words_are_put_together_and_taken_apart(ratio: int) -> None:
    m = Module()
    m.submodules.narrow = narrow = Narrow(4 * ratio, 4)
    m.submodules.widen = widen = Widen(4, 4 * ratio)
    wiring.connect(m, narrow.o, widen.i)
    words = [random.getrandbits(4 * ratio) for _ in range(100)]
    taken: list[int] = []

    async def bench(sim: SimulatorContext) -> None:
        sent = 0
        while len(taken) < len(words):
            offers, takes = sent < len(words) and random.random() < 0.7, random.random() < 0.7
            sim.set(narrow.i.valid, offers)
            sim.set(narrow.i.payload, words[sent] if offers else random.getrandbits(4 * ratio))
            sim.set(widen.o.ready, takes)
            if takes and sim.get(widen.o.valid):
                taken.append(sim.get(widen.o.payload))
            sent += offers and sim.get(narrow.i.ready)
            await sim.tick()

    simulate(m, bench)
    assert taken == words


def test_countdown_knows_its_last_step() -> None:
    m = Module()
    steps, begin, restart = Signal(4), Signal(), Signal()
    loop = Countdown(4, "loop")
    with m.If(begin):
        m.d.sync += loop.begin(steps)
    with m.Elif(restart):
        m.d.sync += loop.restart(steps - 1)
    with m.Else():
        m.d.sync += loop.step()

    async def bench(sim: SimulatorContext) -> None:
        for count in range(1, 16):
            sim.set(steps, count)
            for first in (begin, restart, restart):
                sim.set(first, 1)
                await sim.tick()
                sim.set(first, 0)
                for step in range(count):
                    assert sim.get(loop.last) == (step == count - 1), (count, step)
                    assert sim.get(loop.left) == count - 1 - step
                    if step < count - 1:
                        await sim.tick()

    simulate(m, bench)


@pytest.mark.parametrize(("offer", "take"), [(1.0, 1.0), (0.3, 1.0), (1.0, 0.3), (0.5, 0.5)])
def test_credit_buffer_keeps_words_and_order(offer: float, take: float) -> None:
    """The producer decides a cycle ahead, by ``room``; with a willing consumer it never waits."""
    dut = CreditBuffer(8)

    async def bench(sim: SimulatorContext) -> None:
        words = [random.getrandbits(8) for _ in range(200)]
        sent, got, cycles, put, idle = 0, [], 0, False, 0
        while len(got) < len(words):
            cycles += 1
            sim.set(dut.i.valid, put)
            sim.set(dut.i.payload, words[sent] if put else random.getrandbits(8))
            ready = random.random() < take
            sim.set(dut.o.ready, ready)
            room = sim.get(dut.room)
            idle += not room
            sent += put
            put = bool(room) and sent < len(words) and random.random() < offer
            if ready and sim.get(dut.o.valid):
                got.append(sim.get(dut.o.payload))
            await sim.tick()
        assert got == words
        assert take < 1 or not idle, "a consumer that takes every word still makes it wait"
        assert offer < 1 or take < 1 or cycles <= len(words) + 3

    simulate(dut, bench)


@pytest.mark.parametrize(("offer", "take"), [(1.0, 1.0), (0.3, 1.0), (1.0, 0.3), (0.5, 0.5)])
def test_half_buffer_keeps_words_and_order(offer: float, take: float) -> None:
    dut = HalfBuffer(8)

    async def bench(sim: SimulatorContext) -> None:
        words = [random.getrandbits(8) for _ in range(200)]
        sent, got, cycles = 0, [], 0
        offering = False
        while len(got) < len(words):
            cycles += 1
            offering = sent < len(words) and (offering or random.random() < offer)
            ready = random.random() < take
            sim.set(dut.i.valid, offering)
            sim.set(dut.i.payload, words[sent] if offering else random.getrandbits(8))
            sim.set(dut.o.ready, ready)
            if offering and sim.get(dut.i.ready):
                sent, offering = sent + 1, False
            if ready and sim.get(dut.o.valid):
                got.append(sim.get(dut.o.payload))
            await sim.tick()
        assert got == words
        if offer == take == 1:
            assert cycles <= 2 * len(words) + 1, "slower than a word every other cycle"

    simulate(dut, bench)
