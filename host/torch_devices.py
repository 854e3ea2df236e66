"""The devices `cpu` and `cuda`: the integer semantics, executed exactly.

On processors the library of :mod:`moesaic.host.cpu` computes; torch computes on GPUs, and on
processors what the library does not take. A task's constants are made by its first call, so that a
bundle of many tasks costs only what is used, and a device without room for them fails like one that
runs out later.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from moesaic.host.cpu.library import Pool, levels
from moesaic.host.failures import DeviceError
from moesaic.host.pool import DeviceResult, DeviceUnavailable
from moesaic.spec.bundle import Bundle
from moesaic.spec.errors import UserError
from moesaic.spec.extras import explained
from moesaic.spec.intgraph import InputCodes

if TYPE_CHECKING:
    from moesaic.host.cpu.executor import NativeExecutor
    from moesaic.spec.execute import Executor

BEST, TORCH = "best", "torch"


class CpuDevice:
    """Runs the bundle's integer graphs on the host processor.

    Parameters
    ----------
    bundle
        What to run.
    threads
        That compute together: one by default.
    kernels
        What computes: ``torch``, or a level of instructions that the library has for this processor
        (:func:`moesaic.host.cpu.library.levels`); by default the best one. Results are the same.

    Raises
    ------
    UserError
        torch is not installed, ``threads`` is below 1, or there are no such ``kernels``.
    DeviceUnavailable
        More than one thread of torch is asked for in a forked process.
    """

    name = "cpu"

    def __init__(self, bundle: Bundle, *, threads: int = 1, kernels: str = BEST) -> None:
        if threads < 1:
            raise UserError(f"{self.name}.threads must be at least 1, not {threads}")
        known = [*levels(), TORCH]
        if kernels not in (BEST, *known):
            names = ", ".join((BEST, *known))
            raise UserError(f"{self.name}.kernels must be one of {names}, not {kernels!r}")
        with explained():
            from moesaic.spec.torch_threads import LOADED_BY
        self.kernels = known[0] if kernels == BEST else kernels
        if self.kernels == TORCH and threads > 1 and os.getpid() != LOADED_BY:
            raise DeviceUnavailable(
                f"torch's threads do not survive a fork: take {self.name}.threads=1, or start"
                " processes with 'spawn'"
            )
        self.threads, self._bundle = threads, bundle
        self._pool = None if self.kernels == TORCH else Pool(threads)
        self._executors: dict[str, Executor | NativeExecutor] = {}

    def _executor(self, task: str) -> Executor | NativeExecutor:
        """What runs a task; made by its first call."""
        if task not in self._executors:
            self._executors[task] = self._make(task)
        return self._executors[task]

    def _make(self, task: str) -> Executor | NativeExecutor:
        from moesaic.host.cpu.constants import OutOfRange
        from moesaic.host.cpu.executor import NativeExecutor
        from moesaic.spec.execute import Executor

        graph = self._bundle.graphs[task]
        if self._pool is not None:
            try:
                return NativeExecutor(graph, self.kernels, self._pool)
            except OutOfRange:
                pass  # torch has 53 bits for such sums
        return Executor(graph, self.name)

    def run(self, task: str, patches: InputCodes) -> DeviceResult:
        """Run frames [frames, patches, inputs] of one task.

        Raises
        ------
        DeviceError
            torch failed: out of memory, or the device is lost. The session goes on with the next
            device, and opens this one again later.
        """
        from moesaic.spec.torch_threads import LOADED_BY, torch_threads

        # The library has its own threads, and making its constants takes no more of torch's.
        count = self.threads if self._pool is None and os.getpid() == LOADED_BY else 1
        try:
            with torch_threads(count):
                return DeviceResult(self._executor(task).run(patches), [])
        except (RuntimeError, MemoryError) as error:  # torch's own derive from RuntimeError
            reason = str(error) or "out of memory"
            raise DeviceError(f"{self.name}: {reason.splitlines()[0]}") from error

    def close(self) -> None:
        """Forget the constants, and with them the device's memory, and end the threads."""
        self._executors.clear()
        if self._pool is not None:
            self._pool.close()


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
        super().__init__(bundle, kernels=TORCH)
