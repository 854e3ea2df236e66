"""Work that a device gets in one go: the same tasks on the frames of several requests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np

from moesaic.host.failures import DeviceError
from moesaic.host.outputs import Inputs
from moesaic.host.pool import Device, DeviceResult, run_tasks
from moesaic.host.sides import HostSides
from moesaic.spec.errors import UserError
from moesaic.spec.intgraph import InputCodes


@dataclass(frozen=True)
class Part:
    """One request's frames in all of the work's: from which on, and how many, by group."""

    begins: list[int]
    counts: list[int]


class JointWork:
    """Tasks on frames, prepared for any device.

    Parameters
    ----------
    sides
        Of the bundle.
    tasks
        Each once.
    requests
        Inputs of each request, all for these tasks.

    Attributes
    ----------
    parts
        What becomes of each request: its frames, or what is wrong with it, in which case it is
        no part of the work.
    requests
        How many are part of it.
    frames
        How many a device gets; of tasks on the same frames, they count once.
    """

    def __init__(
        self, sides: HostSides, tasks: tuple[str, ...], requests: Sequence[Inputs]
    ) -> None:
        self._tasks = tasks
        self._groups = sides.groups(tasks)
        self.parts: list[Part | Exception] = []
        taken: list[list[InputCodes]] = [[] for _ in self._groups]
        begins = [0] * len(self._groups)
        for inputs in requests:
            try:
                codes = sides.prepare(self._groups, inputs)
            except UserError as error:
                self.parts.append(error)
                continue
            counts = [len(array) for array in codes]
            self.parts.append(Part(begins, counts))
            begins = [begin + count for begin, count in zip(begins, counts, strict=True)]
            for arrays, array in zip(taken, codes, strict=True):
                arrays.append(array)
        self.requests = len(taken[0])
        self.frames = sum(begins)
        self._codes: list[InputCodes] = [
            arrays[0] if len(arrays) == 1 else cast(InputCodes, np.concatenate(arrays))
            for arrays in taken
            if arrays
        ]
        self._results: dict[str, DeviceResult] = {}

    def __str__(self) -> str:
        return f"task{'s' if len(self._tasks) > 1 else ''} {', '.join(self._tasks)}"

    def run(self, device: Device) -> None:
        """Do all of it on one device; what another one did of it is forgotten.

        Raises
        ------
        DeviceError, TransportError, OSError
            The device failed, or its answer is not one of these frames.
        """
        self._results = {}
        for group, codes in zip(self._groups, self._codes, strict=True):
            results = run_tasks(device, group, codes)
            for task in group:
                given = len(results[task].codes)
                if given != len(codes) and self.requests > 1:
                    raise DeviceError(
                        f"{device.name} gave {given} answers for {len(codes)} frames of task {task}"
                    )
                self._results[task] = results[task]

    def results(self, part: Part) -> dict[str, DeviceResult]:
        """A request's own rows, by task, after :meth:`run`."""
        if self.requests == 1:
            return self._results
        found = {}
        for group, begin, count in zip(self._groups, part.begins, part.counts, strict=True):
            rows = slice(begin, begin + count)
            for task in group:
                result = self._results[task]
                found[task] = DeviceResult(result.codes[rows], result.counters[rows])
        return found
