"""The tasks of a bundle as models of the protocol."""

from __future__ import annotations

import reprlib
from dataclasses import dataclass
from typing import Any

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
class Model:
    """A task by its tensors."""

    name: str
    inputs: dict[str, TensorInfo]
    outputs: dict[str, TensorInfo]

    def metadata(self) -> dict[str, Any]:
        """Answer to ``GET /v2/models/NAME``."""
        return {
            "name": self.name,
            "versions": [VERSION],
            "platform": "moesaic",
            "inputs": [tensor.metadata() for tensor in self.inputs.values()],
            "outputs": [tensor.metadata() for tensor in self.outputs.values()],
        }


class Models:
    """All tasks of a bundle."""

    def __init__(self, bundle: Bundle) -> None:
        self.by_name: dict[str, Model] = {}
        for task, graph in bundle.graphs.items():
            read = TensorInfo(graph.input_name, tuple(graph.input_shape[1:]))
            written = {
                name: TensorInfo(name, shape[1:]) for name, shape in bundle.outputs(task).items()
            }
            self.by_name[task] = Model(task, {read.name: read}, written)

    def find(self, model: str, version: str = VERSION) -> Model:
        """The model of a task.

        Raises
        ------
        RequestError
            404: there is no such task or version.
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
