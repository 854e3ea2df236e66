"""cocotb bench of StreamUnit: program semantics, rate, faults and abort."""

from __future__ import annotations

import os
import random
from typing import Any

import cocotb

from moesaic.spec.presets import load_arch
from tests.hw.axi_memory import Timing
from tests.hw.stream_model import Segment, StreamBench

ARCH = load_arch(os.environ["ARCH_FILE"])
LINES = ARCH.ring_read_bytes // ARCH.line_bytes
IMAGE_WORDS = 3 * 4096 * ARCH.weight_ports // ARCH.ring_read_bytes
ROUGH = Timing(latency=(1, 60), address=0.6, beat=0.8)


def random_program(bench: StreamBench, count: int, longest: int) -> list[Segment]:
    program = []
    for sequence in range(1, 2 + count // 8):
        bench.routings[sequence] = random.choice([0, ~0, random.getrandbits(ARCH.max_experts)]) & (
            (1 << ARCH.max_experts) - 1
        )
        for _ in range(8):
            words = random.choice([1, random.randint(1, longest)])
            predicated = random.random() < 0.6
            program.append(
                Segment(
                    offset=random.choice([0, random.randrange(IMAGE_WORDS - words)]),
                    words=words,
                    wait=random.choice([0, 0, random.getrandbits(6)]),
                    signal=random.choice([0, random.getrandbits(6)]),
                    sequence=sequence if predicated else 0,
                    expert=random.randrange(ARCH.max_experts),
                    speculate=random.getrandbits(1),
                )
            )
    return program


@cocotb.test()
async def random_programs(dut: Any) -> None:
    """All instruction forms under all pauses; a corrupted expectation is noticed."""
    for timing, pause in ((Timing(), 1.0), (ROUGH, 0.7), (Timing(latency=(9, 9)), 0.2)):
        bench = StreamBench(dut, ARCH, IMAGE_WORDS, timing)
        await bench.start()
        bench.load(random_program(bench, 48, 24))
        bench.ready, bench.fetched_ready, bench.offer = pause, pause, pause
        bench.token, bench.route, bench.discard = pause / 3, pause / 20, 0.3
        await bench.finish()
        bench.check()
        bench.ring[len(bench.ring) // 2] ^= 1 << random.randrange(8 * ARCH.ring_read_bytes)
        try:
            bench.check()
        except AssertionError:
            continue
        raise RuntimeError("the checker let a flipped bit pass")


@cocotb.test()
async def full_rate(dut: Any) -> None:
    """One line per cycle across instructions, behind 60 cycles of latency."""
    bench = StreamBench(dut, ARCH, IMAGE_WORDS, Timing(latency=(60, 60)))
    await bench.start()
    words = IMAGE_WORDS // 16
    bench.load([Segment(offset=i * words, words=words) for i in range(16)])
    lines = 16 * words * LINES
    await bench.finish()
    bench.check()
    assert bench.totals["control__working"] == lines
    cycles = bench.cycles - 12
    assert cycles <= lines + 60 + 20, f"{cycles} cycles for {lines} lines"


@cocotb.test()
async def uneven_ports(dut: Any) -> None:
    """Pauses of one port are hidden behind those of the others, not added to them."""
    bench = StreamBench(dut, ARCH, IMAGE_WORDS, Timing(latency=(30, 90), beat=0.9))
    await bench.start()
    words = IMAGE_WORDS // 4
    bench.load([Segment(offset=i * words, words=words) for i in range(4)])
    await bench.finish()
    bench.check()
    lines = 4 * words * LINES
    assert bench.cycles - 12 <= lines / 0.84 + 120, f"{bench.cycles} cycles for {lines} lines"


@cocotb.test()
async def full_ring(dut: Any) -> None:
    """Without a consumer the unit fetches what fits, gives the tokens for it, and waits."""
    bench = StreamBench(dut, ARCH, IMAGE_WORDS, Timing())
    await bench.start()
    words = ARCH.ring_words // 2
    bench.load([Segment(offset=i, words=words, signal=i + 1) for i in range(4)])
    bench.ready = 0.0
    for _ in range(20 * ARCH.ring_words * LINES):
        await bench.cycle()
    assert bench.given == [1, 2], bench.given
    assert int(dut.control__busy.value) and int(dut.control__stalled.value)
    bench.ready = 1.0
    await bench.finish()
    bench.check()


@cocotb.test()
async def decisions(dut: Any) -> None:
    """Waits for a routing unless told to speculate; skips cost nothing and need no data."""
    experts = ARCH.max_experts
    bench = StreamBench(dut, ARCH, IMAGE_WORDS, Timing())
    await bench.start()
    bench.routings = {7: 1 << 1}
    bench.route = 0.0
    bench.load(
        [Segment(offset=0, words=2, sequence=7, expert=0, speculate=1)]
        + [Segment(offset=e, words=1, sequence=7, expert=e) for e in range(experts)]
    )
    for _ in range(100):
        await bench.cycle()
    assert bench.outcomes == [1] and len(bench.given) == 1, "did not wait for the routing"
    assert int(dut.control__stalled.value) and not int(dut.control__wait_token.value)
    bench.route = 1.0
    before = bench.cycles
    await bench.finish()
    assert bench.cycles - before <= 3 * experts + 20
    bench.check()
    assert bench.outcomes == [1, 0, 1] + [0] * (experts - 2)


async def stop_and_restart(bench: StreamBench) -> None:
    """What the top does after an error: abort, wait for idle, reset, run the next frame."""
    dut = bench.dut
    bench._queue.clear()
    dut.abort.value = 1
    for _ in range(2000):
        await bench.cycle()
        if int(dut.idle.value):
            break
    else:
        raise AssertionError("never idle in abort")
    assert not any(memory.bursts for memory in bench.memories)
    await bench.cycle()
    assert not int(dut.fault__window.value) and not int(dut.fault__bus.value)
    await bench.pulse_reset()
    bench.reset()
    bench.load(random_program(bench, 8, 12))
    await bench.finish()
    bench.check()


@cocotb.test()
async def faults(dut: Any) -> None:
    """A violation on any single port and an error response are reported; the unit recovers."""
    port_word = ARCH.ring_read_bytes // ARCH.weight_ports
    for port in range(ARCH.weight_ports):
        for kind in ("window", "bus"):
            bench = StreamBench(dut, ARCH, IMAGE_WORDS, ROUGH)
            await bench.start()
            memory = bench.memories[port]
            size = getattr(dut, f"window{port}__size")
            if kind == "window":
                size.value = 40 * port_word - 1
            else:
                memory.bad = {memory.base + 39 * port_word}
            bench.load([Segment(offset=0, words=20), Segment(offset=20, words=20, signal=3)])
            for _ in range(600 + 80 * LINES):
                await bench.cycle()
            assert int(getattr(dut, f"fault__{kind}").value), f"no {kind} fault on port {port}"
            assert not int(getattr(dut, f"fault__{'bus' if kind == 'window' else 'window'}").value)
            assert len(bench.given) <= 1, "the failed segment gave its tokens"
            if kind == "window":
                assert memory.beats * ARCH.weight_port_bytes <= 20 * port_word
            memory.bad = set()
            size.value = len(memory.contents)
            await stop_and_restart(bench)


@cocotb.test()
async def abort_anywhere(dut: Any) -> None:
    """Abort in the middle of programs, again and again, and run a whole program after each."""
    bench = StreamBench(dut, ARCH, IMAGE_WORDS, ROUGH)
    await bench.start()
    for _ in range(12):
        bench.reset()
        bench.load(random_program(bench, 16, 40))
        for _ in range(random.randint(1, 250)):
            await bench.cycle()
        await stop_and_restart(bench)
