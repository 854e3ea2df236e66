"""The DRAM model: data, timing, protocol checks, hazards and faults."""

from __future__ import annotations

import random

import pytest

from moesaic.sim.dram import DramConfig
from tests.sim.dram_bench import DramBench


def _steady(**changes: object) -> DramConfig:
    """Full bandwidth and no pauses, so that cycles can be predicted."""
    values = {"latency_cycles": 60, "bandwidth_share": 1.0, "gap_probability": 0.0}
    return DramConfig(**(values | changes))  # type: ignore[arg-type]


def _write(bench: DramBench, address: int, data: bytes) -> int:
    beats = len(data) // bench.data_bytes
    bench.send("aw", address, beats)
    for beat in range(beats):
        start = beat * bench.data_bytes
        bench.send_beat(data[start : start + bench.data_bytes], beat == beats - 1)
    return bench.receive_response()[1]


def _read(bench: DramBench, address: int, beats: int) -> tuple[bytes, list[int]]:
    bench.send("ar", address, beats)
    data, responses = b"", []
    for beat in range(beats):
        _, chunk, response, last = bench.receive_beat()
        assert last == (beat == beats - 1)
        data += chunk
        responses.append(response)
    return data, responses


@pytest.mark.parametrize("data_bytes", [4, 8, 16, 32, 64])
@pytest.mark.parametrize("gaps", [0.0, 0.3])
def test_data_survives_write_and_read(data_bytes: int, gaps: float) -> None:
    bench = DramBench(DramConfig(gap_probability=gaps), base=0x4000_0000, data_bytes=data_bytes)
    generator = random.Random(data_bytes)
    for _ in range(20):
        beats = generator.randint(1, min(256, 4096 // data_bytes))
        page = generator.randrange(16)
        first = generator.randrange(4096 // data_bytes - beats + 1)
        address = bench.base + page * 4096 + first * data_bytes
        before = bytes(bench.memory)
        data = generator.randbytes(beats * data_bytes)
        assert _write(bench, address, data) == 0
        offset = address - bench.base
        expected = before[:offset] + data + before[offset + len(data) :]
        assert bytes(bench.memory) == expected  # nothing around it changed
        assert _read(bench, address, beats) == (data, [0] * beats)
    assert bench.violations == []


@pytest.mark.parametrize("data_bytes", [4, 16, 64])
def test_strobes_select_bytes(data_bytes: int) -> None:
    bench = DramBench(_steady(), data_bytes=data_bytes)
    bench.memory[:data_bytes] = [0xAA] * data_bytes
    strobes = 0x5A5A_A5A5_0FF0_3C3C & ((1 << data_bytes) - 1)
    bench.send("aw", 0, 1)
    bench.send_beat(b"\x55" * data_bytes, True, strobes)
    assert bench.receive_response()[1] == 0
    expected = [0x55 if strobes >> i & 1 else 0xAA for i in range(data_bytes)]
    assert list(bench.memory[:data_bytes]) == expected


@pytest.mark.parametrize("latency", [1, 7, 60])
def test_first_read_beat_comes_after_latency_then_one_per_cycle(latency: int) -> None:
    bench = DramBench(_steady(latency_cycles=latency))
    accepted = bench.send("ar", 0, 8)
    cycles = [bench.receive_beat()[0] for _ in range(8)]
    assert cycles == [accepted + latency + i for i in range(8)]


def test_latencies_of_outstanding_bursts_overlap() -> None:
    bench = DramBench(_steady())
    first = bench.send("ar", 0, 16)
    for burst in range(1, 5):
        bench.send("ar", burst * 256, 16)
    cycles = [bench.receive_beat()[0] for _ in range(5 * 16)]
    assert cycles[-1] == first + 60 + 79


def test_write_response_comes_after_latency() -> None:
    bench = DramBench(_steady())
    bench.send("aw", 0, 1)
    accepted = bench.send_beat(bytes(16), True)
    assert bench.receive_response()[0] == accepted + 60


def test_outstanding_bursts_are_limited() -> None:
    bench = DramBench(_steady(max_outstanding=3))
    for burst in range(3):
        bench.send("ar", burst * 16, 1)
    bench.present("ar", 64, 1)
    bench.tick(200)
    assert not bench.s.arready
    bench.receive_beat()
    assert bench.s.arready  # one left, so one may come
    bench.tick()
    assert not bench.s.arready


@pytest.mark.parametrize(("share", "gaps"), [(1.0, 0.0), (0.9, 0.0), (0.9, 1 / 256), (0.25, 0.01)])
def test_sustained_bandwidth_is_the_configured_share(share: float, gaps: float) -> None:
    bench = DramBench(DramConfig(bandwidth_share=share, gap_probability=gaps))
    bench.s.rready = 1
    beats = issued = 0
    first = bench.cycle
    while beats < 16 * 600:
        if issued < 600:
            bench.present("ar", issued % 4096 * 256, 16)
            issued += bench.s.arready
        else:
            bench.s.arvalid = 0
        beats += bench.s.rvalid
        bench.tick()
    rate = beats / (bench.cycle - first - 60)
    assert share - 0.015 < rate < share + 0.015
    assert bench.violations == []
    total = bench.statistics
    assert total["read_bytes"] == beats * 16
    assert total["read_bursts"] == 600
    states = ("busy_cycles", "stall_cycles", "wait_cycles", "idle_cycles")
    assert sum(total[state] for state in states) == bench.cycle


def test_same_seed_same_cycles_and_other_seed_others() -> None:
    def trace(seed: int) -> list[int]:
        bench = DramBench(DramConfig(gap_probability=0.2, seed=seed))
        bench.send("ar", 0, 64)
        return [bench.receive_beat()[0] for _ in range(64)]

    assert trace(1) == trace(1)
    assert trace(1) != trace(2)


def test_stalled_master_keeps_beat() -> None:
    bench = DramBench(DramConfig(gap_probability=0.5))
    bench.memory[:16] = list(range(16))
    bench.send("ar", 0, 1)
    bench.tick(100)
    for _ in range(50):
        assert bench.s.rvalid and bytes(bench.s.rdata[:16]) == bytes(range(16))
        bench.tick()
    assert bench.statistics["stall_cycles"] >= 50


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("arburst", 0, "read burst type must be 1"),
        ("arburst", 2, "read burst type must be 1"),
        ("arsize", 2, "read size must be the bus width of 16 bytes, not 4"),
        ("araddr", 8, "not aligned to 16 bytes"),
        ("araddr", 4096 - 16, "crosses a 4 KiB boundary"),
    ],
)
def test_illegal_read_address_is_reported(field: str, value: int, message: str) -> None:
    bench = DramBench(_steady())
    bench.present("ar", 0, 2)
    setattr(bench.s, field, value)
    bench.tick()
    assert len(bench.violations) == 1
    assert message in bench.violations[0]


@pytest.mark.parametrize("channel", ["ar", "aw"])
@pytest.mark.parametrize("field", ["addr", "len", "valid"])
def test_unstable_address_is_reported(channel: str, field: str) -> None:
    bench = DramBench(_steady(max_outstanding=1))
    bench.send(channel, 0, 1)
    bench.present(channel, 1024, 1)
    bench.tick()
    assert bench.violations == []
    setattr(bench.s, channel + field, 0 if field == "valid" else 16)
    bench.tick()
    assert len(bench.violations) == 1
    assert ("fell before" if field == "valid" else "payload changed") in bench.violations[0]


@pytest.mark.parametrize("field", ["wlast", "wstrb", "wdata", "wvalid"])
def test_unstable_write_beat_is_reported(field: str) -> None:
    bench = DramBench(_steady())
    bench.s.wvalid = bench.s.wlast = 1  # no address yet: the beat has to wait
    bench.tick(2)
    assert bench.violations == []
    if field == "wdata":
        bench.s.wdata[15] = 1
    else:
        setattr(bench.s, field, 0 if field in ("wlast", "wvalid") else 1)
    bench.tick()
    assert len(bench.violations) == 1


@pytest.mark.parametrize("early", [False, True])
def test_wrong_wlast_is_reported(early: bool) -> None:
    bench = DramBench(_steady())
    bench.send("aw", 0, 2)
    bench.send_beat(bytes(16), early)
    bench.send_beat(bytes(16), early)
    assert any("wlast" in text for text in bench.violations)


@pytest.mark.parametrize("checked", [False, True])
def test_read_of_unanswered_write_is_reported(checked: bool) -> None:
    bench = DramBench(_steady(check_hazards=checked))
    bench.send("aw", 256, 1)
    bench.send_beat(bytes(16), True)
    bench.send("ar", 0, 16)  # ends just before
    assert bench.violations == []
    bench.send("ar", 256, 1)
    assert len(bench.violations) == checked
    bench.receive_response()
    bench.send("ar", 256, 1)
    assert len(bench.violations) == checked


@pytest.mark.parametrize("checked", [False, True])
def test_write_of_unfinished_read_is_reported(checked: bool) -> None:
    bench = DramBench(_steady(check_hazards=checked))
    bench.send("ar", 0, 2)
    bench.send("aw", 16, 1)
    assert len(bench.violations) == checked


def test_access_outside_memory_is_a_decode_error() -> None:
    bench = DramBench(_steady(), base=4096, size=8192)
    assert _read(bench, 0, 2)[1] == [3, 3]
    assert _read(bench, 4096 + 8192 - 16, 1)[1] == [0]
    assert _read(bench, 4096 + 8192, 1)[1] == [3]
    assert _write(bench, 4096 + 8192, bytes(16)) == 3
    assert bench.violations == []


def test_error_fault_answers_slverr_and_loses_writes() -> None:
    bench = DramBench(_steady())
    bench.fault(0, 0x100, 16)
    assert _write(bench, 0x100, b"\x77" * 16) == 2
    assert bytes(bench.memory[0x100:0x110]) == bytes(16)
    assert _read(bench, 0xF0, 2) == (b"\xee" * 32, [2, 2])  # the burst touches the range
    assert _read(bench, 0x110, 1)[1] == [0]


def test_hang_fault_never_answers() -> None:
    bench = DramBench(_steady())
    bench.fault(1, 0x100, 16)
    bench.send("ar", 0x100, 1)
    bench.send("aw", 0x100, 1)
    bench.violations.clear()
    bench.send_beat(bytes(16), True)
    bench.s.rready = bench.s.bready = 1
    for _ in range(5000):
        assert not bench.s.rvalid and not bench.s.bvalid
        bench.tick()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("latency_cycles", 0),
        ("bandwidth_share", 0.0),
        ("bandwidth_share", 1.5),
        ("gap_probability", -0.1),
        ("max_gap_cycles", 0),
        ("max_outstanding", 65),
        ("seed", -1),
    ],
)
def test_configuration_out_of_range_is_refused(field: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{field} must be .* not {value!r}"):
        DramConfig(**{field: value})  # type: ignore[arg-type]
