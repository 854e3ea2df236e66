"""cocotb bench of RouterUnit against ``semantics.route``: queues, weights, rate, order."""

from __future__ import annotations

import os
import random
from collections import deque
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import cocotb
import torch
from cocotb.clock import Clock
from cocotb.triggers import FallingEdge, ReadOnly

from moesaic.hw.router.scores import CORRECTED_LATENCY
from moesaic.spec import isa, semantics
from moesaic.spec.presets import load_arch
from tests.hw.grants import Grants

ARCH = load_arch(os.environ["ARCH_FILE"])
LOW, HIGH = -(1 << 23), (1 << 23) - 1
Entry = tuple[int, int]


@dataclass(kw_only=True)
class Routing:
    """One ROUTE with its logits [tokens, experts]."""

    logits: list[list[int]]
    top_k: int
    first_row: int = 0
    renormalise: int = 0
    sigmoid: int = 0
    corrections: list[int] | None = None
    multiplier: int = 1 << 15
    shift: int = 20
    sequence: int = 1
    wait: int = 0
    signal: int = 0

    @property
    def experts(self) -> int:
        return len(self.logits[0])

    @property
    def chunks(self) -> int:
        return -(-self.experts // ARCH.lanes)

    def encode(self) -> int:
        names = "top_k first_row renormalise sigmoid multiplier shift sequence wait signal".split()
        values = {name: getattr(self, name) for name in names}
        values["corrected"] = int(self.corrections is not None)
        raw = isa.encode(isa.Opcode.ROUTE, rows=len(self.logits), experts=self.experts, **values)
        return int.from_bytes(raw, "little")

    def expected(self) -> list[list[Entry]]:
        """Queues by the law: (token, weight) of every expert, in token order."""
        order, weights = semantics.route(
            torch.tensor(self.logits),
            self.top_k,
            bool(self.renormalise),
            self.multiplier,
            self.shift,
            bool(self.sigmoid),
            None if self.corrections is None else torch.tensor(self.corrections),
        )
        queues: list[list[Entry]] = [[] for _ in range(ARCH.max_experts)]
        rows = zip(order.tolist(), weights.tolist(), strict=True)
        for token, (experts, gates) in enumerate(rows):
            for expert, gate in zip(experts, gates, strict=True):
                queues[expert].append((self.first_row + token, gate))
        return [queue[: ARCH.max_tokens] for queue in queues]


class Bench:
    """Feeds instructions and logits, and reads the queues back over both ports."""

    def __init__(self, dut: Any, *, feed: float = 1.0, token: float = 1.0) -> None:
        self.dut, self.feed, self.token = dut, feed, token
        self.instructions: deque[Routing] = deque()
        self.chunks: deque[int] = deque()
        self.given: list[int] = []
        self.granting = True
        self.grants = Grants()
        self.cycles = self.last_chunk = self.routed = self.working = 0
        self._held = False

    async def start(self) -> None:
        cocotb.start_soon(Clock(self.dut.clk, 2, "step").start())
        await self.reset()

    async def reset(self) -> None:
        self.instructions.clear()
        self.chunks.clear()
        for name in ("control__queue__valid", "logits__valid", "control__granted"):
            getattr(self.dut, name).value = 0
        for port in ("matrix", "vector"):
            getattr(self.dut, f"{port}__expert").value = 0
            getattr(self.dut, f"{port}__index").value = 0
        self.dut.rst.value = 1
        for _ in range(2):
            await FallingEdge(self.dut.clk)
        self.dut.rst.value = 0
        self._held = False
        self.grants = Grants()

    def load(self, routing: Routing) -> None:
        self.instructions.append(routing)
        first = [] if routing.corrections is None else [routing.corrections]
        for token in [*first, *routing.logits]:
            padding = [random.randint(LOW, HIGH) for _ in range(routing.chunks * ARCH.lanes)]
            values = token + padding[len(token) :]
            for c in range(routing.chunks):
                word = 0
                for lane in range(ARCH.lanes):
                    word |= (values[c * ARCH.lanes + lane] & 0xFFFFFF) << 24 * lane
                self.chunks.append(word | (c == routing.chunks - 1) << 24 * ARCH.lanes)

    async def cycle(self) -> None:
        dut = self.dut
        self.cycles += 1
        offering = bool(self.instructions)
        dut.control__queue__valid.value = int(offering)
        if offering:
            dut.control__queue__payload.value = self.instructions[0].encode()
        self._held = bool(self.chunks) and (self._held or random.random() < self.feed)
        dut.logits__valid.value = int(self._held)
        if self._held:
            dut.logits__payload.value = self.chunks[0]
        dut.control__granted.value = int(self.grants.granted)
        await ReadOnly()
        if offering and int(dut.control__queue__ready.value):
            self.instructions.popleft()
        if self._held and int(dut.logits__ready.value):
            self.chunks.popleft()
            self.last_chunk, self._held = self.cycles, False
        wait, take = int(dut.control__wait.value), bool(int(dut.control__take.value))
        there = self.granting and random.random() < self.token
        self.grants.sample(bool(int(dut.control__want.value)), wait, take, there or not wait)
        if int(dut.control__give.value):
            self.given.append(int(dut.control__signal.value))
        self.routed += int(dut.routed_tokens.value)
        self.working += int(dut.control__working.value)
        await FallingEdge(dut.clk)

    async def finish(self, limit: int = 20_000) -> None:
        """Run until one more instruction has given its tokens."""
        done = len(self.given)
        for _ in range(limit):
            await self.cycle()
            if len(self.given) > done:
                return
        raise AssertionError("the routing never finished")

    async def read_queues(self) -> list[list[Entry]]:
        """All queues, over both ports, which must agree."""
        dut = self.dut
        queues: list[list[Entry]] = []
        for expert in range(ARCH.max_experts):
            dut.matrix__expert.value = dut.vector__expert.value = expert
            await self.cycle()
            count = int(dut.matrix__count.value)
            assert int(dut.vector__count.value) == count
            entries = []
            for index in range(count):
                dut.matrix__index.value = dut.vector__index.value = index
                await self.cycle()
                entry = (int(dut.matrix__token.value), int(dut.matrix__weight.value))
                assert (int(dut.vector__token.value), int(dut.vector__weight.value)) == entry
                entries.append(entry)
            queues.append(entries)
        return queues

    async def verify(self, routing: Routing) -> list[list[Entry]]:
        """Compare queues and published state with the law; returns the queues."""
        hit = int(self.dut.state__hit.value)
        assert int(self.dut.state__sequence.value) == routing.sequence
        queues, expected = await self.read_queues(), routing.expected()
        compare(queues, expected)
        assert hit == sum(1 << e for e, queue in enumerate(expected) if queue)
        return queues


def compare(queues: list[list[Entry]], expected: list[list[Entry]]) -> None:
    for expert, (got, want) in enumerate(zip(queues, expected, strict=True)):
        assert got == want, f"expert {expert}: {got}, not {want}"


def logits(tokens: int, experts: int, style: str) -> list[list[int]]:
    """Tokens of one style: plain, ties, extreme, same (all to the first experts), one, spread."""

    def value(token: int, expert: int) -> int:
        if style == "ties":
            return random.randint(-1, 1)
        if style == "extreme":
            return random.choice([LOW, HIGH, 0, LOW + 1, HIGH - 1])
        if style == "same":
            return 12345
        if style == "one":
            return HIGH if expert == experts - 1 else LOW
        if style == "spread":
            return random.randint(LOW, HIGH)
        return int(random.gauss(0, 30_000))

    return [[value(t, e) for e in range(experts)] for t in range(tokens)]


def corrections(experts: int) -> list[int]:
    """Some that decide, some that do not, some out of range."""
    spread = random.choice([0, 1, 1 << 8, 1 << 16, 1 << 19, HIGH])
    return [random.randint(-spread, spread) for _ in range(experts)]


STYLES = ("plain", "ties", "extreme", "same", "one", "spread")


def random_routing(sequence: int, style: str) -> Routing:
    experts = random.randint(1, ARCH.max_experts)
    tokens = random.choice([1, random.randint(1, ARCH.max_tokens)])
    sigmoid = random.getrandbits(1)
    return Routing(
        logits=logits(tokens, experts, style),
        top_k=random.randint(1, min(4, experts)),
        first_row=random.randint(0, ARCH.max_tokens - tokens),
        renormalise=random.getrandbits(1),
        sigmoid=sigmoid,
        corrections=corrections(experts) if sigmoid and random.getrandbits(1) else None,
        multiplier=random.choice([0, 65535, random.getrandbits(16), 1 << 15]),
        shift=random.choice([0, 62, random.randint(8, 40), 20, 22]),
        sequence=sequence,
        wait=random.choice([0, random.getrandbits(6)]),
        signal=random.getrandbits(6),
    )


@cocotb.test()
async def random_routings(dut: Any) -> None:
    """Every kind of logits and instruction, with and without pauses; state never leaks."""
    sequence = 0
    for feed, token in ((1.0, 1.0), (0.4, 0.05)):
        bench = Bench(dut, feed=feed, token=token)
        await bench.start()
        assert int(dut.state__sequence.value) == 0
        routed = 0
        for style in STYLES * 2:
            sequence = sequence % 255 + 1
            routing = random_routing(sequence, style)
            bench.load(routing)
            await bench.finish()
            assert bench.given[-1] == routing.signal
            await bench.verify(routing)
            routed += len(routing.logits)
            assert bench.routed == routed and not int(dut.control__busy.value)


@cocotb.test()
async def many_choices(dut: Any) -> None:
    """Up to 15 choices, as many as experts, and more choices than experts."""
    bench = Bench(dut)
    await bench.start()
    most = min(15, ARCH.max_experts)
    for top_k, experts in ((most, ARCH.max_experts), (most, most), (4, 3), (2, 1), (1, 1)):
        for renormalise, sigmoid in product((0, 1), repeat=2):
            for style in ("plain", "ties"):
                routing = Routing(
                    logits=logits(min(24, ARCH.max_tokens), experts, style),
                    top_k=top_k,
                    renormalise=renormalise,
                    sigmoid=sigmoid,
                )
                bench.load(routing)
                await bench.finish()
                await bench.verify(routing)


@cocotb.test()
async def corrected(dut: Any) -> None:
    """Corrections decide the choice and leave the weights alone; routings with and without them
    follow one another, with and without pauses."""
    for feed in (1.0, 0.3):
        bench = Bench(dut, feed=feed)
        await bench.start()
        decided = 0
        for number in range(24):
            routing = random_routing(number + 1, STYLES[number % len(STYLES)])
            routing.sigmoid, routing.wait = 1, 0
            routing.top_k = min(4, max(1, routing.experts // 2))
            routing.multiplier, routing.shift = 40000, random.choice([20, 22, 24])
            routing.corrections = corrections(routing.experts) if number % 4 else None
            bench.load(routing)
            await bench.finish()
            await bench.verify(routing)
            decided += routing.expected() != replace(routing, corrections=None).expected()
        assert decided >= 3, "the corrections decided nothing"


@cocotb.test()
async def corrected_rate(dut: Any) -> None:
    """Corrected, a token takes about a cycle per expert."""
    bench = Bench(dut)
    await bench.start()
    experts, tokens = ARCH.max_experts, ARCH.max_tokens
    routing = Routing(logits=logits(tokens, experts, "plain"), top_k=min(2, experts), sigmoid=1)
    routing.corrections = corrections(experts)
    bench.load(routing)
    await bench.finish()
    per_token = max(experts + 2 * routing.chunks, routing.top_k, ARCH.rank_cycles)
    dut._log.info(f"{experts} experts, {tokens} tokens: {bench.cycles} cycles")
    assert bench.cycles <= per_token * (tokens + 2) + 52 + ARCH.rank_cycles + CORRECTED_LATENCY
    await bench.verify(routing)


@cocotb.test()
async def rate(dut: Any) -> None:
    """Cycles per token and the latency behind the last one are what the unit promises."""
    for top_k in (1, 2, 4):
        for experts in (ARCH.max_experts, ARCH.max_experts * 3 // 4):
            bench = Bench(dut)
            await bench.start()
            tokens = ARCH.max_tokens
            routing = Routing(logits=logits(tokens, experts, "plain"), top_k=min(top_k, experts))
            bench.load(routing)
            await bench.finish()
            per_token = max(routing.chunks + 1, routing.top_k, ARCH.rank_cycles)
            behind = bench.cycles - bench.last_chunk
            case = f"top {routing.top_k} of {experts}, {tokens} tokens"
            dut._log.info(f"{case}: {bench.cycles} cycles, {behind} behind the last chunk")
            limit = 46 + ARCH.rank_cycles + 2 * per_token
            assert behind <= limit, f"{behind} cycles after the last chunk"
            assert bench.cycles <= per_token * (tokens + 1) + 52 + ARCH.rank_cycles, bench.cycles
            assert bench.working >= per_token * tokens
            await bench.verify(routing)


@cocotb.test()
async def order_of_instructions(dut: Any) -> None:
    """Queues and state stay until the next ROUTE has its tokens; logits wait for their ROUTE."""
    bench = Bench(dut)
    await bench.start()
    first, second = random_routing(9, "plain"), random_routing(10, "ties")
    first.wait, second.wait = 0, 0b100
    bench.granting = False
    bench.load(first)
    bench.load(second)
    await bench.finish()
    for _ in range(100):
        await bench.cycle()
    assert len(bench.chunks) == len(second.logits) * second.chunks, "logits taken too early"
    assert int(dut.control__wait.value) == 0b100
    await bench.verify(first)
    bench.granting = True
    await bench.finish()
    await bench.verify(second)


@cocotb.test()
async def full_queues(dut: Any) -> None:
    """More tokens than a queue holds: the surplus is lost, other queues stay whole."""
    bench = Bench(dut)
    await bench.start()
    experts = ARCH.max_experts
    tokens = logits(ARCH.max_tokens + 9, experts, "one")
    tokens += logits(3, experts, "plain")
    for expert in range(0, experts, 3):
        routing = Routing(logits=[[*t[expert:], *t[:expert]] for t in tokens], top_k=1)
        bench.load(routing)
        await bench.finish()
        wrapped = [
            [(row % ARCH.max_tokens, weight) for row, weight in queue]
            for queue in routing.expected()
        ]
        compare(await bench.read_queues(), wrapped)


@cocotb.test()
async def reset_in_the_middle(dut: Any) -> None:
    """Reset at any moment leaves nothing behind."""
    bench = Bench(dut)
    await bench.start()
    for trial in range(20):
        bench.load(random_routing(5, "plain"))
        for _ in range(random.randint(1, 80)):
            await bench.cycle()
        await bench.reset()
        assert int(dut.state__sequence.value) == 0 and not int(dut.control__busy.value)
        routing = Routing(logits=logits(5, min(5, ARCH.max_experts), "plain"), top_k=2)
        routing.sequence = trial + 1
        bench.load(routing)
        await bench.finish()
        await bench.verify(routing)


@cocotb.test()
async def checker_notices(dut: Any) -> None:
    """A weight that is off by one, a swapped token, a missing entry: each fails the check."""
    bench = Bench(dut)
    await bench.start()
    routing = Routing(logits=logits(8, min(4, ARCH.max_experts), "plain"), top_k=2)
    bench.load(routing)
    await bench.finish()
    queues = await bench.verify(routing)
    expert = next(e for e, queue in enumerate(queues) if queue)
    token, weight = queues[expert][0]
    rest = queues[expert][1:]
    for wrong in ([(token, weight ^ 1), *rest], [(token ^ 1, weight), *rest], rest):
        expected = routing.expected()
        expected[expert] = wrong
        try:
            compare(queues, expected)
        except AssertionError:
            continue
        raise RuntimeError("the checker let a wrong queue pass")
