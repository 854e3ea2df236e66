"""cocotb bench of the matrix unit: random programs under random stalls, and its speed."""

from __future__ import annotations

import itertools
import os
import random

import cocotb
from cocotb.clock import Clock

from moesaic.spec.isa import FROM_RING, Stationary, Streamed
from tests.hw.matrix_environment import ARCH, Bench
from tests.hw.matrix_model import Builder, Matmul, Shape, random_shape


def random_program(count: int) -> list[Matmul]:
    builder = Builder(ARCH, random.getrandbits(32))
    program: list[Matmul] = []
    experts = random.sample(range(ARCH.max_experts), ARCH.max_experts)
    while len(program) < count and experts:
        try:
            program.append(builder.build(random_shape(ARCH, experts.pop())))
        except MemoryError:
            break
    return program


def build(*shapes: Shape) -> list[Matmul]:
    builder = Builder(ARCH, random.getrandbits(32))
    return [builder.build(shape) for shape in shapes]


async def execute(dut, program: list[Matmul], idle: float, corrupt: int = 0) -> Bench:
    return await run(dut, Bench(dut, program, idle, corrupt))


async def run(dut, bench: Bench, stop_after: int | None = None) -> Bench:
    clock = cocotb.start_soon(Clock(dut.clk, 2, unit="ns").start())
    try:
        await bench.run(stop_after)
    finally:
        clock.cancel()
    return bench


@cocotb.test()
@cocotb.parametrize(idle=[0.0, 0.2, 0.6])
async def random_programs(dut, idle) -> None:
    checked = 0
    for _ in range(int(os.environ["PROGRAMS"])):
        checked += (await execute(dut, random_program(16), idle)).checked
    assert checked > 1000


@cocotb.test()
async def extreme_products(dut) -> None:
    """Every product at a corner of its range: the packed fields touch each other."""
    corners = [(Streamed.SIGNED8, a, w) for a in (-128, 127) for w in (-128, 127)]
    corners += [(Streamed.UNSIGNED8, 255, w) for w in (-128, 127)]
    corners += [(Streamed.SIGNED16, a, w) for a in (-32768, 32767) for w in (-128, 127)]
    shapes = [Shape(streamed=s, fill=(a, w), k_tiles=2) for s, a, w in corners]
    shapes += [Shape(streamed=s, extreme=True, rows=12) for s in Streamed for _ in range(2)]
    await execute(dut, build(*shapes), 0.0)


@cocotb.test()
async def predicated_queues(dut) -> None:
    """Empty queues, weights fetched or not, between queues of one token and of all tokens."""
    full = min(ARCH.max_tokens, ARCH.accumulator_rows // 2)
    common = {"predicated": True, "gather": True, "parameters": True, "n_tiles": 2, "k_tiles": 2}
    sizes = [(0, True), (1, True), (0, False), (0, False), (0, True), (full, True), (0, False)]
    shapes = [
        Shape(rows=rows, fetched=fetched, expert=e, wait=1 << e % 6, signal=e + 1, **common)
        for e, (rows, fetched) in enumerate(sizes)
    ]
    for idle in (0.0, 0.5):
        bench = await execute(dut, build(*shapes), idle)
        assert bench.events["matrix_stream_words"] == 4 * (1 + full)


@cocotb.test()
async def streams_a_word_per_cycle(dut) -> None:
    """No pause between tiles, planes, n-tiles and groups; a few cycles between instructions."""
    rows = max(ARCH.tile_ring_words + ARCH.parameter_ring_words, 16)
    weights = Shape(rows=rows, k_tiles=4, groups=3, parameters=True)
    shapes = [weights, weights, Shape(rows=rows, k_tiles=2, streamed=Streamed.SIGNED16, groups=2)]
    bench = await execute(dut, build(*shapes), 0.0)
    words = bench.events["matrix_stream_words"]
    lost = bench.last_word - bench.first_word + 1 - words
    dut._log.info(f"{words} words, {lost} cycles lost between {len(shapes)} instructions")
    assert lost <= 2 * (len(shapes) - 1)
    assert bench.events["matrix_wait_bank"] == 0


@cocotb.test()
async def attention_streams_a_word_per_cycle(dut) -> None:
    """Keys as columns, then values as rows: tiles load behind a block of enough rows."""
    rows, side = ARCH.width + 8, 2 * ARCH.width
    scores = Shape(
        stationary=Stationary.COLUMNS, rows=rows, groups=2, existing=side, track_maximum=True
    )
    rows_k = side // ARCH.depth
    mix = Shape(
        stationary=Stationary.ROWS,
        streamed=Streamed.UNSIGNED8,
        rows=rows,
        k_tiles=rows_k,
        existing=side,
    )
    bench = await execute(dut, build(scores, mix, scores, mix), 0.0)
    words = bench.events["attention_stream_words"]
    # One n-tile and one k-tile per group drain as slowly as they fill: those waits do not count.
    lost = bench.last_word - bench.first_word + 1 - words - bench.events["matrix_wait_bank"]
    dut._log.info(f"{words} words, {lost} cycles lost between 4 instructions")
    assert lost <= 4 * 3


@cocotb.test()
async def loads_a_ring_word_per_cycle(dut) -> None:
    """With few rows the ring is the bottleneck: it gives a word of codes in every cycle, of which
    two of four bits are one word."""
    sources = FROM_RING if ARCH.four_bit_weights else (Stationary.RING,)
    for rows, source in itertools.product((1, 3, 4), sources):
        bench = await execute(dut, build(Shape(rows=rows, k_tiles=12, stationary=source)), 0.0)
        span = bench.last_word - bench.first_word + 1
        least = 11 * max(ARCH.tile_ring_words, rows, 4) + rows
        dut._log.info(f"{rows} rows: {span} cycles, at least {least}")
        assert span <= least + 2


@cocotb.test()
async def tiles_without_columns(dut) -> None:
    """Of no column the maximum is the lowest number, and leaves that of the tiles before."""
    width = ARCH.width
    common = {"stationary": Stationary.COLUMNS, "rows": 16, "track_maximum": True}
    sizes = [(2, 2, 1), (2, 2, 2 * width), (2, 2, width), (2, 3, width - 3), (1, 2, width)]
    shapes = [Shape(k_tiles=k, n_tiles=n, existing=e, **common) for k, n, e in sizes]
    shapes.append(Shape(k_tiles=2, n_tiles=1, groups=3, existing=width, **common))
    await execute(dut, build(*shapes), 0.0)


@cocotb.test()
async def waits_for_a_bank(dut) -> None:
    """A slow drain stops the stream and loses nothing."""
    bench = Bench(dut, build(Shape(rows=8, groups=5), Shape(rows=4, groups=2)), 0.0)
    bench.drain.pause = 100
    await run(dut, bench)
    assert bench.events["matrix_wait_bank"] > 4 * 100


@cocotb.test()
async def reset_in_flight(dut) -> None:
    """A reset in any phase leaves nothing behind for the next program."""
    for cycles in (30, 55, 90, 140):
        abandoned = Bench(dut, random_program(8), 0.3)
        await run(dut, abandoned, stop_after=cycles)
        await execute(dut, build(Shape(signal=5, wait=3), Shape(k_tiles=2, parameters=True)), 0.1)


@cocotb.test()
async def checker_notices_a_wrong_bit(dut) -> None:
    try:
        await execute(dut, build(Shape()), 0.0, corrupt=1)
    except AssertionError:
        return
    raise AssertionError("a flipped bit in every expected sum went unnoticed")
