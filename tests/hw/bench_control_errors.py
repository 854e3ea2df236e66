"""cocotb bench of the control block: everything that can go wrong, and that it works afterwards."""

from __future__ import annotations

import random

import cocotb
from cocotb.triggers import FallingEdge

from moesaic.spec import isa, registers
from moesaic.spec.isa import CHECK_VALUE, INSTRUCTION_BYTES, Opcode, Unit
from moesaic.spec.registers import ErrorCode
from tests.hw.control_bench_lib import BEAT, DEPTH, END, LANES, SMALLEST, WINDOWS, Bench, smallest


def repair(raw: bytes) -> bytes:
    """The instruction with a right check byte, whatever else is wrong with it."""
    parity = CHECK_VALUE
    for i, byte in enumerate(raw):
        parity ^= byte if i != 3 else 0
    return raw[:3] + bytes([parity]) + raw[4:]


def altered(raw: bytes, name: str, value: int) -> bytes:
    word = int.from_bytes(raw, "little")
    start, width = isa.positions(Opcode(word & 15))[name]
    word &= ~((1 << width) - 1 << start)
    return repair((word | value << start).to_bytes(INSTRUCTION_BYTES, "little"))


def malformed_instructions() -> dict[str, bytes]:
    """One instruction for every rule."""
    result = {"check byte": bytes([smallest(Unit.LOAD)[0]]) + bytes(31)}
    for opcode in (0, *range(8, 15)):
        result[f"opcode {opcode}"] = repair(bytes([opcode]) + bytes(31))
    for unit, (opcode, _) in SMALLEST.items():
        raw = smallest(unit)
        for bit in {isa.used_bits(opcode), 255}:
            word = int.from_bytes(raw, "little") | 1 << bit
            result[f"{opcode.name} bit {bit}"] = repair(word.to_bytes(32, "little"))
        for field in isa.FIELDS[opcode]:
            if field.nonzero or field.nonzero_unless:
                result[f"{opcode.name} {field.name} 0"] = altered(raw, field.name, 0)
            if field.name == "expert":
                result[f"{opcode.name} expert"] = altered(raw, "expert", 16)
            listed = isa.listed(opcode, field.name, four_bit_weights=False)
            if listed and len(listed) < 1 << field.width:
                result[f"{opcode.name} {field.name}"] = altered(raw, field.name, len(listed))
    end = int.from_bytes(END, "little") | 1 << 32
    result["END bit 32"] = repair(end.to_bytes(32, "little"))
    for unit in (Unit.LOAD, Unit.STORE):
        result[f"{unit.name} offset"] = altered(smallest(unit), "offset", BEAT // 2)
    route = smallest(Unit.ROUTER, experts=4, top_k=4)
    result["ROUTE experts"] = altered(route, "experts", 17)
    result["ROUTE top_k"] = altered(route, "top_k", 5)
    result["ROUTE rows"] = altered(altered(route, "rows", 128), "first_row", 1)
    return result


@cocotb.test()
async def malformed_instructions_are_refused(dut) -> None:
    bench = Bench(dut)
    await bench.start()
    cases = malformed_instructions()
    assert len(cases) > 40
    for name, raw in cases.items():
        bench.started.clear()
        before = random.randrange(0, 12)
        good = [smallest(Unit.STREAM) for _ in range(before)]
        await bench.launch(*good, raw, smallest(Unit.MATRIX), END)
        try:
            await bench.expect_error(ErrorCode.BAD_INSTRUCTION, INSTRUCTION_BYTES * before)
        except AssertionError as error:
            raise AssertionError(f"{name}: {error}") from error
        assert all(unit == Unit.STREAM for unit, _, _ in bench.started), name
    await bench.expect_works()


@cocotb.test()
async def every_flipped_bit_is_noticed(dut) -> None:
    bench = Bench(dut)
    await bench.start()
    for _ in range(60):
        raw = smallest(random.choice(list(Unit)), layer=random.randrange(256))
        word = int.from_bytes(raw, "little") ^ 1 << random.randrange(256)
        await bench.launch(word.to_bytes(32, "little"), END)
        await bench.expect_error(ErrorCode.BAD_INSTRUCTION, 0)


@cocotb.test()
async def correct_instructions_are_not_refused(dut) -> None:
    """The limits themselves are allowed: the check refuses no more than it should."""
    bench = Bench(dut)
    await bench.start()
    matmul = {"k_tiles": 1023, "n_tiles": 1023, "groups": 1023}
    await bench.launch(
        smallest(Unit.ROUTER, experts=16, top_k=15, rows=100, first_row=28),
        isa.encode(Opcode.MATMUL, predicated=1, expert=15, stationary=2, streamed=2, **matmul),
        isa.encode(Opcode.DRAIN, kind=6, predicated=1, n_tiles=1, groups=1, columns=65535),
        isa.encode(Opcode.STREAM, predicated=1, words=(1 << 24) - 1, offset=(1 << 32) - 1),
        END,
    )
    await bench.expect_done()


@cocotb.test()
@cocotb.parametrize(instructions=[0, 1, 8, 21])
async def program_without_end_is_an_overrun(dut, instructions) -> None:
    bench = Bench(dut)
    await bench.start()
    # Behind the window stands an END that must not be seen.
    program = [smallest(Unit.STREAM) for _ in range(instructions)]
    await bench.write("PROGRAM_SIZE", INSTRUCTION_BYTES * instructions + 31)
    await bench.launch(*program, END)
    await bench.expect_error(ErrorCode.PROGRAM_OVERRUN, INSTRUCTION_BYTES * instructions)
    await bench.write("PROGRAM_SIZE", WINDOWS["PROGRAM"][1])
    await bench.expect_works()


@cocotb.test()
async def accesses_outside_windows_are_refused(dut) -> None:
    bench = Bench(dut, 0.2)
    await bench.start()
    load = smallest(Unit.LOAD, offset=WINDOWS["INPUT"][1] - DEPTH, words=2)
    await bench.launch(load, END)
    await bench.expect_error(ErrorCode.WINDOW, Unit.LOAD)
    bench.output.extend([1, 2, 3])
    store = smallest(Unit.STORE, offset=WINDOWS["OUTPUT"][1] - 2 * LANES, words=2)
    await bench.launch(store, END)
    await bench.expect_error(ErrorCode.WINDOW, Unit.STORE)
    await bench.launch(smallest(Unit.STREAM), END)
    dut.fault_stream__window.value = 1
    await bench.expect_error(ErrorCode.WINDOW, Unit.STREAM)
    dut.fault_stream__window.value = 0
    await bench.expect_works()


@cocotb.test()
async def bus_errors_end_the_frame(dut) -> None:
    bench = Bench(dut)
    await bench.start()
    read, write = bench.ram.read_if._read, bench.ram.write_if._write

    def failing(inner, low, high):
        async def access(address, *arguments, **options):
            if low <= address < high:
                raise RuntimeError("no memory here")
            return await inner(address, *arguments, **options)

        return access

    def break_window(name: str) -> None:
        base, size = WINDOWS[name]
        bench.ram.read_if._read = failing(read, base, base + size)
        bench.ram.write_if._write = failing(write, base, base + size)

    break_window("INPUT")
    await bench.launch(smallest(Unit.LOAD, words=50), END)
    await bench.expect_error(ErrorCode.BUS, Unit.LOAD)
    break_window("OUTPUT")
    bench.output.extend(range(50))
    await bench.launch(smallest(Unit.STORE, words=50), END)
    await bench.expect_error(ErrorCode.BUS, Unit.STORE)
    break_window("PROGRAM")
    await bench.launch(END)
    await bench.expect_error(ErrorCode.BUS, 6)
    bench.ram.read_if._read, bench.ram.write_if._write = read, write
    await bench.launch(smallest(Unit.STREAM), END)
    dut.fault_stream__bus.value = 1
    await bench.expect_error(ErrorCode.BUS, Unit.STREAM)
    dut.fault_stream__bus.value = 0
    await bench.expect_works()


@cocotb.test()
async def watchdog_ends_a_hanging_frame(dut) -> None:
    bench = Bench(dut)
    await bench.start()
    limit = 700
    await bench.write("WATCHDOG", limit)
    await bench.launch(smallest(Unit.MATRIX, wait=1 << Unit.STORE), END)
    begin = bench.cycle
    await bench.expect_error(ErrorCode.WATCHDOG, 0)
    assert limit - 20 <= bench.cycle - begin <= limit + 200
    await bench.expect_works()  # a short frame stays below the limit
    await bench.write("WATCHDOG", 0)
    await bench.launch(smallest(Unit.MATRIX, wait=1 << Unit.STORE), END)
    for _ in range(2 * limit):
        await FallingEdge(dut.clk)
    assert await bench.read("STATUS") == 1
    await bench.write("CONTROL", 2)
    for _ in range(30):
        await FallingEdge(dut.clk)
    assert await bench.read("STATUS") == 0


@cocotb.test()
async def misplaced_windows_are_refused(dut) -> None:
    bench = Bench(dut)
    await bench.start()
    names = ["PROGRAM", "CONSTANT", "INPUT", "OUTPUT", "WEIGHT0", "WEIGHT1"]
    for name in names:
        base = WINDOWS.get(name, (0, 0))[0]
        await bench.write(f"{name}_BASE_LO", base + random.choice([1, 64, 2048]))
        await bench.launch(END)
        await bench.expect_error(
            ErrorCode.BAD_CONFIGURATION, registers.offset(f"{name}_BASE_LO"), 20
        )
        await bench.write(f"{name}_BASE_LO", base)
    # Ends exactly at the top of the address space: allowed. One byte more: not.
    await bench.write("CONSTANT_BASE_HI", 0xFF)
    await bench.write("CONSTANT_BASE_LO", 0xFFFFF000)
    await bench.write("CONSTANT_SIZE", 0x1000)
    await bench.expect_works()
    await bench.write("CONSTANT_SIZE", 0x1001)
    await bench.launch(END)
    await bench.expect_error(ErrorCode.BAD_CONFIGURATION, registers.offset("CONSTANT_BASE_LO"), 20)


@cocotb.test()
@cocotb.parametrize(wait=[0, 3, 11, 25, 60, 150, 400])
async def reset_abandons_a_frame(dut, wait) -> None:
    bench = Bench(dut, 0.3)
    await bench.start()
    bench.output.extend(range(1000))
    program = [smallest(Unit.LOAD, words=400), smallest(Unit.STORE, words=300)]
    program += [smallest(random.choice(list(bench.played))) for _ in range(200)]
    await bench.launch(*program, END)
    for _ in range(wait):
        await FallingEdge(dut.clk)
    await bench.write("CONTROL", 2)
    for _ in range(3000):
        if await bench.read("STATUS") == 0:
            break
    else:
        raise AssertionError("RESET does not end")
    assert not dut.irq.value and dut.core_reset.value
    assert not dut.m_axi_d_arvalid.value and not dut.m_axi_d_awvalid.value
    for _ in range(60):
        await FallingEdge(dut.clk)
        assert not dut.m_axi_d_rvalid.value and not dut.m_axi_d_bvalid.value
    await bench.expect_works()


@cocotb.test()
async def start_is_ignored_while_busy(dut) -> None:
    bench = Bench(dut)
    await bench.start()
    bench.work = lambda unit: 200
    await bench.launch(smallest(Unit.ROUTER), END)
    for _ in range(60):
        await FallingEdge(dut.clk)
    cycles = await bench.counter("CYCLES")
    await bench.write("CONTROL", 1)
    assert await bench.counter("CYCLES") > cycles
    await bench.expect_done()
    assert len(bench.started) == 1


@cocotb.test()
async def interrupts_can_be_masked(dut) -> None:
    bench = Bench(dut)
    await bench.start()
    await bench.write("IRQ_ENABLE", registers.bit("IRQ_STATUS", "ERROR"))
    await bench.launch(END)
    for _ in range(200):
        await FallingEdge(dut.clk)
        assert not dut.irq.value
    assert await bench.read("IRQ_STATUS") == registers.bit("IRQ_STATUS", "DONE")
    await bench.write("IRQ_ENABLE", registers.bit("IRQ_STATUS", "DONE"))
    await bench.expect_done(5)


@cocotb.test()
async def too_many_tokens_are_an_error(dut) -> None:
    bench = Bench(dut)
    await bench.start()
    bench.work = lambda unit: 0
    limit = (1 << isa.TOKEN_BITS) - 1
    give = smallest(Unit.ROUTER, signal=1 << Unit.VECTOR)
    take = smallest(Unit.VECTOR, wait=1 << Unit.ROUTER)
    await bench.launch(*[give] * limit, *[take] * limit, END)
    await bench.expect_done()
    await bench.launch(*[give] * (limit + 1), END)
    await bench.expect_error(ErrorCode.TOKEN_OVERFLOW, Unit.ROUTER)
    await bench.expect_works()


@cocotb.test()
async def bench_notices_a_wrong_report(dut) -> None:
    bench = Bench(dut)
    await bench.start()
    for code, info in ((ErrorCode.WINDOW, 32), (ErrorCode.BAD_INSTRUCTION, 0)):
        await bench.launch(smallest(Unit.STREAM), bytes(32), END)
        try:
            await bench.expect_error(code, info)
        except AssertionError:
            await bench.acknowledge()
            continue
        raise AssertionError("a wrong expectation went unnoticed")
    await bench.launch(smallest(Unit.STREAM), bytes(32), END)
    await bench.expect_error(ErrorCode.BAD_INSTRUCTION, 32)
