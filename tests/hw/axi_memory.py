"""A strict AXI4 read memory and cycle helpers for cocotb benches.

All agents of a bench work in step: ``drive`` after the rising edge, ``sample`` at the falling edge
of the same cycle, when every signal has settled. What ``sample`` sees is what the next rising
edge makes happen.
"""

from __future__ import annotations

import random
from collections import deque
from dataclasses import dataclass
from typing import Any

OKAY, SLVERR = 0, 2


@dataclass(kw_only=True)
class Timing:
    """Latency in cycles (low, high) and the chances of accepting an address and giving a beat."""

    latency: tuple[int, int] = (1, 1)
    address: float = 1.0
    beat: float = 1.0


class AxiReadMemory:
    """Serves one AXI4 read port from ``contents`` at ``base``; any breach of protocol asserts.

    Checks: attributes, stable payload, no withdrawn valid, no burst across 4 KiB, no byte outside
    the window. ``bad`` holds byte addresses whose beats get SLVERR.
    """

    def __init__(
        self, dut: Any, prefix: str, data_bytes: int, base: int, contents: bytes, timing: Timing
    ) -> None:
        self.data_bytes, self.base, self.contents, self.timing = data_bytes, base, contents, timing
        self.s = {
            name: getattr(dut, f"{prefix}__{name}")
            for name in "araddr arlen arsize arburst arvalid arready "
            "rdata rresp rlast rvalid rready".split()
        }
        self.bad: set[int] = set()
        self.hold_addresses = False
        self.bursts: deque[tuple[int, list[int]]] = deque()
        self.lengths: list[int] = []
        self.beats = 0
        self.most_outstanding = 0
        self._cycle = 0
        self._request: tuple[int, int] | None = None
        self._valid = False
        self.random = random.Random(random.getrandbits(32))

    def drive(self) -> None:
        self._cycle += 1
        accept = not self.hold_addresses and self.random.random() < self.timing.address
        self.s["arready"].value = int(accept)
        if not self._valid and self.bursts and self.bursts[0][0] <= self._cycle:
            self._valid = self.random.random() < self.timing.beat
        if self._valid:
            beats = self.bursts[0][1]
            at = beats[0] - self.base
            self.s["rdata"].value = int.from_bytes(
                self.contents[at : at + self.data_bytes], "little"
            )
            self.s["rresp"].value = SLVERR if beats[0] in self.bad else OKAY
            self.s["rlast"].value = int(len(beats) == 1)
        else:
            self.s["rdata"].value = self.random.getrandbits(8 * self.data_bytes)
            self.s["rresp"].value = self.random.getrandbits(2)
            self.s["rlast"].value = self.random.getrandbits(1)
        self.s["rvalid"].value = int(self._valid)

    def sample(self) -> None:
        if self._valid and int(self.s["rready"].value):
            self._valid = False
            self.beats += 1
            beats = self.bursts[0][1]
            beats.pop(0)
            if not beats:
                self.bursts.popleft()
        if int(self.s["arvalid"].value):
            self._address_phase()
        else:
            assert self._request is None, "arvalid fell before arready"

    def _address_phase(self) -> None:
        address, length = int(self.s["araddr"].value), int(self.s["arlen"].value) + 1
        assert self._request in (None, (address, length)), "address changed before arready"
        attributes = [int(self.s[name].value) for name in ("arsize", "arburst")]
        assert attributes == [self.data_bytes.bit_length() - 1, 0b01], attributes
        end = address + length * self.data_bytes
        assert address % self.data_bytes == 0, hex(address)
        assert address // 4096 == (end - 1) // 4096, f"burst {address:#x}..{end:#x} crosses 4 KiB"
        limit = self.base + len(self.contents)
        assert self.base <= address and end <= limit, (
            f"{address:#x}..{end:#x} is outside the window"
        )
        self._request = (address, length)
        if int(self.s["arready"].value):
            beats = [address + i * self.data_bytes for i in range(length)]
            self.bursts.append((self._cycle + self.random.randint(*self.timing.latency), beats))
            self.lengths.append(length)
            self.most_outstanding = max(self.most_outstanding, len(self.bursts))
            self._request = None
