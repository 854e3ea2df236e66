"""cocotb bench of the load and store units against cocotbext-axi's memory."""

from __future__ import annotations

import os
import random
from collections import deque

import cocotb
from cocotb.clock import Clock
from cocotb.triggers import FallingEdge, ReadOnly
from cocotbext.axi import AxiBus, AxiRam, AxiRamWrite, AxiResp, AxiWriteBus

from moesaic.spec import isa
from tests.hw.grants import Grants

DEPTH = int(os.environ["DEPTH"])
LANES = int(os.environ["LANES"])
BEAT = int(os.environ["BEAT"])
BURST = int(os.environ["BURST"])
PORTS = int(os.environ["PORTS"])
PART = 2 * LANES // PORTS
LINE = PORTS * BEAT
"""What the output ports take of a chunk each, and together in a cycle."""
MEMORY_BYTES = 1 << 18
WINDOWS = {0: (0x1000, 0x3000), 1: (0x8000, 0x8000), 2: (0x10000, 0xF000), 3: (0x20000, 0x18000)}


MEMORIES = ("activation", "residual", "table")


def pauses(probability: float):
    while True:
        yield random.random() < probability


class Bench:
    """One load unit, one store unit, one foreign reader; every data port may pause."""

    def __init__(self, dut, pause: float) -> None:
        self.dut, self.pause = dut, pause
        self.ram = AxiRam(AxiBus.from_prefix(dut, "m_axi_d"), dut.clk, dut.rst, size=MEMORY_BYTES)
        self.rams = [self.ram]
        for port in range(1, PORTS):
            bus = AxiWriteBus.from_prefix(dut, f"m_axi_w{port}")
            self.rams.append(AxiRamWrite(bus, dut.clk, dut.rst, size=MEMORY_BYTES))
        writers = [self.ram.write_if, *self.rams[1:]]
        if pause:
            for channel in (
                self.ram.read_if.ar_channel,
                self.ram.read_if.r_channel,
                *(getattr(w, f"{name}_channel") for w in writers for name in ("aw", "w", "b")),
            ):
                channel.set_pause_generator(pauses(pause))
        self.queues = {"load": deque(), "store": deque()}
        self.given = {"load": [], "store": []}
        self.tokens = {"load": 10**9, "store": 10**9}  # how many instructions may start
        self.grants = {unit: Grants() for unit in self.tokens}
        self.activation: dict[int, int] = {}
        self.residual: dict[int, int] = {}
        self.table: dict[int, int] = {}
        self.writes: list[tuple[str, int]] = []
        self.output: deque[int] = deque()
        self.other: deque[tuple[int, int]] = deque()
        self.other_beats: list[int] = []
        self.cycles = 0

    async def start(self) -> None:
        dut = self.dut
        cocotb.start_soon(Clock(dut.clk, 2, unit="ns").start())
        dut.rst.value = 1
        dut.abort.value = 0
        for unit in self.queues:
            getattr(dut, f"{unit}__queue__valid").value = 0
            getattr(dut, f"{unit}__granted").value = 0
        for name in (
            "activation__ready",
            "residual__ready",
            "table__ready",
            "output__valid",
            "other__valid",
        ):
            getattr(dut, name).value = 0
        dut.other_data__ready.value = 1
        for number, (base, size) in WINDOWS.items():
            getattr(dut, f"window{number}__base").value = base
            getattr(dut, f"window{number}__size").value = size
        for port in range(1, PORTS):
            getattr(dut, f"output{port}__base").value = WINDOWS[3][0]
            getattr(dut, f"output{port}__size").value = WINDOWS[3][1]
        for _ in range(4):
            await FallingEdge(dut.clk)
        dut.rst.value = 0
        cocotb.start_soon(self.run())
        await FallingEdge(dut.clk)

    def flip(self) -> bool:
        return random.random() >= self.pause

    async def run(self) -> None:
        """Every cycle: drive at the falling edge, look when everything has settled."""
        dut = self.dut
        offered = None
        while True:
            await FallingEdge(dut.clk)
            for unit, queue in self.queues.items():
                getattr(dut, f"{unit}__queue__valid").value = bool(queue)
                if queue:
                    raw = int.from_bytes(queue[0], "little")
                    getattr(dut, f"{unit}__queue__payload").value = raw
                getattr(dut, f"{unit}__granted").value = self.grants[unit].granted
            dut.activation__ready.value = self.flip()
            dut.residual__ready.value = self.flip()
            dut.table__ready.value = self.flip()
            dut.other_data__ready.value = 1
            if offered is None and self.output and self.flip():
                offered = self.output.popleft()
            dut.output__valid.value = offered is not None
            if offered is not None:
                dut.output__payload.value = offered
            dut.other__valid.value = bool(self.other)
            if self.other:
                offset, beats = self.other[0]
                dut.other__payload.value = offset | beats << 32
            await ReadOnly()
            self.cycles += 1
            for unit, queue in self.queues.items():
                if queue and getattr(dut, f"{unit}__queue__ready").value:
                    queue.popleft()
                want, take = (
                    bool(getattr(dut, f"{unit}__{name}").value) for name in ("want", "take")
                )
                wait = getattr(dut, f"{unit}__wait").value.to_unsigned()
                # One token stands for all of a mask.
                self.grants[unit].sample(want, wait, take, self.tokens[unit] > 0)
                if take:
                    assert self.tokens[unit] > 0
                    self.tokens[unit] -= 1
                if getattr(dut, f"{unit}__give").value:
                    self.given[unit].append(getattr(dut, f"{unit}__signal").value.to_unsigned())
            for name in MEMORIES:
                memory = getattr(self, name)
                port = {n: getattr(dut, f"{name}__{n}") for n in ("valid", "ready", "address")}
                if port["valid"].value and port["ready"].value:
                    address = port["address"].value.to_unsigned()
                    memory[address] = getattr(dut, f"{name}__data").value.to_unsigned()
                    self.writes.append((name, address))
                    if name == "activation":
                        assert dut.activation__mask.value.to_unsigned() == (1 << DEPTH) - 1
            if offered is not None and dut.output__ready.value:
                offered = None
            if self.other and dut.other__ready.value:
                self.other.popleft()
            if dut.other_data__valid.value and dut.other_data__ready.value:
                beat = dut.other_data__payload.value.to_unsigned()
                self.other_beats.append(beat & (1 << 8 * BEAT) - 1)

    async def until(self, condition, limit: int = 60_000) -> None:
        for _ in range(limit):
            if condition():
                return
            await FallingEdge(self.dut.clk)
        raise AssertionError(f"not reached within {limit} cycles")


