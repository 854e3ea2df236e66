"""The devices `cpu` and `cuda`: the integer semantics, executed exactly by torch.

A task's constants are sent to the device by its first call, so that a bundle of many tasks costs
only what is used, and a device without room for them fails like one that runs out later.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from moesaic.host.failures import DeviceError
from moesaic.host.pool import DeviceResult, DeviceUnavailable
from moesaic.spec.bundle import Bundle
from moesaic.spec.errors import UserError
from moesaic.spec.extras import explained
from moesaic.spec.intgraph import InputCodes

if TYPE_CHECKING:
    from moesaic.spec.execute import Executor


class CpuDevice:
    """Runs the bundle's integer graphs on the host processor.

    Parameters
    ----------
    bundle
        What to run.
    threads
        That compute a frame. One by default: more of them wait for each other at every product,
        which on a machine with other work takes far longer than it saves.

    Raises
    ------
    UserError
        torch is not installed, or ``threads`` is below 1.
    DeviceUnavailable
        More than one thread is asked for in a forked process.
    """

    name = "cpu"

    def __init__(self, bundle: Bundle, *, threads: int = 1) -> None:
        if threads < 1:
            raise UserError(f"{self.name}.threads must be at least 1, not {threads}")
        with explained():
            from moesaic.host.torch_threads import LOADED_BY
            from moesaic.spec.execute import Executor
        if threads > 1 and os.getpid() != LOADED_BY:
            raise DeviceUnavailable(
                f"torch's threads do not survive a fork: take {self.name}.threads=1, or start"
                " processes with 'spawn'"
            )
        self.threads = threads
        self._executors: dict[str, Executor] = {
            name: Executor(graph, self.name) for name, graph in bundle.graphs.items()
        }

    def run(self, task: str, patches: InputCodes) -> DeviceResult:
        """Run frames [frames, patches, inputs] of one task.

        Raises
        ------
        DeviceError
            torch failed: out of memory, or the device is lost. The session goes on with the next
            device, and opens this one again later.
        """
        from moesaic.host.torch_threads import torch_threads

        try:
            with torch_threads(self.threads):
                return DeviceResult(self._executors[task].run(patches), [])
        except (RuntimeError, MemoryError) as error:  # torch's own derive from RuntimeError
            reason = str(error) or "out of memory"
            raise DeviceError(f"{self.name}: {reason.splitlines()[0]}") from error

    def close(self) -> None:
        """Forget the constants, and with them the device's memory."""
        self._executors.clear()


class CudaDevice(CpuDevice):
    """The same on an NVIDIA GPU.

    Raises
    ------
    UserError
        torch is not installed.
    DeviceUnavailable
        It finds no GPU.
    """

    name = "cuda"

    def __init__(self, bundle: Bundle) -> None:
        with explained():
            import torch
        if not torch.cuda.is_available():
            raise DeviceUnavailable("torch finds no CUDA device")
        super().__init__(bundle)
