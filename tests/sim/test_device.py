"""The simulated device: registers, memory, interrupt, statistics, faults, violations, traces."""

from __future__ import annotations

import random
import struct
from pathlib import Path

import pytest

from moesaic.host.failures import TransportError
from moesaic.host.transport import Transport
from moesaic.sim.device import Fault, SimDevice, SimulationError
from moesaic.sim.dram import DramConfig
from moesaic.sim.library import build_library, trace_formats
from moesaic.spec.errors import UserError
from tests.sim.dummy_top import dummy_verilog

_COMMAND, _SOURCE, _DESTINATION, _BEATS, _STATUS, _SUM, _ERROR, _WIDTH, _RAM = range(0, 36, 4)
_COPY, _ADD, _ASSERT = 1, 2, 3


@pytest.fixture(scope="module", params=[(1, 32), (2, 64), (4, 128), (1, 512)], ids=str)
def library(request: pytest.FixtureRequest) -> Path:
    return build_library(dummy_verilog(*request.param))


@pytest.fixture(scope="module")
def small() -> Path:
    return build_library(dummy_verilog(2, 64))


def _start(device: SimDevice, command: int, source: int, destination: int, beats: int) -> None:
    device.write_register(_SOURCE, source)
    device.write_register(_DESTINATION, destination)
    device.write_register(_BEATS, beats)
    device.write_register(_COMMAND, command)


def test_device_is_a_transport(small: Path) -> None:
    with SimDevice(small) as device:
        assert isinstance(device, Transport)


@pytest.mark.parametrize("gaps", [0.0, 0.3])
def test_copy_moves_exactly_the_bytes(library: Path, gaps: float) -> None:
    dram = DramConfig(gap_probability=gaps)
    with SimDevice(library, memory_bytes=1 << 16, dram=dram) as device:
        width = device.read_register(_WIDTH)
        image = random.Random(width).randbytes(device.memory_bytes)
        device.write_memory(0, image)
        _start(device, _COPY, 0x1000, 0x8000, 40)
        assert device.run(100_000)
        assert device.read_register(_ERROR) == 0
        size = 40 * width
        expected = image[:0x8000] + image[0x1000 : 0x1000 + size] + image[0x8000 + size :]
        assert device.read_memory(0, device.memory_bytes) == expected
        d = device.dram_statistics()["d"]
        assert (d.read_bytes, d.write_bytes, d.read_bursts, d.write_bursts) == (size, size, 40, 40)


def test_every_weight_port_reads_its_bytes_once(library: Path) -> None:
    with SimDevice(library) as device:
        width = device.read_register(_WIDTH)
        beats = 16 * 20
        data = random.Random(1).randbytes(beats * width)
        device.write_memory(0x4000, data)
        _start(device, _ADD, 0x4000, 0, beats)
        assert device.run(100_000)
        words = struct.unpack(f"<{len(data) // 4}I", data)
        ports = {k: v for k, v in device.dram_statistics().items() if k.startswith("w")}
        assert device.read_register(_SUM) == sum(words) * len(ports) % 2**32
        for port in ports.values():
            assert port.data_bytes == width
            assert (port.read_bytes, port.read_bursts) == (len(data), 20)
            states = port.busy_cycles + port.stall_cycles + port.wait_cycles + port.idle_cycles
            assert port.busy_cycles == beats
            assert 0 <= device.cycles - states <= 16  # all but the first reset
        device.clear_dram_statistics()
        assert device.dram_statistics()["w0"].read_bytes == 0


def test_sustained_rate_of_every_port_is_nine_tenths(small: Path) -> None:
    with SimDevice(small) as device:
        beats = 16 * 1000
        before = device.cycles
        _start(device, _ADD, 0, 0, beats)
        assert device.run(100_000)
        assert 0.88 < beats / (device.cycles - before) < 0.92


def test_runs_are_deterministic_and_seeds_differ(small: Path) -> None:
    def cycles(seed: int) -> int:
        with SimDevice(small, dram=DramConfig(seed=seed, gap_probability=0.1)) as device:
            _start(device, _COPY, 0, 0x1000, 50)
            assert device.run(100_000)
            return device.cycles

    assert cycles(1) == cycles(1)
    assert len({cycles(seed) for seed in range(1, 6)}) > 1


def test_two_devices_do_not_share_state(small: Path) -> None:
    other = build_library(dummy_verilog(1, 32))
    with SimDevice(small) as one, SimDevice(small) as two, SimDevice(other) as three:
        one.write_register(_SOURCE, 1)
        two.write_register(_SOURCE, 2)
        three.write_register(_SOURCE, 3)
        one.write_memory(0, b"one")
        assert [d.read_register(_SOURCE) for d in (one, two, three)] == [1, 2, 3]
        assert two.read_memory(0, 3) == bytes(3)


def test_memories_power_up_random_or_zero(small: Path) -> None:
    def word(seed: int) -> int:
        with SimDevice(small, power_up_seed=seed) as device:
            return device.read_register(_RAM)

    assert word(0) == 0
    assert word(1) == word(1) != 0
    assert word(1) != word(2)


