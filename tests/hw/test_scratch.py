"""Rows of the residual stream that leave for external memory and come back, on the accelerator."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pytest

from moesaic.compiler.estimate.cycles.timing import Memory
from moesaic.compiler.estimate.task import estimate
from moesaic.compiler.schedule.steps import Step
from moesaic.sim.build import simulator_library
from moesaic.sim.device import SimDevice
from moesaic.sim.dram import DramConfig
from moesaic.spec import isa, layout, scratch
from moesaic.spec.arch import ArchConfig
from moesaic.spec.isa import Opcode, Unit
from moesaic.spec.presets import PRESETS
from moesaic.spec.registers import ErrorCode
from tests.functional import FunctionalModel
from tests.hazards import Hazard, check_order
from tests.hw.test_top import MEMORY_BYTES, Host
from tests.hw.top_program import PAGE, Frame

NANO = PRESETS["nano"]
TWO = dataclasses.replace(
    NANO, name="nano-two", weight_port_bytes=8, data_port_bytes=8, output_ports=2
)
"""Two output ports, with two beats of every chunk each."""
IDENTITY = {"plain": 1, "store": 1, "channels": 1, "multiplier": 1 << 15, "shift": 15}
"""NORM that gives residual rows as they are."""


@dataclass
class Rows:
    """``blocks`` blocks of int16 rows [rows, words * lanes], which all use one piece of the
    residual memory in turn, and leave it for scratch meanwhile."""

    arch: ArchConfig
    blocks: int
    rows: int
    words: int

    def __post_init__(self) -> None:
        shape = self.blocks * self.rows, self.words * self.arch.lanes
        self.stream = np.random.default_rng(3).integers(-32768, 32768, shape).astype("<i2")

    @property
    def block_words(self) -> int:
        return self.rows * self.words

    @property
    def first_byte(self) -> int:
        return scratch.first_byte(self.arch, [self.stream.shape])

    def program(self, *, ordered: bool = True) -> bytes:
        """Load each block, store it to scratch; then load each from there, and store the output.

        Without ``ordered``, a LOAD does not wait for the STORE of what it reads.
        """
        size, program = self.block_words * 2 * self.arch.lanes, []

        def bits(*units: Unit) -> int:
            return sum(1 << unit for unit in units)

        def move(window: isa.Window, source: int, after: tuple[Unit, ...], **store: int) -> None:
            """A block into the residual memory, and on to the store unit."""
            program.append(
                isa.encode(
                    Opcode.LOAD, window=window, space=isa.Space.RESIDUAL, offset=source,
                    words=self.block_words, wait=bits(*after), signal=bits(Unit.VECTOR),
                )
            )  # fmt: skip
            program.append(isa.encode(Opcode.STORE, words=self.block_words, **store))
            program.append(
                isa.encode(
                    Opcode.NORM, rows=self.rows, words=self.words, source_stride=self.words,
                    wait=bits(Unit.LOAD), signal=bits(Unit.LOAD), **IDENTITY,
                )
            )  # fmt: skip

        for block in range(self.blocks):
            there = {"offset": self.first_byte + block * size, "single": 1}
            signal = bits(Unit.LOAD) if ordered else 0
            after = (Unit.VECTOR,) if block else ()
            move(isa.Window.INPUT, block * size, after, **there, signal=signal)
        for block in range(self.blocks):
            offset = self.first_byte + block * size
            after = (Unit.VECTOR, Unit.STORE) if ordered else (Unit.VECTOR,)
            move(isa.Window.OUTPUT, offset, after, offset=block * size)
        return b"".join([*program, isa.encode(Opcode.END)])

    def frame(self) -> Frame:
        """What memory must hold before and behind it, guard bytes around the windows included."""
        program, data = self.program(), self.stream.tobytes()
        memory = {4 * PAGE: program, 16 * PAGE: data}
        windows = {"PROGRAM": (4 * PAGE, len(program)), "INPUT": (16 * PAGE, len(data))}
        chunks = np.frombuffer(data, np.uint8).reshape(-1, self.arch.output_ports, self.part)
        expected = {}
        for port in range(self.arch.output_ports):
            base = (64 + 64 * port) * PAGE
            contents = chunks[:, port].tobytes()
            if port == 0:
                contents = contents.ljust(self.first_byte, b"\x55") + data
            memory[base - PAGE] = b"\x55" * (len(contents) + 2 * PAGE)
            expected[base - PAGE] = b"\x55" * PAGE + contents + b"\x55" * PAGE
            windows["OUTPUT" if port == 0 else f"OUTPUT{port}"] = base, len(contents)
        return Frame(memory, windows, expected, len(program) // isa.INSTRUCTION_BYTES, 0, 0)

    @property
    def part(self) -> int:
        return 2 * self.arch.lanes // self.arch.output_ports


def steps(program: bytes) -> list[Step]:
    """The program's instructions as steps of the cost model."""
    size, found = isa.INSTRUCTION_BYTES, []
    for start in range(0, len(program) - size, size):
        values = isa.decode(program[start : start + size]).values
        opcode = isa.decode(program[start : start + size]).opcode
        masks = [{u for u in Unit if values[name] >> u & 1} for name in ("wait", "signal")]
        fields = {n: v for n, v in values.items() if n in {f.name for f in isa.FIELDS[opcode]}}
        found.append(Step(opcode, dict(fields), wait=masks[0], signal=masks[1]))
    return found


