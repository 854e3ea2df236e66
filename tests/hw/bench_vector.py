"""cocotb tests of the vector unit.

``ARCH`` is the architecture as JSON. With ``CORRUPT`` the first test expects something wrong: it
must then fail.
"""

from __future__ import annotations

import json
import os
import random

import cocotb
import torch

from moesaic.hw.vector.output import OutputStage
from moesaic.spec.arch import ArchConfig
from moesaic.spec.isa import Drain
from tests.hw.vector_bench import VectorBench, sometimes
from tests.hw.vector_program import Program, empty_program, random_program

ARCH = ArchConfig.from_dict(json.loads(os.environ["ARCH"]))
INSTRUCTIONS = int(os.environ.get("INSTRUCTIONS", "60"))
CORRUPT = os.environ.get("CORRUPT")

EXPECTATIONS = (
    *("writes", "logits", "outputs", "residual", "signal"),
    *("vector_chunks", "score_words", "score_reads", "activation_lookups", "norm_rows"),
)
SET_UP = 3
"""Most cycles from an instruction's last chunk to the first of the next one."""
DRAIN_TAIL = 26
"""Most cycles from the last chunk's issue to its token."""
NORM_TAIL = DRAIN_TAIL + 26
"""NORM waits for the statistics of its last row, too."""


async def prepared(dut, program: Program) -> VectorBench:
    bench = VectorBench(dut, ARCH)
    await bench.reset()
    await bench.load_residual(program.initial_residual)
    await bench.load_tables(program.tables)
    return bench


def fresh_program() -> Program:
    torch.manual_seed(random.getrandbits(32))
    return empty_program(ARCH)


@cocotb.test()
async def random_program_without_delays(dut) -> None:
    torch.manual_seed(random.getrandbits(32))
    program = random_program(ARCH, INSTRUCTIONS)
    if CORRUPT is not None:
        program.corrupt(CORRUPT)
    bench = await prepared(dut, program)
    await bench.run(program)


@cocotb.test()
async def falsified_expectations_are_caught(dut) -> None:
    """One wrong bit anywhere in what is expected must not pass."""
    for what in (*EXPECTATIONS, None):
        program = fresh_program()
        for kind in Drain:
            program.drain(kind, rows=3, columns=ARCH.width, stride=9, multiplier=40000, shift=24)
        shape = {"rows": 2, "words": 2, "channels": 2 * ARCH.lanes, "source_stride": 2}
        program.norm(**shape, stride=9, multiplier=40000, shift=8)
        if what is not None:
            program.corrupt(what)
        bench = await prepared(dut, program)
        try:
            await bench.run(program)
        except AssertionError:
            assert what is not None, "the program fails as it is"
        else:
            assert what is None, f"falsified {what} passed"


