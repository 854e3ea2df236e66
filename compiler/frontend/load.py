"""Reading an ONNX file and checking what can be checked without looking at its operators."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
import onnx_ir
from numpy.typing import NDArray
from onnx import external_data_helper, inliner, numpy_helper

from moesaic.compiler.frontend.floats import widen
from moesaic.compiler.frontend.nodes import describe, reads
from moesaic.compiler.frontend.quantised import Quantisation
from moesaic.compiler.frontend.unquantise import unquantise
from moesaic.spec.arrays import other_kind
from moesaic.spec.errors import UserError

OPSETS = range(17, 24)
MOST_INPUTS = 1 << 24
"""Elements of the input: an image of 2,364 x 2,364 pixels of three channels."""


@dataclass
class OnnxGraph:
    """A checked graph: nodes in order, constants, and its one input and output."""

    path: str
    model: onnx.ModelProto
    """The file's contents in float32: local functions inlined, 16-bit floats widened, quantisers
    taken out."""
    opsets: dict[str, int]
    nodes: list[onnx.NodeProto]
    constants: dict[str, NDArray[np.generic]]
    input_name: str
    input_shape: tuple[int, ...]
    output_name: str
    rounded: set[str]
    """Values that the file rounds to 16 bits: its input, results of casts."""
    quantisation: Quantisation = field(default_factory=Quantisation)
    """What the quantisers were that have been taken out of the model."""


def read_model(path: str | Path) -> OnnxGraph:
    """Read and check a file.

    Raises
    ------
    UserError
        No such file, no ONNX, another opset, not one static float input and one output, or a
        constant that is not finite.
    """
    model = _parse(Path(path))
    opsets = {entry.domain or "": entry.version for entry in model.opset_import}
    opset = opsets.get("", opsets.get("ai.onnx", 0))
    if opset not in OPSETS:
        raise UserError(
            f"{path} must use opset {OPSETS[0]} to {OPSETS[-1]} of the default domain, not {opset}:"
            f" export it again with opset_version={min(max(opset, OPSETS[0]), OPSETS[-1])}"
        )
    opsets[""] = opset
    if model.functions:
        model = _inline(model, path)
    model = _sorted(model, path)
    rounded = widen(model, lambda tensor, what: _array(tensor, what, path))
    quantisation = unquantise(model, str(path))
    graph = model.graph
    if graph.sparse_initializer:
        raise UserError(
            f"initializer {graph.sparse_initializer[0].values.name!r} of {path} must be dense: "
            "store it as a plain tensor"
        )
    constants = {
        tensor.name: _array(tensor, f"initializer {tensor.name!r}", path)
        for tensor in graph.initializer
    }
    inputs = [value for value in graph.input if value.name not in constants]
    if len(inputs) != 1:
        names = ", ".join(repr(value.name) for value in inputs) or "none"
        raise UserError(f"{path} must have one input, not {len(inputs)} ({names})")
    if len(graph.output) != 1:
        names = ", ".join(repr(value.name) for value in graph.output) or "none"
        raise UserError(
            f"{path} must have one output, not {len(graph.output)} ({names}): "
            "export one file for each task"
        )
    output = graph.output[0].name
    produced = {name for node in graph.node for name in node.output}
    if output not in produced:
        raise UserError(f"output {output!r} of {path} must be computed by a node, but none does")
    return OnnxGraph(
        path=str(path),
        model=model,
        opsets=opsets,
        nodes=_needed(list(graph.node), output, path, {*produced, *constants, inputs[0].name}),
        constants=constants,
        input_name=inputs[0].name,
        input_shape=_static_shape(inputs[0], path),
        output_name=output,
        rounded=rounded,
        quantisation=quantisation,
    )


def _kind(path: Path) -> str:
    """What a file is that is no ONNX model, and the way out; "" if that is not known."""
    try:
        with path.open("rb") as file:
            what = other_kind(file, path.with_suffix(""))
    except Exception:  # as above
        return ""
    if what in ("an ONNX model", "something else"):
        return ""
    return f"it is {what or 'an .npz or another archive'}: give what torch.onnx.export writes"


def _parse(path: Path) -> onnx.ModelProto:
    if not path.is_file():
        what = "it is no plain file" if path.exists() else "there is no such file"
        raise UserError(f"model {path} must be an ONNX file, but {what}")
    try:
        model = onnx.load(str(path), load_external_data=False)
        if not model.ir_version or not model.HasField("graph") or not model.opset_import:
            raise ValueError("it holds no graph")
    except Exception as error:  # whatever the parser throws at foreign bytes
        raise UserError(
            f"model {path} must be an ONNX file: {_kind(path) or _first_line(error)}"
        ) from error
    try:
        external_data_helper.load_external_data_for_model(model, str(path.parent))
    except Exception as error:  # missing files, wrong lengths, paths that leave the folder
        raise UserError(
            f"external data of {path} cannot be read; keep it beside the model: "
            f"{_first_line(error)}"
        ) from error
    return model


def _inline(model: onnx.ModelProto, path: str | Path) -> onnx.ModelProto:
    try:
        return inliner.inline_local_functions(model)
    except Exception as error:
        raise UserError(
            f"local functions of {path} cannot be inlined; export without functions: "
            f"{_first_line(error)}"
        ) from error


def _sorted(model: onnx.ModelProto, path: str | Path) -> onnx.ModelProto:
    """Return a model whose nodes follow what they read: converters append casts at the end."""
    produced = {name for node in model.graph.node for name in node.output}
    for node in model.graph.node:
        if not produced.isdisjoint(reads(node)):
            break
        produced.difference_update(node.output)
    else:
        return model
    try:
        sorted_model = onnx_ir.from_proto(model)
        sorted_model.graph.sort()
        return onnx_ir.to_proto(sorted_model)
    except Exception as error:  # cycles, and whatever a damaged graph runs into
        raise UserError(
            f"{path} reads values before they are made, in a circle: export it again "
            f"({_first_line(error)})"
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _array(tensor: onnx.TensorProto, what: str, path: str | Path) -> NDArray[np.generic]:
    """Return a constant in a type of numpy's own, refusing NaN and infinity.

    A mask of scores may be -inf; who reads it as a number refuses it (`views.finite`).
    """
    try:
        array = numpy_helper.to_array(tensor)
    except Exception as error:  # sizes that do not fit, unknown types, data that is not there
        raise UserError(
            f"{what} of {path} cannot be read, the file is damaged: {_first_line(error)}"
        ) from error
    if array.dtype.kind not in "biufOSU":  # bfloat16 and other types numpy does not know itself
        array = array.astype(np.float32)
    if array.dtype.kind == "f" and not (np.isfinite(array).all() or _masks(array)):
        raise UserError(
            f"{what} of {path} must be finite, but it holds NaN or infinity: "
            "check the checkpoint that was exported"
        )
    return array


def _masks(array: NDArray[np.generic]) -> bool:
    """Say whether a constant only takes scores away: 0 or -inf."""
    return bool(((array == 0) | np.equal(array, -np.inf)).all())


def attribute_constant(node: onnx.NodeProto, path: str) -> NDArray[np.generic] | None:
    """Return the value of a Constant node that holds a tensor, else None."""
    for attribute in node.attribute:
        if attribute.name == "value":
            return _array(attribute.t, describe(node), path)
    return None


def _static_shape(value: onnx.ValueInfoProto, path: str | Path) -> tuple[int, ...]:
    """Return an input's shape, a symbolic first dimension being a batch of 1."""
    tensor = value.type.tensor_type
    if tensor.elem_type != onnx.TensorProto.FLOAT:
        known = onnx.TensorProto.DataType.Name(tensor.elem_type)
        raise UserError(
            f"input {value.name!r} of {path} must be float32 or a 16-bit float, not {known.lower()}"
        )
    if not tensor.HasField("shape") or not tensor.shape.dim:
        raise UserError(f"input {value.name!r} of {path} must have a shape: export it with one")
    shape = []
    for index, dimension in enumerate(tensor.shape.dim):
        if dimension.HasField("dim_value") and dimension.dim_value > 0:
            shape.append(int(dimension.dim_value))
        elif index == 0:
            shape.append(1)
        else:
            label = dimension.dim_param or index
            raise UserError(
                f"dimension {index} ({label!r}) of input {value.name!r} of {path} must be a "
                "number: export the model with a static shape"
            )
    elements = math.prod(shape)
    if elements > MOST_INPUTS:
        raise UserError(
            f"input {value.name!r} of {path} must have at most {MOST_INPUTS:,} elements, not "
            f"{elements:,}: no target takes more"
        )
    if shape[0] != 1:
        raise UserError(
            f"dimension 0 of input {value.name!r} of {path} must be a batch of 1, not {shape[0]}: "
            "the runtime runs the samples of a batch one after another"
        )
    return tuple(shape)


def _needed(
    nodes: list[onnx.NodeProto], output: str, path: str | Path, known: set[str]
) -> list[onnx.NodeProto]:
    """Return the nodes that the output depends on, in the file's order."""
    wanted = {output}
    kept = []
    for node in reversed(nodes):
        if wanted.isdisjoint(node.output):
            continue
        kept.append(node)
        for name in reads(node):
            if name not in known:
                raise UserError(
                    f"{describe(node)} of {path} reads {name!r}, which nothing produces: "
                    "the file is damaged, export it again"
                )
        wanted.update(reads(node))
    return kept[::-1]
