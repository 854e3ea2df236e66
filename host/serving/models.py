"""The tasks of bundles as models of the protocol."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from importlib.metadata import version
from reprlib import repr as shown
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moesaic.host.outputs import Outputs
from moesaic.host.serving.bundles import Served
from moesaic.host.serving.errors import RequestError
from moesaic.spec.bundle import Bundle

VERSION = "1"
"""A bundle holds one version of each of its tasks."""
DATATYPE = "FP32"
SEPARATOR = "+"
"""Between the names of tasks that are asked for together: no task and no bundle has it in its
name."""
_MOST_LABELLED = 6
"""Tasks of a bundle up to which every choice of them has a label of its own: 57 at most."""
JOINED = "joined"
"""Label of choices of more tasks: their number doubles with each, and clients choose them."""


@dataclass(frozen=True)
class TensorInfo:
    """A float32 input or output: any number of frames, each of the shape ``frame``."""

    name: str
    frame: tuple[int, ...]

    def metadata(self) -> dict[str, Any]:
        """As the protocol writes it; -1 is the batch axis."""
        return {"name": self.name, "datatype": DATATYPE, "shape": [-1, *self.frame]}


@dataclass(frozen=True)
class Tensors:
    """What goes into a task and comes out of it, by name."""

    inputs: dict[str, TensorInfo]
    outputs: dict[str, TensorInfo]


def tensors_of(bundle: Bundle, task: str) -> Tensors:
    """The tensors of a task as its clients see them."""
    read = {name: TensorInfo(name, shape[1:]) for name, shape in bundle.inputs(task).items()}
    written = {name: TensorInfo(name, shape[1:]) for name, shape in bundle.outputs(task).items()}
    return Tensors(read, written)


class Answer(dict[str, NDArray[np.float32]]):
    """A model's outputs float32 [frames, ...] by name, and where they come from.

    Attributes
    ----------
    device, latency_seconds, call
        As those of :class:`~moesaic.host.Outputs`.
    """

    def __init__(self, arrays: Mapping[str, NDArray[np.float32]], made: Outputs) -> None:
        super().__init__(arrays)
        self.device, self.latency_seconds, self.call = made.device, made.latency_seconds, made.call


@dataclass(frozen=True)
class Model(Tensors):
    """A task, or several on the same frames, and who runs them.

    Attributes
    ----------
    name
        In the protocol.
    sources
        Of each output the task, and what the task calls it.
    served
        The bundle.
    label
        What it is called in metrics.
    """

    name: str
    sources: dict[str, tuple[str, str]]
    served: Served
    label: str

    @property
    def tasks(self) -> list[str]:
        """In the bundle's order."""
        return list(dict.fromkeys(task for task, _ in self.sources.values()))

    def submit(self, inputs: dict[str, NDArray[Any]]) -> Future[Any]:
        """Let the session run it, for :meth:`answer`; raises as :meth:`Session.submit`."""
        session, tasks = self.served.session, self.tasks
        if len(tasks) == 1:
            return session.submit(inputs, tasks[0])
        return session.submit_many(inputs, tasks)

    def answer(self, given: Outputs | dict[str, Outputs]) -> Answer:
        """What :meth:`submit` gave, by the model's names."""
        if isinstance(given, Outputs):
            return Answer(given, given)
        arrays = {name: given[task][output] for name, (task, output) in self.sources.items()}
        return Answer(arrays, next(iter(given.values())))

    def metadata(self) -> dict[str, Any]:
        """Answer to ``GET /v2/models/NAME``."""
        return {
            "name": self.name,
            "versions": [VERSION],
            "platform": "moesaic",
            "inputs": [tensor.metadata() for tensor in self.inputs.values()],
            "outputs": [tensor.metadata() for tensor in self.outputs.values()],
        }


def join(models: Sequence[Model]) -> Model:
    """Several tasks of a bundle as one model.

    Outputs keep their names where only one task has an output of that name; else they are
    ``TASK.NAME``.

    Raises
    ------
    RequestError
        404: they are no different tasks of one bundle, in its order, that take the same input.
    """
    names, served = [model.name for model in models], models[0].served
    if any(model.served is not served for model in models):
        raise RequestError(404, f"{shown(names)} are of several bundles; ask for each alone")
    ordered = sorted(set(names), key=list(served.models.values()).index)
    if ordered != names:
        called = SEPARATOR.join(ordered)
        raise RequestError(404, f"there is no model {shown(SEPARATOR.join(names))}: ask {called!r}")
    for model in models:
        if model.inputs != models[0].inputs:
            raise RequestError(404, f"{shown(names)} take different inputs; ask for each alone")
    count = Counter(output for model in models for output in model.outputs)
    outputs, sources = {}, {}
    # An output may be called as another one with its prefix: then it gets one, too.
    plain = {output for output in count if count[output] == 1}
    prefixed = {f"{m.tasks[0]}.{output}" for m in models for output in m.outputs}
    for model in models:
        (task,) = model.tasks
        for output, info in model.outputs.items():
            keeps = output in plain and output not in prefixed
            name = output if keeps else f"{task}.{output}"
            outputs[name], sources[name] = TensorInfo(name, info.frame), (task, output)
    name = SEPARATOR.join(names)
    label = name if len(served.models) <= _MOST_LABELLED else JOINED
    return Model(models[0].inputs, outputs, name, sources, served, label)


def server_metadata() -> dict[str, str]:
    """What a server calls itself."""
    return {"name": "moesaic", "version": version("moesaic")}


class Models:
    """All tasks of all bundles, and what can be joined of them."""

    def __init__(self, bundles: Sequence[Served]) -> None:
        self.by_name: dict[str, Model] = {}
        for served in bundles:
            for task, name in served.models.items():
                tensors = tensors_of(served.session.bundle, task)
                sources = {output: (task, output) for output in tensors.outputs}
                self.by_name[name] = Model(
                    tensors.inputs, tensors.outputs, name, sources, served, name
                )

    def label(self, model: str) -> str | None:
        """What a model is called in metrics; ``None`` if there is no such model."""
        try:
            return self.find(model).label
        except RequestError:
            return None

    def find(self, model: str, version: str = VERSION) -> Model:
        """The model of a name: a task's, or several with :data:`SEPARATOR` between.

        Raises
        ------
        RequestError
            404: there is no such model or version.
        """
        parts = model.split(SEPARATOR, len(self.by_name))
        if not all(part in self.by_name for part in parts):
            known = ", ".join(sorted(self.by_name))
            raise RequestError(404, f"there is no model {shown(model)}; the models are: {known}")
        if version != VERSION:
            raise RequestError(
                404, f"model {model!r} has version {VERSION} only, not {shown(version)}"
            )
        found = [self.by_name[part] for part in parts]
        return found[0] if len(found) == 1 else join(found)