@cocotb.test()
async def random_program_with_delays(dut) -> None:
    """Slow inputs, then slow outputs, then both."""
    torch.manual_seed(random.getrandbits(32))
    for idle, pause in ((0.6, 0.0), (0.0, 0.6), (0.4, 0.4), (0.05, 0.9)):
        program = random_program(ARCH, INSTRUCTIONS // 4)
        bench = await prepared(dut, program)
        await bench.run(program, idle=sometimes(idle), pause=sometimes(pause))


@cocotb.test()
async def one_chunk_per_cycle(dut) -> None:
    """Long drains of every kind: nothing but set-up and the pipeline's tail is lost."""
    program = fresh_program()
    rows = ARCH.accumulator_rows // 2
    columns = 2 * ARCH.width
    word_rows = min(rows, ARCH.residual_words * ARCH.lanes // columns)
    order = [
        Drain.INT8,
        Drain.RESIDUAL,
        Drain.ACTIVATION,
        Drain.SOFTMAX,
        Drain.OUTPUT,
        Drain.ATTENTION,
    ]
    order += [Drain.LOGITS, Drain.SOFTMAX, Drain.SOFTMAX, Drain.RESIDUAL, Drain.RESIDUAL]
    order += [Drain.ATTENTION, Drain.ATTENTION, Drain.ACTIVATION]
    for kind in order:
        is_residual = kind == Drain.RESIDUAL
        together = kind in (Drain.SOFTMAX, Drain.LOGITS)
        program.drain(
            kind,
            rows=word_rows if is_residual else rows,
            n_tiles=2 if together else 1,
            groups=1 if together else 2,
            columns=columns,
            stride=columns // (ARCH.lanes if is_residual else ARCH.depth),
            multiplier=40000,
            shift=24,
        )
    bench = await prepared(dut, program)
    await bench.run(program)
    taken = bench.last_give - bench.first_take
    fill = 2 * ARCH.parameter_ring_words
    most = program.chunks + SET_UP * len(order) + DRAIN_TAIL + fill
    assert taken <= most, f"{program.chunks} chunks took {taken} cycles, more than {most}"
    assert bench.working == program.chunks


@cocotb.test()
async def tiles_without_columns_write_nothing(dut) -> None:
    """Not even where every place behind the pipeline, and the head in front of the scratchpad,
    holds a result that waits to leave."""
    waiting = OutputStage.DEPTH + 1
    exponentials = -(-ARCH.depth // ARCH.most_lanes)  # chunks, or pairs, of a row
    rows = OutputStage.DEPTH // (exponentials + 1)
    shape = {"multiplier": 40000, "shift": 24}
    program = fresh_program()
    single = waiting - rows * (exponentials + 1)
    program.drain(Drain.INT8, rows=single, columns=ARCH.lanes, **shape)
    program.drain(Drain.SOFTMAX, rows=rows, columns=ARCH.depth, **shape)
    program.drain(Drain.ATTENTION, rows=rows, n_tiles=3, columns=ARCH.most_lanes, **shape)
    bench = await prepared(dut, program)
    calls = iter(range(3 * 400))  # three ports ask in every cycle
    await bench.run(program, pause=lambda: next(calls, None) is not None)
    assert bench.last_give > 400


@cocotb.test()
async def two_cycles_per_chunk_in_planes(dut) -> None:
    """GELU's 16-bit results are bound by their writes, and do not hold back what follows."""
    program = fresh_program()
    rows = ARCH.accumulator_rows // 2
    stride = -(-ARCH.width // ARCH.depth)
    for kind in (Drain.ACTIVATION, Drain.INT8):
        program.drain(
            kind,
            rows=rows,
            columns=ARCH.width,
            stride=stride,
            multiplier=40000,
            shift=16,
            wide=kind == Drain.ACTIVATION,
            plane_stride=rows * stride,
        )
    bench = await prepared(dut, program)
    await bench.run(program)
    taken = bench.last_give - bench.first_take
    fill = 2 * ARCH.parameter_ring_words
    most = program.chunks // 2 * 3 + 2 * SET_UP + DRAIN_TAIL + fill
    assert taken <= most, f"{program.chunks} chunks took {taken} cycles, more than {most}"
    assert bench.working == program.chunks


@cocotb.test()
async def rotations_between_users_of_the_residual(dut) -> None:
    """Angles are read early, RESIDUAL's old values late: none takes the other's, whoever is first;
    and a chunk that is rotated takes two cycles, with planes four writes a pair."""
    pair = 2 * ARCH.lanes
    for rows, wide in ((1, False), (2, True), (ARCH.accumulator_rows // 4, False)):
        program = fresh_program()
        n_tiles = max(1, pair // ARCH.width)
        turned = {
            "rows": rows, "n_tiles": n_tiles, "columns": pair, "stride": -(-pair // ARCH.depth),
            "shift": 14, "rotary": True, "angle_words": 2, "wide": wide,
            "plane_stride": rows * -(-pair // ARCH.depth) if wide else 0,
        }  # fmt: skip
        for _ in range(4):
            for _ in range(random.randint(0, 2)):
                # What is updated are the angles of those that follow.
                program.drain(Drain.RESIDUAL, rows=1, columns=ARCH.lanes, magnitude=31)
            for _ in range(random.randint(1, 3)):
                program.drain(Drain.INT8, **turned)
            if random.random() < 0.5:
                program.norm(
                    rows=1, words=1, channels=ARCH.lanes, source_stride=1, stride=1,
                    multiplier=40000, shift=8,
                )  # fmt: skip
        bench = await prepared(dut, program)
        await bench.run(program)
    program = fresh_program()
    program.drain(Drain.INT8, **turned)
    bench = await prepared(dut, program)
    await bench.run(program)
    taken = bench.last_give - bench.first_take
    most = program.chunks + SET_UP + DRAIN_TAIL + 2 * n_tiles * ARCH.parameter_ring_words
    assert taken <= most, f"{program.chunks} chunks took {taken} cycles, more than {most}"
    assert bench.working == program.chunks


@cocotb.test()
async def one_cycle_per_normalised_word(dut) -> None:
    """NORM is bound by its second pass, with planes by its writes; rows of one word too."""
    for words, rows, wide in ((8, 24, False), (8, 24, True), (1, 64, False), (1, 3, True)):
        program = fresh_program()
        stride = -(-words * ARCH.lanes // ARCH.depth)
        program.norm(
            rows=rows,
            words=words,
            channels=words * ARCH.lanes,
            source_stride=words,
            stride=stride,
            multiplier=50000,
            shift=6,
            wide=wide,
            plane_stride=rows * stride,
        )
        bench = await prepared(dut, program)
        await bench.run(program)
        taken = bench.last_give - bench.first_take
        # The first write waits for the sums of the first row; those of later rows overlap.
        writes = -(-words // 2) if ARCH.chunk_pairs else words
        steps = words + rows * max(words, (3 if wide else 1) * writes)
        most = steps + SET_UP + NORM_TAIL
        assert taken <= most, f"{rows} rows of {words} words took {taken} cycles, above {most}"
        assert rows * words < bench.working <= 2 * rows * words


@cocotb.test()
async def stored_rows_are_the_stream_itself(dut) -> None:
    """`plain` and `store` with a scale of 1 give every int16 value unchanged, a word per cycle."""
    every = torch.arange(-(1 << 15), 1 << 15).reshape(-1, ARCH.lanes)
    full = ARCH.residual_words
    words = next(w for w in range(min(full, 64), 0, -1) if full % w == 0)
    blocks = every.split(full)
    for block in (blocks[0], blocks[len(blocks) // 2], blocks[-1]):
        program = fresh_program()
        program.residual[: len(block)] = block
        program.initial_residual = program.residual.clone()
        program.norm(
            rows=full // words,
            words=words,
            channels=1,
            source_stride=words,
            stride=0,
            multiplier=1 << 15,
            shift=15,
            plain=True,
            store=True,
        )
        stored = torch.tensor(program.outputs).flatten()
        assert torch.equal(stored, program.residual.flatten() & 0xFFFF)
        bench = await prepared(dut, program)
        await bench.run(program)
        taken = bench.last_give - bench.first_take
        assert taken <= words + full + SET_UP + NORM_TAIL


@cocotb.test()
async def residual_updates_in_a_row(dut) -> None:
    """One word, updated by one instruction after the other, and read by a NORM at once."""
    program = fresh_program()
    for _ in range(6):
        for _ in range(random.randint(1, 6)):
            program.drain(Drain.RESIDUAL, rows=1, columns=ARCH.lanes, magnitude=31)
        program.norm(
            rows=1,
            words=1,
            channels=ARCH.lanes,
            source_stride=1,
            stride=1,
            multiplier=40000,
            shift=8,
        )
    bench = await prepared(dut, program)
    await bench.run(program)


@cocotb.test()
async def largest_rows(dut) -> None:
    """The widest sums NORM can meet: 4096 channels, or the whole memory, of extreme values."""
    words = min(4096 // ARCH.lanes, ARCH.residual_words, 1023)
    for kind in ("low", "high", "alternating", "equal but one"):
        program = fresh_program()
        row = program.residual[:words].flatten()
        row[:] = -(1 << 15) if kind != "high" else (1 << 15) - 1
        if kind == "alternating":
            row[::2] = (1 << 15) - 1
        if kind == "equal but one":
            row[-1] += 1
        program.residual[:words] = row.reshape(words, ARCH.lanes)
        program.initial_residual = program.residual.clone()
        program.norm(
            rows=1,
            words=words,
            channels=words * ARCH.lanes,
            source_stride=0,
            stride=1,
            multiplier=65535,
            shift=15,
            epsilon=(1 << 48) - 1 if kind == "high" else 0,
            wide=kind == "alternating",
            plane_stride=words * ARCH.lanes // ARCH.depth,
        )
        bench = await prepared(dut, program)
        await bench.run(program)


@cocotb.test()
async def empty_experts_do_nothing(dut) -> None:
    """They only pass tokens on, in order, and need neither bank nor parameters."""
    program = fresh_program()
    for expert in (0, 0, 1, 0, 2, 0, 0):  # 0 is empty, 1 has many tokens, 2 has one
        program.drain(
            Drain.RESIDUAL if expert != 2 else Drain.ACTIVATION,
            rows=0,
            columns=ARCH.width,
            stride=ARCH.width // ARCH.lanes,
            multiplier=1 << 15,
            shift=24,
            expert=expert,
            scatter=True,
        )
    bench = await prepared(dut, program)
    await bench.run(program)


@cocotb.test()
async def load_unit_writes_between_updates(dut) -> None:
    """Words loaded during RESIDUAL drains arrive, and disturb none of the updates."""
    program = fresh_program()
    half = ARCH.residual_words // 2
    per_row = ARCH.chunks
    rows = min(ARCH.accumulator_rows, half // per_row)
    for _ in range(3):
        program.drain(Drain.RESIDUAL, rows=rows, columns=ARCH.width, stride=per_row)
    loads = [(half + i, torch.randint(-9999, 9999, (ARCH.lanes,))) for i in range(half)]
    bench = await prepared(dut, program)
    for address, values in loads:
        program.residual[address] = values
    await bench.run(program, idle=sometimes(0.3), loads=loads)


@cocotb.test()
async def reset_in_the_middle(dut) -> None:
    """Whatever was under way, a reset starts afresh."""
    for stop in (150, 400, 900):
        torch.manual_seed(random.getrandbits(32))
        bench = await prepared(dut, program := random_program(ARCH, 20))
        await bench.run(program, pause=sometimes(0.5), stop_after=stop)
        program = random_program(ARCH, 6)
        bench = await prepared(dut, program)
        await bench.run(program)
