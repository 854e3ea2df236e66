"""Devices with the driver inside that fail when told to: at the registers, and in the RTL."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest

from moesaic.host.driver import Driver
from moesaic.host.pool import DeviceResult
from moesaic.sim.device import Fault
from moesaic.sim.provider import SimulatedAccelerator
from moesaic.spec import registers
from moesaic.spec.bundle import Bundle
from moesaic.spec.execute import Executor
from moesaic.spec.hostside import quantise_input
from tests.host.register_mock import FAULTS, MockAccelerator

Case = tuple[dict[str, np.ndarray], np.ndarray]


class FaultySimulation(SimulatedAccelerator):
    """The RTL, with the faults of :data:`FAULTS` injected where hardware would have them."""

    opened: list[FaultySimulation] = []

    def __init__(self, bundle: Bundle) -> None:
        super().__init__(bundle, watchdog_cycles=150_000)
        self.fault: str | None = None
        FaultySimulation.opened.append(self)

    def meet(self, fault: str) -> None:
        """Let the next frame meet a fault."""
        self.fault = fault

    def run(self, task: str, patches: np.ndarray) -> DeviceResult:
        fault, self.fault = self.fault, None
        device = self.transport
        if fault in ("bus error", "hang"):
            kind = Fault.ERROR if fault == "bus error" else Fault.HANG
            device.inject_fault(kind, *self.driver.windows(task)["weight1"])
        elif fault == "watchdog":
            driver = self.driver
            self.driver = Driver(driver.platform, driver.bundle, watchdog_cycles=500)
        elif fault == "other bitstream":
            read, place = device.read_register, registers.offset("ARCH_HASH")
            device.read_register = lambda at: read(at) ^ (at == place)  # type: ignore[method-assign]
        elif fault in ("lost interrupt", "all ones", "vanished"):
            self._wrap(fault)
        try:
            return super().run(task, patches)
        finally:
            device.clear_faults()

    def _wrap(self, fault: str) -> None:
        """From the next wait on: no interrupt is seen, or no register is."""
        device, run = self.transport, self.transport.run

        def wait(cycles: int) -> bool:
            run(20_000)
            if fault == "lost interrupt":
                device.run = run  # type: ignore[method-assign]
                return False
            if fault == "vanished":
                raise OSError("the device vanished")
            device.read_register = lambda offset: 0xFFFFFFFF  # type: ignore[method-assign]
            return False

        device.run = wait  # type: ignore[method-assign]


def draw(bundle: Bundle, task: str, seed: int) -> Case:
    """A random input of the task, and the codes that every device must give for it."""
    graph = bundle.graphs[task]
    x = np.random.default_rng(seed).uniform(-1, 1, (1, *graph.input_shape[1:])).astype(np.float32)
    return {"x": x}, Executor(graph).run(quantise_input(graph, x))


KINDS: dict[str, type[MockAccelerator] | type[FaultySimulation]] = {
    "mock": MockAccelerator,
    "sim": FaultySimulation,
}


def inject(kind: str, fault: str) -> None:
    """Let the next frame of the device that was opened last meet the fault."""
    KINDS[kind].opened[-1].meet(fault)


def make_unreliable(
    monkeypatch: pytest.MonkeyPatch, kind: str, share: float, seed: int
) -> Counter[str]:
    """Let a ``share`` of the frames meet faults; returns the count of each, which grows."""
    rng, met = np.random.default_rng(seed), Counter[str]()
    run = KINDS[kind].run

    def unreliable(self: Any, task: str, patches: np.ndarray) -> DeviceResult:
        if rng.random() < share:
            fault = str(rng.choice([*FAULTS]))
            met[fault] += 1
            self.meet(fault)
        return run(self, task, patches)

    monkeypatch.setattr(KINDS[kind], "run", unreliable)
    return met