@pytest.fixture(scope="module", params=[NANO, TWO], ids=lambda arch: arch.name)
def host(request: pytest.FixtureRequest) -> Iterator[tuple[ArchConfig, Host]]:
    with SimDevice(simulator_library(request.param), memory_bytes=MEMORY_BYTES) as device:
        yield request.param, Host(device)


@pytest.mark.parametrize("sizes", [(3, 5, 3), (2, 16, 12), (6, 1, 1), (4, 40, 4)], ids=str)
def test_rows_come_back_bit_for_bit(
    host: tuple[ArchConfig, Host], sizes: tuple[int, int, int]
) -> None:
    """Also with the memory's real latencies, whose model reports a read of an unfinished write."""
    arch, device = host
    for dram in (DramConfig(), DramConfig.ideal(), DramConfig(gap_probability=0.5, seed=5)):
        device.device.configure(dram)
        frame = Rows(arch, *sizes).frame()
        device.start(frame)
        assert device.end() == (ErrorCode.NONE, 0)
        assert device.wrong_bytes(frame) == 0
    frame.expected[64 * PAGE - PAGE] = frame.expected[64 * PAGE - PAGE][:-PAGE] + b"\x54" * PAGE
    assert device.wrong_bytes(frame) == PAGE, "the comparison must be able to fail"


@pytest.mark.parametrize("sizes", [(2, 64, 8), (8, 16, 8), (16, 4, 8)], ids=str)
def test_cycles_are_those_of_the_model(
    host: tuple[ArchConfig, Host], sizes: tuple[int, int, int]
) -> None:
    arch, device = host
    device.device.configure(DramConfig())
    rows = Rows(arch, *sizes)
    device.start(rows.frame())
    assert device.end() == (ErrorCode.NONE, 0)
    result = estimate(steps(rows.program()), arch, 0, memory=Memory())
    assert abs(result.cycles / device.read("CYCLES_LO") - 1) < 0.03
    moved = device.read("DATA_READ_BYTES_LO") + device.read("DATA_WRITE_BYTES_LO")
    assert result.data_bytes == moved


@pytest.mark.parametrize("arch", [NANO, TWO, PRESETS["zcu102"]], ids=lambda arch: arch.name)
def test_models_of_values_and_of_order_agree(arch: ArchConfig) -> None:
    rows = Rows(arch, 3, 4, 2)
    for seed in range(10):
        model = FunctionalModel(arch, b"", b"", rows.stream.tobytes(), seed)
        assert model.run(rows.program()) == rows.stream.tobytes()
    check_order(arch, rows.program(), range(20))
    with pytest.raises(Hazard, match="LOAD"):
        check_order(arch, Rows(arch, 1, 4, 2).program(ordered=False), range(50))
    shape = [rows.stream.shape]
    behind = scratch.scratch_bytes(arch, rows.program(), shape)
    assert behind == rows.first_byte - scratch.port_bytes(arch, shape) + rows.stream.nbytes


@pytest.mark.parametrize("arch", [NANO, TWO], ids=lambda arch: arch.name)
def test_scratch_has_the_layout_of_residual_words(arch: ArchConfig) -> None:
    rows = Rows(arch, 2, 3, 2)
    model = FunctionalModel(arch, b"", b"", rows.stream.tobytes())
    model.run(rows.program())
    assert model.ports[0][rows.first_byte :] == layout.pack_residual(arch, rows.stream)
