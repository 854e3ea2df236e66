"""Twice the load that a device can take: nobody waits long, and memory stays."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from moesaic.host import Session
from moesaic.host.pool import DeviceResult
from moesaic.host.serving.limits import Limits
from moesaic.spec.bundle import Bundle
from tests.host import serving as helpers
from tests.host.serving import WAIT_SECONDS, binary_request, frames, install_puppet, serving

QUEUE = 6
SERVICE_SECONDS = 0.025
LOAD_SECONDS = 3.0
FRAMES = 1600
"""In a request: 1 MB, so that a hundred of them would show."""


class Paced(helpers.Puppet):
    """Takes a fixed time for a request, and answers zeros."""

    longest_seconds = 0.0
    busy_seconds = 0.0

    def run(self, task: str, patches: np.ndarray) -> DeviceResult:
        started = time.perf_counter()
        time.sleep(SERVICE_SECONDS)
        head = self._executors[task].graph.heads[0]
        # One row of codes for all frames: the answer's own size does not matter here.
        codes = np.zeros((1, head.rows, head.linear.outputs), np.int16)
        seconds = time.perf_counter() - started
        Paced.longest_seconds = max(Paced.longest_seconds, seconds)
        Paced.busy_seconds += seconds
        return DeviceResult(codes, [])


@dataclass(frozen=True)
class Sample:
    """What a client saw."""

    status: int
    retry_after: int
    seconds: float


async def client(port: int, message: bytes, at: float) -> Sample:
    """Send one request when its time comes, whatever became of the earlier ones."""
    await asyncio.sleep(max(0.0, at - time.perf_counter()))
    started = time.perf_counter()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(message)
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
        status = int(head.split()[1])
        headers = dict(line.split(": ", 1) for line in head.splitlines()[1:] if line)
        await reader.readexactly(int(headers["content-length"]))
        seconds = time.perf_counter() - started
        return Sample(status, int(headers.get("retry-after", 0)), seconds)
    finally:
        writer.close()


async def offer(port: int, message: bytes, every_seconds: float) -> list[Sample]:
    first = time.perf_counter()
    count = round(LOAD_SECONDS / every_seconds)
    clients = [client(port, message, first + i * every_seconds) for i in range(count)]
    return await asyncio.wait_for(asyncio.gather(*clients), LOAD_SECONDS + WAIT_SECONDS)


def resident_bytes() -> int:
    """Memory of this process, server and clients."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) << 10
    raise AssertionError("no VmRSS")


def test_twice_the_capacity(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(helpers, "Puppet", Paced)
    install_puppet(monkeypatch)
    bundle: Bundle = helpers.two_tasks()
    body, headers = binary_request(frames(bundle, "seg", FRAMES))
    lines = [f"{name}: {value}" for name, value in headers.items()]
    message = (
        "\r\n".join(
            ["POST /v2/models/seg/infer HTTP/1.1", "Host: x", f"Content-Length: {len(body)}"]
            + lines
        ).encode()
        + b"\r\n\r\n"
        + body
    )
    session = Session(bundle, ["puppet"], queue_frames=QUEUE)
    with serving(session, Limits(queue=QUEUE, body_bytes=4 << 20)) as running:
        # The first requests load code and make buffers.
        asyncio.run(offer_once(running.port, message))
        before = resident_bytes()
        samples = asyncio.run(offer(running.port, message, SERVICE_SECONDS / 2))
        growth = resident_bytes() - before

        accepted = [sample.seconds for sample in samples if sample.status == 200]
        rejected = [sample for sample in samples if sample.status == 503]
        print(
            f"{len(samples)} requests, {len(accepted)} answered in at most {max(accepted):.2f} s,"
            f" {len(rejected)} refused, memory +{growth / 1e6:.1f} MB"
        )
        assert len(accepted) + len(rejected) == len(samples)
        assert all(sample.retry_after >= 1 for sample in rejected)
        # The device never idles: it does most of what it could, and the rest is refused.
        assert len(rejected) >= len(samples) // 4
        assert Paced.busy_seconds >= LOAD_SECONDS / 2
        # A queue without bound would end at half of LOAD_SECONDS on a machine with nothing to do.
        bound = (QUEUE + 1) * Paced.longest_seconds + 0.5
        assert max(accepted) <= bound, (max(accepted), Paced.longest_seconds)
        # What all of them sent is some 250 MB.
        assert growth < 2 * QUEUE * 4 * len(body) + (32 << 20), growth

        ok = running.metric("moesaic_requests_total", task="seg", outcome="ok")
        refused = running.metric("moesaic_requests_total", task="seg", outcome="rejected")
        assert ok == len(accepted) + 1 and refused == len(rejected)
        assert running.metric("moesaic_requests_total") == len(samples) + 1
        assert running.metric("moesaic_rejected_total") == len(rejected)
        assert running.metric("moesaic_request_seconds_count", device="puppet") == ok
        assert running.metric("moesaic_queue_depth") == 0
        assert running.metric("moesaic_requests_in_flight") == 0
        assert running.metric("moesaic_queue_limit") == QUEUE


async def offer_once(port: int, message: bytes) -> None:
    assert (await client(port, message, 0.0)).status == 200
