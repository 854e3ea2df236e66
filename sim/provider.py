"""The device ``sim``: the generated gateware, simulated cycle by cycle, behind the driver."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from moesaic.host import native
from moesaic.host.accelerator import Accelerator
from moesaic.host.driver import Driver, FrameResult
from moesaic.host.platform import TransportPlatform
from moesaic.host.pool import DeviceResult
from moesaic.sim.build import accelerator_verilog
from moesaic.sim.device import SimDevice
from moesaic.sim.dram import DramConfig, PortStatistics
from moesaic.sim.profile import Profile, interpret
from moesaic.sim.verilator import toolchain
from moesaic.spec.bundle import Bundle
from moesaic.spec.intgraph import InputCodes


class SimulatedAccelerator(Accelerator):
    """The bundle's architecture as RTL in this process, with a DRAM behind it.

    Parameters
    ----------
    bundle
        What to run.
    dram
        Timing of the memory.
    trace
        Waveform file to write.
    verilog
        RTL to simulate instead of what the generator makes (to test the checker with faults).
    progress
        Called now and then with the cycles simulated since the last call.
    profile
        Record what the units do.
    together
        Use programs that compute several tasks or frames, where the bundle has them.

    Attributes
    ----------
    dram, seconds, profiles
        Port statistics, time that simulating took, and profiles if asked for, of the runs of
        programs of the last :meth:`run`.
    """

    name = "sim"

    def __init__(
        self,
        bundle: Bundle,
        *,
        dram: DramConfig | None = None,
        trace: Path | None = None,
        verilog: str | None = None,
        watchdog_cycles: int = 100_000_000,
        progress: Callable[[int], None] | None = None,
        profile: bool = False,
        together: bool = True,
    ) -> None:
        # Before a minute of generating and compiling: what the end of it needs.
        toolchain()
        native.library()
        text = verilog if verilog is not None else accelerator_verilog(bundle.arch)
        self.transport = SimDevice.from_verilog(text, trace=trace, dram=dram)
        super().__init__(
            Driver(TransportPlatform(self.transport), bundle, watchdog_cycles), together
        )
        self.dram: list[dict[str, PortStatistics]] = []
        self.seconds: list[float] = []
        self.profiles: list[Profile] = []
        self.transport.on_advance = progress
        self._profile = profile

    def run_tasks(self, tasks: Sequence[str], patches: InputCodes) -> dict[str, DeviceResult]:
        """Run frames [frames, patches, inputs] of tasks with the same input codes."""
        self.dram, self.seconds, self.profiles = [], [], []
        return super().run_tasks(tasks, patches)

    def run_program(self, program: str, patches: InputCodes) -> FrameResult:
        """Run a program on its frames [frames, patches, inputs] and gather what is known of it."""
        self.transport.clear_dram_statistics()
        if self._profile:
            self.transport.start_profile()
        started = time.perf_counter()
        result = super().run_program(program, patches)
        self.seconds.append(time.perf_counter() - started)
        self.dram.append(self.transport.dram_statistics())
        if self._profile:
            self.profiles.append(self._interpret(program))
        return result

    def _interpret(self, program: str) -> Profile:
        bundle = self.driver.bundle
        labels = bundle.labels(program)
        raw = self.transport.profile()
        return interpret(raw, bundle.programs[program], labels, bundle.arch.max_experts)

    def close(self) -> None:
        """End the simulation."""
        self.transport.close()
