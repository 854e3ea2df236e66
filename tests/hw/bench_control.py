"""cocotb bench of the control block: registers, programs, tokens, counters."""

from __future__ import annotations

import os
import random
import re

import cocotb
from cocotb.triggers import FallingEdge

from moesaic.spec import registers
from moesaic.spec.isa import Unit
from moesaic.spec.presets import PRESETS
from moesaic.spec.registers import Access
from tests.hw.control_bench_lib import BEAT, DEPTH, END, PLAYED, Bench, smallest

ARCH = PRESETS["nano"]
PORTS = ARCH.weight_ports


def built_bits(register: registers.Register) -> int:
    if register.access is not Access.RW:
        return 0
    if register.name.startswith("WEIGHT") and int(register.name[6]) >= PORTS:
        return 0
    if re.match(r"OUTPUT\d", register.name):  # the preset has one output port
        return 0
    if register.name == "IRQ_ENABLE":
        return 3
    return 0xFF if register.name.endswith("BASE_HI") else 0xFFFFFFFF


@cocotb.test()
async def registers_hold_what_they_should(dut) -> None:
    bench = Bench(dut)
    await bench.start()
    assert await bench.read("ID") == registers.MAGIC
    assert await bench.read("VERSION") == registers.INTERFACE_VERSION
    await bench.write("ID", 0)
    assert await bench.read("ID") == registers.MAGIC
    expected = {}
    order = [r for r in registers.REGISTERS if r.name != "CONTROL"]
    random.shuffle(order)
    for register in order:
        if register.access is Access.RW:
            value = random.getrandbits(32)
            await bench.write(register.name, value)
            expected[register.name] = value & built_bits(register)
    for register in order:
        if register.access is Access.RW:
            assert await bench.read(register.name) == expected[register.name], register.name
    for _ in range(60):  # byte strobes, and bursts of narrow accesses
        register = random.choice([r for r in order if r.access is Access.RW])
        length = random.randrange(1, 5)
        start = random.randrange(0, 5 - length)
        data = random.randbytes(length)
        await bench.bus.write(register.offset + start, data)
        old = expected[register.name].to_bytes(4, "little")
        new = old[:start] + data + old[start + length :]
        expected[register.name] = int.from_bytes(new, "little") & built_bits(register)
        assert await bench.read(register.name) == expected[register.name]
    known = {r.offset for r in registers.REGISTERS}
    for offset in (0x00C, 0x030, 0x04C, 0x180, 0x3FC, 0xFFC):
        assert offset not in known
        await bench.bus.write_dword(offset, 0xFFFFFFFF)
        assert await bench.bus.read_dword(offset) == 0
    assert await bench.read("STATUS") == 0 and await bench.read("CONTROL") == 0


@cocotb.test()
async def arch_hash_identifies_the_architecture(dut) -> None:
    bench = Bench(dut)
    await bench.start()
    assert await bench.read("ARCH_HASH") == int(os.environ["ARCH_HASH"])


@cocotb.test()
@cocotb.parametrize(pause=[0.0, 0.4])
async def frames_run_one_after_another(dut, pause) -> None:
    bench = Bench(dut, pause)
    await bench.start()
    for _ in range(3):
        await bench.expect_works()


@cocotb.test()
@cocotb.parametrize(pause=[0.0, 0.5])
async def random_tokens_keep_their_order(dut, pause) -> None:
    """Chains of tokens over random units; each played unit checks its grants against a model."""
    bench = Bench(dut, pause)
    await bench.start()
    program, pending, sequence = [], {}, {unit: 0 for unit in PLAYED}
    for _ in range(220):
        unit = random.choice(PLAYED)
        givers = [g for (g, t), n in pending.items() if t == unit and n and random.random() < 0.7]
        for giver in givers:
            pending[giver, unit] -= 1
        takers = [t for t in PLAYED if random.random() < 0.3 and pending.get((unit, t), 0) < 20]
        for taker in takers:
            pending[unit, taker] = pending.get((unit, taker), 0) + 1
        wait, signal = sum(1 << g for g in givers), sum(1 << t for t in takers)
        program.append(smallest(unit, wait=wait, signal=signal, layer=sequence[unit] % 256))
        sequence[unit] += 1
    await bench.launch(*program, END)
    await bench.expect_done()
    assert len(bench.started) == 220
    for unit in PLAYED:
        layers = [i.values["layer"] for u, i, _ in bench.started if u == unit]
        assert layers == [n % 256 for n in range(sequence[unit])]
    assert await bench.counter("INSTRUCTIONS") == 221


@cocotb.test()
async def dispatch_keeps_two_cycles_per_instruction(dut) -> None:
    bench = Bench(dut)
    await bench.start()
    bench.work = lambda unit: 0
    count = 240
    await bench.launch(*[smallest(PLAYED[i % 4]) for i in range(count)], END)
    await bench.expect_done()
    first, last = bench.started[0][2], bench.started[-1][2]
    assert last - first <= 2 * count * 1.1, f"{(last - first) / count} cycles per instruction"


@cocotb.test()
async def long_program_and_full_queues(dut) -> None:
    """More instructions than queue and buffer hold wait for a frozen unit, and none is lost."""
    bench = Bench(dut, 0.2)
    await bench.start()
    bench.frozen.add(Unit.MATRIX)
    count = 300
    await bench.launch(*[smallest(Unit.MATRIX, layer=i % 256) for i in range(count)], END)
    for _ in range(800):
        await FallingEdge(dut.clk)
    assert not bench.started and await bench.read("STATUS") == 1
    bench.frozen.clear()
    await bench.expect_done()
    assert [i.values["layer"] for _, i, _ in bench.started] == [i % 256 for i in range(count)]


@cocotb.test()
async def end_waits_for_units_and_masters(dut) -> None:
    bench = Bench(dut)
    await bench.start()
    bench.work = lambda unit: 500
    await bench.launch(smallest(Unit.ROUTER), END)
    for _ in range(300):
        await FallingEdge(dut.clk)
    assert await bench.read("STATUS") == 1
    dut.idle.value = 0
    for _ in range(700):
        await FallingEdge(dut.clk)
    assert await bench.read("STATUS") == 1 and not dut.irq.value
    dut.idle.value = 1
    await bench.expect_done()
    assert 300 <= await bench.counter("ROUTER_BUSY") <= 510


@cocotb.test()
async def counters_count_and_clear(dut) -> None:
    bench = Bench(dut)
    await bench.start()
    bench.work = lambda unit: 100
    for _ in range(2):
        dut.activation_lookups.value = 7
        await bench.launch(smallest(Unit.VECTOR), smallest(Unit.LOAD, words=10), END)
        begin = bench.cycle
        await bench.interrupt()
        cycles = bench.cycle - begin
        dut.activation_lookups.value = 0
        counted = await bench.counter("CYCLES")
        assert abs(counted - cycles) <= 12
        assert abs(await bench.counter("ACTIVATION_LOOKUPS") - 7 * counted) <= 7 * 8
        assert await bench.counter("VECTOR_BUSY") == 101
        assert await bench.counter("INSTRUCTIONS") == 3
        read = await bench.counter("DATA_READ_BYTES")
        assert read % BEAT == 0 and read >= 10 * DEPTH + 96
        await bench.expect_done()
        assert await bench.counter("CYCLES") == counted, "counters stand still after a frame"