def test_run_ends_at_the_limit_without_interrupt(small: Path) -> None:
    with SimDevice(small) as device:
        before = device.cycles
        assert not device.run(1000)
        assert device.cycles == before + 1000
        device.step(10)
        assert device.cycles == before + 1010


def test_run_reports_progress(small: Path) -> None:
    with SimDevice(small) as device:
        seen: list[int] = []
        device.on_advance = seen.append
        device.run(600_000)
        assert sum(seen) == 600_000 and len(seen) > 1


def test_only_accelerators_are_profiled(small: Path) -> None:
    with SimDevice(small) as device, pytest.raises(ValueError, match="accelerator"):
        device.start_profile()


def test_interrupt_stays_until_cleared(small: Path) -> None:
    with SimDevice(small) as device:
        _start(device, _COPY, 0, 0x1000, 1)
        assert device.run(10_000)
        before = device.cycles
        assert device.run(10_000) and device.cycles == before
        device.write_register(_COMMAND, 0)
        device.step(4)
        assert not device.interrupt


def test_reset_keeps_memory_and_clears_registers(small: Path) -> None:
    with SimDevice(small) as device:
        device.write_memory(64, b"kept")
        _start(device, _COPY, 0, 0x1000, 1000)
        device.step(100)  # bursts are in flight
        device.reset()
        assert device.read_memory(64, 4) == b"kept"
        assert device.read_register(_SOURCE) == 0
        assert not device.run(5000)


def test_unmapped_register_raises(small: Path) -> None:
    with SimDevice(small) as device:
        with pytest.raises(TransportError, match="reading register 0x400: the response is SLVERR"):
            device.read_register(0x400)
        with pytest.raises(TransportError, match="writing register 0x400: the response is SLVERR"):
            device.write_register(0x400, 0)
        with pytest.raises(ValueError, match="value must be"):
            device.write_register(4, 1 << 32)


def test_error_fault_reaches_the_master(small: Path) -> None:
    with SimDevice(small) as device:
        device.inject_fault(Fault.ERROR, 0x1008, 8)
        _start(device, _COPY, 0x1000, 0x8000, 4)
        assert device.run(10_000)
        assert device.read_register(_ERROR) == 2
        device.clear_faults()
        _start(device, _COPY, 0x1000, 0x8000, 4)
        device.step(4)
        assert device.run(10_000)
        assert device.read_register(_ERROR) == 0


def test_hang_fault_stops_the_master_until_reset(small: Path) -> None:
    with SimDevice(small) as device:
        device.inject_fault(Fault.HANG, 0x1008, 8)
        _start(device, _COPY, 0x1000, 0x8000, 4)
        assert not device.run(20_000)
        device.clear_faults()
        device.reset()
        _start(device, _COPY, 0x1000, 0x8000, 4)
        assert device.run(20_000)


def test_access_outside_memory_is_a_decode_error(small: Path) -> None:
    with SimDevice(small, memory_base=0x10000, memory_bytes=0x1000) as device:
        _start(device, _COPY, 0x10000, 0x11000, 1)
        assert device.run(10_000)
        assert device.read_register(_ERROR) == 3
        for address, size in ((0xFFFF, 1), (0x10FFF, 2), (0x10000, 0x1001)):
            with pytest.raises(ValueError, match="address must lie in"):
                device.read_memory(address, size)
            with pytest.raises(ValueError, match="address must lie in"):
                device.write_memory(address, bytes(size))


def test_protocol_violation_raises(small: Path) -> None:
    with SimDevice(small) as device:
        _start(device, _COPY, 0x1004, 0x8000, 1)
        with pytest.raises(SimulationError, match="port d: read address 0x1004 is not aligned"):
            device.run(10_000)


def test_four_kib_crossing_raises(small: Path) -> None:
    with SimDevice(small) as device:
        _start(device, _ADD, 4096 - 64, 0, 16)
        with pytest.raises(SimulationError, match="port w0.*crosses a 4 KiB boundary"):
            device.run(10_000)


def test_failing_assertion_raises(small: Path) -> None:
    with SimDevice(small) as device, pytest.raises(SimulationError, match="assertion"):
        device.write_register(_COMMAND, _ASSERT)
        device.run(100)


@pytest.mark.parametrize("suffix", trace_formats())
def test_trace_is_written(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"wave.{suffix}"
    with SimDevice.from_verilog(dummy_verilog(1, 32), trace=path) as device:
        _start(device, _COPY, 0, 0x1000, 2)
        assert device.run(10_000)
    data = path.read_bytes()
    assert len(data) > 1000
    if suffix == "vcd":
        assert b"m_axi_d_araddr" in data


def test_unknown_trace_format_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"must end in .vcd, .fst or .saif, not 'wave.txt'"):
        SimDevice.from_verilog("", trace=tmp_path / "wave.txt")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("s_axil_bready", "s_axil_bredy", "must have the ports s_axil_bready"),
        ("m_axi_w0_rlast", "m_axi_w0_last", "must have the ports m_axi_w0_rlast"),
        ("module top", "module tip", "must contain module top"),
        ("output m_axi_d_wlast", "input m_axi_d_wlast", "m_axi_d_wlast .* must be an output"),
    ],
)
def test_broken_port_contract_is_refused(old: str, new: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_library(dummy_verilog(1, 32).replace(old, new))
