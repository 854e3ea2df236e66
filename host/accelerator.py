"""A device of a session that is an accelerator: frames go through the driver, one by one."""

from __future__ import annotations

import numpy as np

from moesaic.host.driver import Driver, FrameResult
from moesaic.host.pool import DeviceResult
from moesaic.spec.intgraph import InputCodes


class Accelerator:
    """Runs frames on ``driver``; implements :class:`moesaic.host.pool.Device`."""

    name = "accelerator"
    batch_frames = 1
    """Frames run one after another: the first of several would only be given later."""

    def __init__(self, driver: Driver) -> None:
        self.driver = driver

    def run(self, task: str, patches: InputCodes) -> DeviceResult:
        """Run frames [frames, patches, inputs] of one task.

        Raises
        ------
        DeviceError
            A frame ended in an error, or not at all, or the accelerator is gone.
        """
        results = [self.run_frame(task, frame) for frame in patches]
        return DeviceResult(
            np.stack([result.codes for result in results]), [result.counters for result in results]
        )

    def run_frame(self, task: str, patches: InputCodes) -> FrameResult:
        """Run one frame [patches, inputs]; raises as :meth:`run`."""
        return self.driver.run(task, patches)

    def close(self) -> None:
        """Stop what runs and give the device back."""
        self.driver.close()
