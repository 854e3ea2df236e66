"""The whole accelerator: all presets elaborate, small frames are exact, trouble ends in errors."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from moesaic.hw import generate
from moesaic.sim.bench_runner import run_cocotb
from moesaic.sim.build import accelerator_verilog, simulator_library
from moesaic.sim.device import Fault, SimDevice, SimulationError
from moesaic.sim.dram import DramConfig
from moesaic.sim.id_wrapper import add_id_wires
from moesaic.sim.verilator import lint
from moesaic.spec import isa, registers
from moesaic.spec.arch import ArchConfig
from moesaic.spec.isa import Opcode, Unit
from moesaic.spec.presets import PRESETS
from moesaic.spec.registers import ABORT_LIMIT_CYCLES, ErrorCode
from tests.hw.presets import ELABORATED
from tests.hw.top_program import Frame, two_layers

NANO = PRESETS["nano"]
SIZES = (19, 40, 24, 21)
MEMORY_BYTES = 1 << 20


@pytest.mark.parametrize("target", ELABORATED)
def test_preset_is_accepted_by_verilator(target: str, tmp_path: Path) -> None:
    """Without a single warning, and with no option to silence any."""
    path = tmp_path / "top.v"
    path.write_text(accelerator_verilog(PRESETS[target]))
    assert "arning" not in lint(path)


@pytest.mark.parametrize("pause", [0.0, 0.3])
def test_top_over_axi(pause: float) -> None:
    verilog, toplevel = add_id_wires(accelerator_verilog(NANO))
    settings = {"TARGET": "nano", "PAUSE": pause}
    assert run_cocotb(verilog, toplevel, "tests.hw.bench_top", parameters=settings) == 2


def test_generate_writes_top_and_configuration(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert generate.main(["--target", "nano", "-o", str(tmp_path / "rtl")]) == 0
    assert sorted(path.name for path in (tmp_path / "rtl").iterdir()) == ["arch.json", "top.v"]
    assert (tmp_path / "rtl/top.v").read_text() == accelerator_verilog(NANO)
    fields = json.loads((tmp_path / "rtl/arch.json").read_text())
    assert ArchConfig.from_dict(fields) == NANO
    capsys.readouterr()


@pytest.mark.parametrize("target", ["nanoo", "missing.json"])
def test_generate_refuses_an_unknown_target(
    target: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert generate.main(["--target", target, "-o", str(tmp_path / "rtl")]) == 2
    message = capsys.readouterr().err.strip()
    assert target in message and len(message.splitlines()) == 1
    assert not (tmp_path / "rtl").exists()


def test_generate_refuses_a_folder_it_cannot_write(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generate, "top_verilog", lambda arch: "module top; endmodule\n")
    (tmp_path / "file").write_text("")
    assert generate.main(["--target", "nano", "-o", str(tmp_path / "file")]) == 2
    assert "cannot be written" in capsys.readouterr().err


class Host:
    """A driver of a few lines on the simulated accelerator."""

    def __init__(self, device: SimDevice) -> None:
        self.device = device

    def write(self, name: str, value: int) -> None:
        self.device.write_register(registers.offset(name), value)

    def read(self, name: str) -> int:
        return self.device.read_register(registers.offset(name))

    def start(self, frame: Frame, watchdog_cycles: int = 50_000) -> None:
        for address, contents in frame.memory.items():
            self.device.write_memory(address, contents)
        for name, (base, size) in frame.windows.items():
            self.write(f"{name}_BASE_LO", base)
            self.write(f"{name}_SIZE", size)
        self.write("IRQ_ENABLE", 3)
        self.write("IRQ_STATUS", 3)
        self.write("WATCHDOG", watchdog_cycles)
        self.write("CONTROL", registers.bit("CONTROL", "START"))

    def end(self, limit_cycles: int = 200_000) -> tuple[ErrorCode, int]:
        """Wait for the interrupt; return error and information."""
        assert self.device.run(limit_cycles), f"no interrupt within {limit_cycles} cycles"
        error = ErrorCode(self.read("ERROR"))
        expected = "ERROR" if error else "DONE"
        assert self.read("STATUS") & ~1 == registers.bit("STATUS", expected)
        return error, self.read("ERROR_INFO")

    def wrong_bytes(self, frame: Frame) -> int:
        count = 0
        for address, contents in frame.expected.items():
            found = np.frombuffer(self.device.read_memory(address, len(contents)), np.uint8)
            count += int((found != np.frombuffer(contents, np.uint8)).sum())
        return count

    def expect_works(self) -> None:
        frame = two_layers(NANO, SIZES, random.randrange(1000))
        self.start(frame)
        assert self.end() == (ErrorCode.NONE, 0)
        assert self.wrong_bytes(frame) == 0


@pytest.fixture(scope="module")
def library() -> Path:
    return simulator_library(NANO)


@pytest.fixture
def host(library: Path) -> Iterator[Host]:
    random.seed(7)
    with SimDevice(library, memory_bytes=MEMORY_BYTES) as device:
        yield Host(device)


@pytest.mark.parametrize("dram", [DramConfig(), DramConfig.ideal()], ids=["real", "ideal"])
def test_random_sizes_are_exact(host: Host, dram: DramConfig) -> None:
    host.device.configure(dram)
    for seed in range(20):
        sizes = tuple(random.randrange(1, high) for high in (70, 90, 60, 60))
        frame = two_layers(NANO, sizes, seed)
        host.start(frame)
        assert host.end() == (ErrorCode.NONE, 0)
        assert host.wrong_bytes(frame) == 0, sizes


def test_checker_notices_one_wrong_weight(host: Host) -> None:
    frame = two_layers(NANO, SIZES)
    base, _ = frame.windows["WEIGHT1"]
    image = bytearray(frame.memory[base])
    # The first row of the second layer's last tile: inside the matrix, whatever the sizes.
    image[-NANO.depth * NANO.weight_port_bytes] ^= 0x40
    frame.memory[base] = bytes(image)
    before = two_layers(NANO, SIZES)
    host.start(before)
    host.end()
    assert host.wrong_bytes(before) == 0
    host.start(frame)
    assert host.end() == (ErrorCode.NONE, 0)
    assert host.wrong_bytes(frame) > 0


def test_array_is_busy_most_of_the_time(host: Host) -> None:
    """Tiles follow each other without a gap: only filling and draining cost cycles."""
    host.device.configure(DramConfig.ideal())
    frame = two_layers(NANO, (128, 192, 96, 64))
    host.start(frame)
    assert host.end() == (ErrorCode.NONE, 0)
    busy = host.read("MATRIX_STREAM_WORDS_LO")
    assert busy == frame.macs // NANO.macs_per_cycle
    assert host.read("MATRIX_WAIT_TILE_LO") == 0 and host.read("MATRIX_WAIT_BANK_LO") == 0
    # What this program cannot overlap: input beats, the last group's drain before the second
    # layer, output beats; and a little for filling, fetching and token hops.
    exposed = 128 * 192 // 16 + 128 * 3 + 128 * 64 * 2 // 16
    assert host.read("CYCLES_LO") <= busy + exposed + 250


MASTERS = {"PROGRAM": 6, "INPUT": Unit.LOAD, "WEIGHT0": Unit.STREAM, "OUTPUT": Unit.STORE}


@pytest.mark.parametrize("window", MASTERS)
def test_bus_error_names_its_master(host: Host, window: str) -> None:
    frame = two_layers(NANO, SIZES)
    base, size = frame.windows[window]
    host.device.inject_fault(Fault.ERROR, base + size // 2, 1)
    host.start(frame)
    assert host.end() == (ErrorCode.BUS, MASTERS[window])
    assert host.read("STATUS") == registers.bit("STATUS", "ERROR")
    host.device.clear_faults()
    host.expect_works()


@pytest.mark.parametrize("window", ["INPUT", "WEIGHT0", "WEIGHT1", "OUTPUT"])
def test_access_outside_its_window_is_refused(host: Host, window: str) -> None:
    frame = two_layers(NANO, SIZES)
    base, size = frame.windows[window]
    frame.windows[window] = (base, size - 1)
    host.start(frame)
    assert host.end() == (ErrorCode.WINDOW, MASTERS.get(window, Unit.STREAM))
    host.expect_works()


@pytest.mark.parametrize("window", MASTERS)
def test_bus_that_never_answers_is_reported(host: Host, window: str) -> None:
    """The watchdog's interrupt comes although the master can never become idle."""
    frame = two_layers(NANO, SIZES)
    host.device.inject_fault(Fault.HANG, frame.windows[window][0], 1)
    host.start(frame, watchdog_cycles=3000)
    assert host.end(3000 + ABORT_LIMIT_CYCLES + 100) == (ErrorCode.WATCHDOG, 0)
    busy = registers.bit("STATUS", "BUSY")
    assert host.read("STATUS") == registers.bit("STATUS", "ERROR") | busy
    host.write("CONTROL", registers.bit("CONTROL", "START"))
    assert host.read("STATUS") & busy, "START must wait until the bus has answered"
    host.device.clear_faults()
    host.device.reset()
    host.expect_works()


