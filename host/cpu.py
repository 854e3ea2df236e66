"""The CPU device: the integer semantics, executed exactly by torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from moesaic.host.pool import DeviceResult, DeviceUnavailable
from moesaic.spec.bundle import Bundle

if TYPE_CHECKING:
    from moesaic.spec.execute import Executor


class CpuDevice:
    """Runs the bundle's integer graphs on the host processor."""

    name = "cpu"

    def __init__(self, bundle: Bundle) -> None:
        try:
            from moesaic.spec.execute import Executor
        except ImportError as error:
            raise DeviceUnavailable("torch is not installed") from error
        self._executors: dict[str, Executor] = {
            name: Executor(graph) for name, graph in bundle.graphs.items()
        }

    def run(self, task: str, patches: NDArray[np.int8]) -> DeviceResult:
        """Run frames [frames, patches, inputs] of one task."""
        return DeviceResult(self._executors[task].run(patches), [])

    def close(self) -> None:
        """Nothing to give back."""