def word_bytes(space: isa.Space) -> int:
    return {isa.Space.ACTIVATION: DEPTH, isa.Space.RESIDUAL: 2 * LANES, isa.Space.TABLE: BEAT}[
        space
    ]


def random_load(words: int | None = None) -> dict[str, int]:
    window = random.choice([isa.Window.CONSTANT, isa.Window.INPUT, isa.Window.OUTPUT])
    space = random.choice(list(isa.Space))
    words = words or random.choice([1, 2, random.randrange(1, 40), random.randrange(1, 200)])
    room = WINDOWS[window][1] - words * word_bytes(space)
    offset = random.choice([0, room, random.randrange(0, room + 1)]) // BEAT * BEAT
    base = random.randrange(0, 256)
    signal = random.randrange(64)
    return dict(
        window=window, space=space, offset=offset, words=words, base=base, signal=signal, wait=1
    )


def expect_load(bench: Bench, memory: bytes, load: dict[str, int]) -> list[tuple[str, int]]:
    """Check the scratchpad words of the latest load to each address; return the write order."""
    size = word_bytes(isa.Space(load["space"]))
    name = isa.Space(load["space"]).name.lower()
    start = WINDOWS[load["window"]][0] + load["offset"]
    order = []
    for i in range(load["words"]):
        data = int.from_bytes(memory[start + i * size : start + (i + 1) * size], "little")
        if load["space"] == isa.Space.TABLE:
            data &= (1 << 32) - 1
        bench.expected[name][load["base"] + i] = data
        order.append((name, load["base"] + i))
    return order


