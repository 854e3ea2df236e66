"""The tasks of bundles as models of the protocol."""

from __future__ import annotations

import reprlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from moesaic.host.serving.bundles import Served
from moesaic.host.serving.errors import RequestError
from moesaic.spec.bundle import Bundle

VERSION = "1"
"""A bundle holds one version of each of its tasks."""
DATATYPE = "FP32"


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


@dataclass(frozen=True)
class Model(Tensors):
    """A task, and who runs it."""

    name: str
    task: str
    served: Served

    def metadata(self) -> dict[str, Any]:
        """Answer to ``GET /v2/models/NAME``."""
        return {
            "name": self.name,
            "versions": [VERSION],
            "platform": "moesaic",
            "inputs": [tensor.metadata() for tensor in self.inputs.values()],
            "outputs": [tensor.metadata() for tensor in self.outputs.values()],
        }


def server_metadata() -> dict[str, str]:
    """What a server calls itself."""
    return {"name": "moesaic", "version": version("moesaic")}


class Models:
    """All tasks of all bundles."""

    def __init__(self, bundles: Sequence[Served]) -> None:
        self.by_name: dict[str, Model] = {}
        for served in bundles:
            for task, name in served.models.items():
                tensors = tensors_of(served.session.bundle, task)
                self.by_name[name] = Model(tensors.inputs, tensors.outputs, name, task, served)

    def find(self, model: str, version: str = VERSION) -> Model:
        """The model of a name.

        Raises
        ------
        RequestError
            404: there is no such model or version.
        """
        if model not in self.by_name:
            known = ", ".join(sorted(self.by_name))
            raise RequestError(
                404, f"there is no model {reprlib.repr(model)}; the models are: {known}"
            )
        if version != VERSION:
            asked = reprlib.repr(version)
            raise RequestError(404, f"model {model!r} has version {VERSION} only, not {asked}")
        return self.by_name[model]
