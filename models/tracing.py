"""ONNX graphs of the reference model: one task traced, and shown to hold every expert."""

from __future__ import annotations

import logging
import warnings

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from moesaic.models.m3vit import M3ViT

DEFAULT_OPSET = 20
INPUT_NAME = "image"


class SingleTask(nn.Module):
    """A model with its task fixed: what one ONNX file holds."""

    def __init__(self, model: M3ViT, task: str) -> None:
        super().__init__()
        self.model = model
        self.task = task

    def forward(self, image: Tensor) -> Tensor:
        """Run the task: (N, 3, H, W) to (N, channels, H, W)."""
        return self.model(image, self.task)


def trace(model: M3ViT, task: str, opset: int = DEFAULT_OPSET) -> onnx.ModelProto:
    """Return the ONNX graph of one task.

    Input `image` (1, 3, H, W) and output named like the task (1, channels, H, W) are float32
    and static. The GELU is one `Gelu` node from opset 20 on, `Erf` arithmetic below.
    """
    model.config.channels(task)  # refuses a task that the model does not have
    image = torch.zeros(1, 3, model.config.height, model.config.width)
    # The exporter reports four operators of a package that is not needed here, and a
    # deprecation inside torch: neither concerns the user.
    logging.getLogger("torch.onnx._internal.exporter._registration").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        program = torch.onnx.export(
            SingleTask(model, task).eval(),
            (image,),
            dynamo=True,
            opset_version=opset,
            input_names=[INPUT_NAME],
            output_names=[task],
            verbose=False,
        )
    if program is None:
        raise RuntimeError(f"torch.onnx.export made no program for task {task!r}")
    return program.model_proto


def check_experts(graph: onnx.GraphProto, model: M3ViT) -> None:
    """Refuse a graph that lacks an expert of `model`.

    Tracing can drop experts that the sample did not use. Each expert's two matrices must be
    among the initializers, as stored or transposed (compared by content: names may change).

    Raises
    ------
    ValueError
        The first expert that is missing.
    """
    present: set[tuple[tuple[int, ...], bytes]] = set()
    for tensor in graph.initializer:
        array = numpy_helper.to_array(tensor)
        # A stack of matrices, as com.microsoft.MoE has it, counts as its matrices.
        for matrix in array if array.ndim == 3 else [array]:
            if matrix.ndim == 2:
                present.add((matrix.shape, matrix.tobytes()))
                present.add((matrix.T.shape, np.ascontiguousarray(matrix.T).tobytes()))
    for layer, moe in enumerate(model.moe_layers()):
        for index, expert in enumerate(moe.experts):
            for name in ("fc1", "fc2"):
                matrix = getattr(expert, name).weight.detach().numpy()
                if (matrix.shape, matrix.tobytes()) not in present:
                    raise ValueError(
                        f"the graph must hold all {len(moe.experts)} experts of MoE layer {layer}, "
                        f"but {name} of expert {index} is missing"
                    )
