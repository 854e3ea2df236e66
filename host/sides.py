"""The host's sides of a bundle's tasks: from a caller's arrays to codes, and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from moesaic.host.outputs import Inputs
from moesaic.spec.bundle import Bundle
from moesaic.spec.hostpart import front_frames, task_outputs
from moesaic.spec.hostside import quantise_input, same_codes, task_frames
from moesaic.spec.intgraph import InputCodes

Group = tuple[str, ...]
"""Tasks whose codes are the same for the same frames: a device gets these once."""


class HostSides:
    """What a session computes itself, in front of a device and behind it.

    May be used by several threads.

    Parameters
    ----------
    bundle
        Whose tasks.
    """

    def __init__(self, bundle: Bundle) -> None:
        self._graphs = bundle.graphs
        self._models = bundle.fronts
        self._fronts = {task: bundle.front(task) for task in bundle.tasks}
        self._inputs = {task: bundle.inputs(task) for task in bundle.tasks}
        self._parts = {task: bundle.host_part(task) for task in bundle.tasks}

    def groups(self, tasks: Sequence[str]) -> list[Group]:
        """Sort tasks by the codes that they take: the same part in front of them on the host, or
        none, and the same way from there on."""
        found: list[list[str]] = []
        for task in tasks:
            for group in found:
                if self._share(group[0], task):
                    group.append(task)
                    break
            else:
                found.append([task])
        return [tuple(group) for group in found]

    def _share(self, one: str, other: str) -> bool:
        if self._models.get(one) != self._models.get(other):
            return False
        return same_codes(self._graphs[one], self._graphs[other])

    def count(self, tasks: Sequence[str], inputs: Inputs) -> int | None:
        """Return how many frames there are, or ``None`` if the arrays' shapes alone do not say."""
        if not isinstance(inputs, dict):
            return None
        counts = set[int]()
        for task in tasks:
            (name,) = self._inputs[task]
            array = inputs.get(name)
            if not isinstance(array, np.ndarray) or not array.ndim:
                return None
            counts.add(len(array))
        return counts.pop() if len(counts) == 1 else None

    def prepare(self, groups: Sequence[Group], inputs: Inputs) -> list[InputCodes]:
        """Return the codes [frames, patches, inputs] of each group.

        Raises
        ------
        UserError
            The inputs are wrong, or a part on the host cannot run.
        """
        for task in (task for group in groups for task in group):
            if (part := self._parts[task]) is not None:
                part.open()  # whatever is wrong with it shows before a device runs
        return [self._codes(group[0], inputs) for group in groups]

    def _codes(self, task: str, inputs: Inputs) -> InputCodes:
        frames = task_frames(self._inputs, task, inputs)
        (source,) = self._inputs[task]
        return quantise_input(self._graphs[task], front_frames(self._fronts[task], source, frames))

    def finish(self, task: str, codes: NDArray[np.int16]) -> Mapping[str, NDArray[np.float32]]:
        """Return a task's outputs from a device's codes [frames, codes].

        Raises
        ------
        UserError
            The part on the host cannot run.
        """
        return task_outputs(self._graphs[task], codes, self._parts[task])