def test_reset_at_any_time_leaves_a_working_accelerator(host: Host) -> None:
    frame = two_layers(NANO, SIZES)
    host.start(frame)
    host.end()
    whole = host.read("CYCLES_LO")
    for _ in range(40):
        host.start(frame)
        host.device.step(random.randrange(whole - 30))  # the frame must not end by itself
        host.write("CONTROL", registers.bit("CONTROL", "RESET"))
        for _ in range(100):
            if host.read("STATUS") == 0:
                break
        assert host.read("STATUS") == 0 and not host.device.interrupt
        host.expect_works()


def test_damaged_programs_end_in_an_error(host: Host) -> None:
    for _ in range(40):
        frame = two_layers(NANO, SIZES)
        base, size = frame.windows["PROGRAM"]
        program = bytearray(frame.memory[base])
        position = random.randrange(8 * size)
        program[position // 8] ^= 1 << position % 8
        frame.memory[base] = bytes(program)
        host.start(frame)
        where = position // 8 // isa.INSTRUCTION_BYTES * isa.INSTRUCTION_BYTES
        assert host.end() == (ErrorCode.BAD_INSTRUCTION, where)
    host.expect_works()


def _random_instruction() -> bytes:
    """Well-formed, with fields of any value: what a broken compiler could emit."""
    opcode = random.choice([o for o in Opcode if o is not Opcode.END])
    while True:
        values = {}
        for field in isa.FIELDS[opcode]:
            width = random.choice([field.width, min(field.width, random.randrange(1, 6))])
            values[field.name] = random.getrandbits(width)
        values["wait"] = random.choice([0, 0, 0, random.getrandbits(6)])
        values["signal"] = random.choice([0, 0, random.getrandbits(6)])
        try:
            raw = isa.encode(opcode, **values)
        except AssertionError:  # a zero where none may be
            continue
        return raw


def _senseless_end(host: Host, limit_cycles: int) -> tuple[ErrorCode, int]:
    """How it ends. Two STOREs of the same words may be under way at once, which the memory reports:
    no compiler writes such a program, and one that makes no sense may."""
    while True:
        try:
            return host.end(limit_cycles)
        except SimulationError as error:
            told = str(error).removeprefix("AXI4 violation: ").split("; ")
            if not all("overlaps a write on port d" in each for each in told):
                raise


def test_senseless_programs_end_and_touch_nothing_else(host: Host) -> None:
    """Any well-formed program ends within the watchdog's time; memory outside OUTPUT is safe."""
    codes = set()
    for _ in range(60):
        frame = two_layers(NANO, SIZES)
        good = list(frame.program)
        for _ in range(random.randrange(1, 4)):
            good.insert(random.randrange(len(good)), _random_instruction())
        base, size = frame.windows["PROGRAM"]
        room = min(a for a in (b for b, _ in frame.windows.values()) if a > base) - base
        program = b"".join(good)
        assert len(program) <= room
        frame.memory[base], frame.windows["PROGRAM"] = program, (base, len(program))
        host.start(frame, watchdog_cycles=20_000)
        error, _ = _senseless_end(host, 20_000 + ABORT_LIMIT_CYCLES + 100)
        codes.add(error)
        assert host.read("STATUS") & registers.bit("STATUS", "BUSY") == 0
        output, output_bytes = frame.windows["OUTPUT"]
        for address, contents in frame.memory.items():
            found = bytearray(host.device.read_memory(address, len(contents)))
            if address < output < address + len(contents):
                inside = slice(output - address, output - address + output_bytes)
                found[inside] = contents[inside]
            assert bytes(found) == contents
        host.expect_works()
    assert len(codes) > 2
