"""Layout operators, executed on the arrays that make up a view.

ONNX's own reference evaluator runs the operator on the element numbers, scales and offsets, so
its meaning in each opset is not written down here a second time.
"""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import helper
from onnx.reference import ReferenceEvaluator

from moesaic.compiler.frontend.algebra import Value, as_view
from moesaic.compiler.frontend.views import NONE, NotRecognised, View

DATA_INPUTS: dict[str, tuple[int, ...]] = {
    "Concat": (),  # all of them
    "DepthToSpace": (0,),
    "Expand": (0,),
    "Flatten": (0,),
    "Gather": (0,),
    "GatherElements": (0,),
    "GatherND": (0,),
    "Identity": (0,),
    "Pad": (0,),
    "Reshape": (0,),
    "ScatterElements": (0, 2),
    "ScatterND": (0, 2),
    "Slice": (0,),
    "SpaceToDepth": (0,),
    "Split": (0,),
    "Squeeze": (0,),
    "Tile": (0,),
    "Transpose": (0,),
    "Unsqueeze": (0,),
    "Where": (1, 2),
}
"""Inputs that are moved about; the others must be constants."""


SLOW = frozenset(
    "AffineGrid AveragePool Col2Im Conv ConvInteger ConvTranspose DeformConv DFT GridSample GRU LRN"
    " LpPool LSTM MaxPool MaxUnpool MelWeightMatrix NonMaxSuppression Resize RNN RoiAlign STFT"
    " Upsample".split()
)
"""What the reference evaluator computes element by element in Python: ONNX Runtime does it."""


def _run_fast(
    node: onnx.NodeProto, inputs: list[NDArray[np.generic] | None], opsets: dict[str, int]
) -> list[NDArray[np.generic]]:
    given = {n: np.asarray(v) for n, v in zip(node.input, inputs, strict=True) if v is not None}
    graph = helper.make_graph(
        [node],
        "node",
        [
            helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(v.dtype), v.shape)
            for n, v in given.items()
        ],
        [onnx.ValueInfoProto(name=name) for name in node.output if name],
    )
    imports = [helper.make_opsetid(domain, version) for domain, version in opsets.items()]
    model = helper.make_model(graph, opset_imports=imports, ir_version=10)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    results = iter(session.run(None, given))
    return [np.asarray(next(results)) if name else np.empty(0) for name in node.output]


def evaluate(
    node: onnx.NodeProto, inputs: list[NDArray[np.generic] | None], opsets: dict[str, int]
) -> list[NDArray[np.generic]]:
    """Run one node on numpy arrays."""
    if node.op_type in SLOW:
        return _run_fast(node, inputs, opsets)
    values = dict(zip(node.input, inputs, strict=True))
    given = {name: value for name, value in values.items() if name}
    graph = helper.make_graph(
        [node],
        "node",
        [helper.make_empty_tensor_value_info(name) for name in given],
        [helper.make_empty_tensor_value_info(name) for name in node.output if name],
    )
    imports = [helper.make_opsetid(domain, version) for domain, version in opsets.items()]
    results = iter(
        ReferenceEvaluator(helper.make_model(graph, opset_imports=imports)).run(None, given)
    )
    return [np.asarray(next(results)) if name else np.empty(0) for name in node.output]


def is_layout(node: onnx.NodeProto, inputs: list[Value | None]) -> bool:
    """Say whether a node only moves elements, by places that are known now."""
    data = DATA_INPUTS.get(node.op_type)
    if data is None:
        return False
    moved = data or range(len(inputs))
    return not any(isinstance(v, View) for i, v in enumerate(inputs) if i not in moved)


def move(node: onnx.NodeProto, inputs: list[Value | None], opsets: dict[str, int]) -> list[Value]:
    """Run a layout operator on views; a result of constants alone becomes an array."""
    for attribute in node.attribute:
        if attribute.name == "reduction" and attribute.s not in (b"", b"none"):
            raise NotRecognised(f"reduction {attribute.s.decode()!r} is not supported")
    data = DATA_INPUTS[node.op_type] or range(len(inputs))
    padding = 0.0
    if node.op_type == "Pad":
        if any(a.name == "mode" and a.s not in (b"", b"constant") for a in node.attribute):
            raise NotRecognised("padding must be constant")
        if len(inputs) > 2 and inputs[2] is not None:
            padding = float(np.asarray(inputs[2]).item())  # type: ignore[arg-type]
    views = {i: as_view(value) for i, value in enumerate(inputs) if i in data and value is not None}
    parts: list[list[NDArray[np.generic]]] = []
    for part, fill in (("ids", np.int64(NONE)), ("scale", 0.0), ("offset", padding)):
        arrays: list[NDArray[np.generic] | None] = [
            np.ascontiguousarray(getattr(views[i], part)) if i in views else value  # type: ignore[misc]
            for i, value in enumerate(inputs)
        ]
        if node.op_type == "Pad":
            filled = onnx.NodeProto()
            filled.CopyFrom(node)
            while len(filled.input) < 3:
                filled.input.append("")
                arrays.append(None)
            filled.input[2] = "padding value"
            arrays[2] = np.asarray(fill, arrays[0].dtype)  # type: ignore[union-attr]
            parts.append(evaluate(filled, arrays, opsets))
        else:
            parts.append(evaluate(node, arrays, opsets))
    return [
        simplify(View(ids.astype(np.int64), scale.astype(float), offset.astype(float)))
        for ids, scale, offset in zip(*parts, strict=True)
    ]


def simplify(view: View) -> Value:
    """Return a view of constants as the array that it is."""
    return view.offset.astype(np.float32) if view.is_constant else view