@cocotb.test()
@cocotb.parametrize(pause=[0.0, 0.3, 0.7])
async def loads_are_exact_and_in_order(dut, pause) -> None:
    bench = Bench(dut, pause)
    memory = random.randbytes(MEMORY_BYTES)
    bench.ram.write(0, memory)
    await bench.start()
    bench.expected = {name: {} for name in MEMORIES}
    loads = [random_load() for _ in range(25)]
    order = []
    for load in loads:
        order += expect_load(bench, memory, load)
        bench.queues["load"].append(isa.encode(isa.Opcode.LOAD, **load))
    others = [
        (random.randrange(0, 0x2000 // BEAT) * BEAT, random.randrange(1, 17)) for _ in range(40)
    ]
    bench.other.extend(others)
    await bench.until(lambda: len(bench.given["load"]) == len(loads))
    assert bench.given["load"] == [load["signal"] for load in loads]
    assert bench.writes == order
    assert {name: getattr(bench, name) for name in MEMORIES} == bench.expected
    expected = [
        int.from_bytes(memory[0x1000 + offset + i * BEAT :][:BEAT], "little")
        for offset, beats in others
        for i in range(beats)
    ]
    await bench.until(lambda: len(bench.other_beats) == len(expected))
    assert bench.other_beats == expected
    await bench.until(lambda: not dut.load__busy.value and dut.idle.value)
    bench.expected["activation"][order[0][1]] = -1
    assert bench.activation != bench.expected["activation"], "the comparison must be able to fail"


@cocotb.test()
async def loads_run_at_full_rate(dut) -> None:
    bench = Bench(dut, 0.0)
    await bench.start()
    words = 200
    for i in range(4):
        bench.queues["load"].append(
            isa.encode(isa.Opcode.LOAD, window=2, offset=i * words * DEPTH, words=words, base=0)
        )
    await bench.until(lambda: bench.writes)
    first = bench.cycles
    await bench.until(lambda: len(bench.given["load"]) == 4)
    beats = 4 * words * DEPTH // BEAT
    assert bench.cycles - first <= 1.1 * beats + 20  # the memory model pauses between bursts


@cocotb.test()
async def tokens_hold_instructions_back(dut) -> None:
    bench = Bench(dut, 0.0)
    await bench.start()
    bench.tokens = {"load": 0, "store": 0}
    bench.queues["load"].append(isa.encode(isa.Opcode.LOAD, wait=4, words=3, window=2))
    bench.queues["store"].append(isa.encode(isa.Opcode.STORE, wait=2, words=1))
    bench.output.append(7)
    for _ in range(100):
        await FallingEdge(dut.clk)
    assert dut.load__wait.value == 4 and dut.store__wait.value == 2
    assert dut.load__wait_token.value and dut.store__wait_token.value
    assert dut.load__busy.value and dut.store__busy.value
    assert not bench.writes and dut.idle.value
    bench.tokens = {"load": 1, "store": 1}
    await bench.until(lambda: bench.given["load"] and bench.given["store"])
    assert bench.tokens == {"load": 0, "store": 0}
    assert len(bench.writes) == 3


def split(data: bytes, single: bool = False) -> list[bytes]:
    """What each output port writes of chunks."""
    if single:
        return [data, *[b""] * (PORTS - 1)]
    chunks = [data[i : i + 2 * LANES] for i in range(0, len(data), 2 * LANES)]
    return [b"".join(chunk[p * PART :][:PART] for chunk in chunks) for p in range(PORTS)]


@cocotb.test()
@cocotb.parametrize(pause=[0.0, 0.3, 0.7])
async def stores_are_exact(dut, pause) -> None:
    """Every byte outside the stored ranges keeps its guard value."""
    bench = Bench(dut, pause)
    guard = random.randbytes(MEMORY_BYTES)
    for ram in bench.rams:
        ram.write(0, guard)
    await bench.start()
    expected = [bytearray(guard) for _ in bench.rams]
    base, size = WINDOWS[3][0], PORTS * WINDOWS[3][1]
    chunk = 2 * LANES
    offset, signals = 0, []
    stores = []
    while len(stores) < 15:
        words = random.choice([1, 3, random.randrange(1, 300)])
        if offset + words * chunk > size:
            break
        stores.append((offset, words))
        offset += words * chunk + random.randrange(0, 20) * LINE
    stores[-1] = (size - stores[-1][1] * chunk, stores[-1][1])  # to the very end of the window
    random.shuffle(stores)
    for offset, words in stores:
        data = random.randbytes(words * chunk)
        for memory, part in zip(expected, split(data), strict=True):
            start = base + offset // PORTS
            memory[start : start + len(part)] = part
        for i in range(words):
            bench.output.append(int.from_bytes(data[i * chunk : (i + 1) * chunk], "little"))
        signals.append(random.randrange(64))
        raw = isa.encode(isa.Opcode.STORE, offset=offset, words=words, signal=signals[-1])
        bench.queues["store"].append(raw)
    await bench.until(lambda: len(bench.given["store"]) == len(stores))
    assert bench.given["store"] == signals
    for port, (ram, memory) in enumerate(zip(bench.rams, expected, strict=True)):
        written = ram.read(0, MEMORY_BYTES)
        wrong = [i for i in range(MEMORY_BYTES) if written[i] != memory[i]]
        assert not wrong, f"{len(wrong)} wrong bytes at port {port}, first {wrong[0]:#x}: {stores}"
    await bench.until(lambda: not dut.store__busy.value and dut.idle.value, 10)


@cocotb.test()
@cocotb.parametrize(pause=[0.0, 0.3, 0.7])
async def rows_come_back_as_they_were_stored(dut, pause) -> None:
    """Single stores among others, and loads of what they wrote: residual words, as they were."""
    bench = Bench(dut, pause)
    guard = random.randbytes(MEMORY_BYTES)
    for ram in bench.rams:
        ram.write(0, guard)
    await bench.start()
    expected = [bytearray(guard) for _ in bench.rams]
    base, size = WINDOWS[3]
    chunk, base_word, residual = 2 * LANES, 0, {}
    for number in range(12):
        words, single = random.choice([1, 2, random.randrange(1, 120)]), number % 3 != 0
        most = (size - words * (chunk if single else PART)) // LINE * LINE
        offset = random.choice([most, random.randrange(0, most + 1) // LINE * LINE])
        offset *= 1 if single else PORTS
        rows = [random.randbytes(chunk) for _ in range(words)]
        for memory, part in zip(expected, split(b"".join(rows), single), strict=True):
            start = base + (offset if single else offset // PORTS)
            memory[start : start + len(part)] = part
        store = {"offset": offset, "words": words, "single": int(single), "signal": number + 1}
        bench.queues["store"].append(isa.encode(isa.Opcode.STORE, **store))
        bench.output.extend(int.from_bytes(row, "little") for row in rows)
        await bench.until(lambda count=number + 1: len(bench.given["store"]) == count)
        if single:
            load = {"window": isa.Window.OUTPUT, "space": isa.Space.RESIDUAL, "base": base_word}
            load |= {"offset": offset, "words": words}
            bench.queues["load"].append(isa.encode(isa.Opcode.LOAD, **load))
            for row in rows:
                residual[base_word] = int.from_bytes(row, "little")
                base_word += 1
            loads = sum(1 for n in range(number + 1) if n % 3 != 0)
            await bench.until(lambda count=loads: len(bench.given["load"]) == count)
            assert bench.residual == residual
    assert bench.given["store"] == list(range(1, 13))
    for ram, memory in zip(bench.rams, expected, strict=True):
        assert ram.read(0, MEMORY_BYTES) == memory
    await bench.until(lambda: not dut.store__busy.value and dut.idle.value, 10)


@cocotb.test()
@cocotb.parametrize(pause=[0.0, 0.5])
async def stores_of_both_kinds_follow_each_other(dut, pause) -> None:
    """Queued behind each other, with their chunks there before and after them."""
    bench = Bench(dut, pause)
    for ram in bench.rams:
        ram.write(0, bytes(MEMORY_BYTES))
    await bench.start()
    expected = [bytearray(MEMORY_BYTES) for _ in bench.rams]
    base = WINDOWS[3][0]
    chunk, signals, at = 2 * LANES, [], [0] * 2  # ordinary ones from below, single ones from above
    for number in range(30):
        words, single = random.choice([1, 1, 2, 3, random.randrange(1, 25)]), random.random() < 0.5
        rows = [random.randbytes(chunk) for _ in range(words)]
        offset = 0xC000 + at[1] if single else PORTS * at[0]
        at[single] += -(-words * (chunk if single else PART) // LINE) * LINE
        for memory, part in zip(expected, split(b"".join(rows), single), strict=True):
            start = base + offset // (1 if single else PORTS)
            memory[start : start + len(part)] = part
        signals.append(random.randrange(64))
        store = {"offset": offset, "words": words, "single": int(single), "signal": signals[-1]}
        bench.queues["store"].append(isa.encode(isa.Opcode.STORE, **store))
        bench.output.extend(int.from_bytes(row, "little") for row in rows)
        if number % 8 == 7:
            await bench.until(lambda: len(bench.given["store"]) == len(signals))
    await bench.until(lambda: len(bench.given["store"]) == len(signals))
    assert bench.given["store"] == signals
    for ram, memory in zip(bench.rams, expected, strict=True):
        assert ram.read(0, MEMORY_BYTES) == memory
    expected[-1][base] ^= 1
    assert bench.rams[-1].read(0, MEMORY_BYTES) != expected[-1], (
        "the comparison must be able to fail"
    )


@cocotb.test()
async def single_stores_run_at_the_rate_of_one_port(dut) -> None:
    bench = Bench(dut, 0.0)
    await bench.start()
    words = 300
    bench.queues["store"].append(isa.encode(isa.Opcode.STORE, single=1, words=words, offset=0))
    bench.output.extend(random.getrandbits(16 * LANES) for _ in range(words))
    first = bench.cycles
    await bench.until(lambda: bench.given["store"])
    beats = words * 2 * LANES // BEAT
    # The memory model pauses between bursts; a burst takes three cycles at least.
    assert bench.cycles - first <= max(1.15 * beats, 3 * beats / BURST) + 60


@cocotb.test()
async def token_follows_the_last_response(dut) -> None:
    bench = Bench(dut, 0.0)
    await bench.start()
    hold = [True]

    def held():
        while True:
            yield hold[0]

    bench.ram.write_if.b_channel.set_pause_generator(held())
    bench.queues["store"].append(isa.encode(isa.Opcode.STORE, words=4, signal=2))
    bench.output.extend([1, 2, 3, 4])
    for _ in range(200):
        await FallingEdge(dut.clk)
    assert not bench.given["store"] and not dut.idle.value
    hold[0] = False
    await bench.until(lambda: bench.given["store"] == [2], 20)


@cocotb.test()
@cocotb.parametrize(
    case=["load_beyond", "load_misaligned", "store_beyond", "store_misaligned", "other_beyond"]
)
async def refused_commands_never_reach_the_bus(dut, case) -> None:
    bench = Bench(dut, 0.0)
    await bench.start()
    size = WINDOWS[3][1]
    unit, _, kind = case.partition("_")
    ports = PORTS if unit == "store" else 1
    offset = ports * (size if kind == "beyond" else 1)
    if unit == "load":
        load = isa.encode(isa.Opcode.LOAD, window=3, offset=offset, words=1)
        bench.queues["load"].append(load)
    elif unit == "store":
        bench.output.append(1)
        bench.queues["store"].append(isa.encode(isa.Opcode.STORE, offset=offset, words=1))
    else:
        bench.other.append((WINDOWS[0][1] - BEAT, 2))
    fault = 1 << 2 * ("load", "store", "other").index(unit)
    seen = []

    def watch() -> bool:
        seen.append(bool(dut.m_axi_d_arvalid.value) or bool(dut.m_axi_d_awvalid.value))
        return dut.faults.value == fault

    await bench.until(watch, 100)
    assert not any(seen)
    dut.abort.value = 1
    await bench.until(lambda: dut.idle.value, 20)
    await FallingEdge(dut.clk)
    assert dut.faults.value == 0


@cocotb.test()
@cocotb.parametrize(unit=["load", "store"])
async def bus_error_is_a_fault(dut, unit) -> None:
    bench = Bench(dut, 0.0)
    await bench.start()

    async def broken(*_args, **_kwargs):
        raise RuntimeError("no memory here")

    bench.ram.write_if.log.disabled = bench.ram.read_if.log.disabled = True
    bench.ram.write_if._write = bench.ram.read_if._read = broken
    if unit == "load":
        bench.queues["load"].append(isa.encode(isa.Opcode.LOAD, window=2, words=100))
        fault = 2
    else:
        bench.output.extend(range(100))
        bench.queues["store"].append(isa.encode(isa.Opcode.STORE, words=100))
        fault = 8
    await bench.until(lambda: dut.faults.value == fault)
    assert AxiResp.SLVERR == 2
    dut.abort.value = 1
    await bench.until(lambda: dut.idle.value, 2000)
    assert not bench.given[unit]


@cocotb.test()
@cocotb.parametrize(wait=[1, 20, 45, 80, 130])
async def abort_finishes_what_is_outstanding(dut, wait) -> None:
    """Whatever the moment, the bus ends quiet."""
    bench = Bench(dut, 0.3)
    memory = random.randbytes(MEMORY_BYTES)
    bench.ram.write(0, memory)
    await bench.start()
    bench.queues["load"].append(isa.encode(isa.Opcode.LOAD, window=2, words=900))
    bench.queues["store"].append(isa.encode(isa.Opcode.STORE, words=300))
    bench.output.extend(random.getrandbits(16 * LANES) for _ in range(500))
    bench.other.append((0, 100))
    for _ in range(wait):
        await FallingEdge(dut.clk)
    dut.abort.value = 1
    await FallingEdge(dut.clk)
    await bench.until(lambda: dut.idle.value, 5000)
    for queue in (bench.queues["load"], bench.queues["store"], bench.other, bench.output):
        queue.clear()
    for _ in range(3):  # quiet means quiet
        await FallingEdge(dut.clk)
        assert dut.idle.value
    assert not dut.m_axi_d_arvalid.value and not dut.m_axi_d_awvalid.value
