"""A device of a session that is an accelerator: frames go through the driver.

Where the bundle has programs that compute several frames or tasks together, and its report says
that they take fewer cycles, they take what they can; frames are run one by one otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from moesaic.host.driver import Driver, FrameResult
from moesaic.host.pool import DeviceResult
from moesaic.spec.intgraph import InputCodes
from moesaic.spec.joint import plan_runs, split_codes, worth_running


class Accelerator:
    """Runs frames on ``driver``; implements :class:`moesaic.host.pool.Device`.

    With ``together`` it uses programs of several tasks or frames.
    """

    name = "accelerator"

    def __init__(self, driver: Driver, together: bool = True) -> None:
        self.driver = driver
        self._cycles = driver.bundle.program_cycles
        self._joint = worth_running(driver.bundle.joint, self._cycles) if together else {}

    def batch_frames(self, tasks: Sequence[str]) -> int:
        """Most frames that a program of some of ``tasks`` takes. Beyond that they run one after
        another: the first of several would only be given later."""
        return max(
            (entry.frames for entry in self._joint.values() if set(entry.tasks) <= set(tasks)),
            default=1,
        )

    def run(self, task: str, patches: InputCodes) -> DeviceResult:
        """Run frames [frames, patches, inputs] of one task.

        Raises
        ------
        DeviceError
            A frame ended in an error, or not at all, or the accelerator is gone.
        """
        return self.run_tasks([task], patches)[task]

    def run_tasks(self, tasks: Sequence[str], patches: InputCodes) -> dict[str, DeviceResult]:
        """Run several tasks, which have the same input codes, on frames [frames, patches, inputs].

        Frames that were computed together have the counters of the run that they were in.

        Raises
        ------
        DeviceError
            As :meth:`run`.
        """
        graphs = self.driver.bundle.graphs
        results = {
            task: DeviceResult(
                np.empty((len(patches), graphs[task].codes), np.int16), [{} for _ in patches]
            )
            for task in tasks
        }
        for run in plan_runs(self._joint, tasks, len(patches), self._cycles):
            frames = slice(run.first, run.first + run.frames)
            found = self.run_program(run.name, patches[frames])
            mine = [graphs[task] for task in run.tasks]
            for task, codes in zip(
                run.tasks, split_codes(mine, run.frames, found.codes), strict=True
            ):
                results[task].codes[frames] = codes
                results[task].counters[frames] = [found.counters] * run.frames
        return results

    def run_program(self, program: str, patches: InputCodes) -> FrameResult:
        """Run a program on all its frames [frames, patches, inputs]; raises as :meth:`run`."""
        return self.driver.run(program, patches.reshape(-1, patches.shape[-1]))

    def close(self) -> None:
        """Stop what runs and give the device back."""
        self.driver.close()
