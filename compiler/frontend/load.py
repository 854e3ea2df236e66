"""Reading an ONNX file and checking what can be checked without looking at its operators."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from moesaic.compiler.frontend.batch import unbatch
from moesaic.compiler.frontend.choose import choose_outputs, label, set_dimensions
from moesaic.compiler.frontend.floats import narrow, widen
from moesaic.compiler.frontend.nodes import describe, reads
from moesaic.compiler.frontend.opset import convert_opset, opset_of
from moesaic.compiler.frontend.parse import first_line, inline, parse, sort_nodes
from moesaic.compiler.frontend.quantised import Quantisation
from moesaic.compiler.frontend.unquantise import unquantise
from moesaic.compiler.ir import Choice
from moesaic.spec.errors import UserError

MOST_INPUTS = 1 << 24
"""Elements of the input: an image of 2,364 x 2,364 pixels of three channels."""


@dataclass(frozen=True)
class Rewritten:
    """A model that was made from a file by more than reading it."""

    model: bytes
    """ONNX on one frame; floats of 16 bits and quantisers as the file has them."""
    frames: int
    """That the file itself takes at once."""


@dataclass
class OnnxGraph:
    """A checked graph: nodes in order, constants, its one input and its outputs."""

    path: str
    model: onnx.ModelProto
    """The file's contents in float32: local functions inlined, 16-bit floats widened, quantisers
    taken out."""
    opsets: dict[str, int]
    nodes: list[onnx.NodeProto]
    constants: dict[str, NDArray[np.generic]]
    input_name: str
    input_shape: tuple[int, ...]
    output_names: list[str]
    rounded: set[str]
    """Values that the file rounds to 16 bits: its input, results of casts."""
    quantisation: Quantisation = field(default_factory=Quantisation)
    """What the quantisers were that have been taken out of the model."""
    choice: Choice = field(default_factory=Choice)
    """What of the user's choice was of use."""
    rewritten: Rewritten | None = None
    """What must be shown to compute what the file does; None where it is the file."""
    notes: list[tuple[str, str]] = field(default_factory=list)
    """For reports: what was done in reading, and what to."""


def read_model(path: str | Path, choice: Choice | None = None) -> OnnxGraph:
    """Read and check a file.

    Parameters
    ----------
    choice
        Of some of its outputs, and numbers for symbolic dimensions.

    Raises
    ------
    UserError
        No such file, no ONNX, another opset, not one static float input, no output, or a
        constant that is not finite.
    """
    choice = choice or Choice()
    model, notes = sort_nodes(inline(parse(Path(path)), path), path)
    choose_outputs(model, choice, path)
    used = set_dimensions(model, choice)
    model, rewritten, more = _rewrite(model, path)
    opsets = {entry.domain or "": entry.version for entry in model.opset_import}
    opsets[""] = opset_of(model)
    double = narrow(model, lambda tensor, what: _array(tensor, what, path))
    notes += [("float64 is computed in float32", f"input {name!r}") for name in double]
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
    if not graph.output:
        raise UserError(f"{path} must have an output, not 0 (none)")
    outputs = [output.name for output in graph.output]
    produced = {name for node in graph.node for name in node.output}
    for output in outputs:
        if output not in produced:
            raise UserError(
                f"output {output!r} of {path} must be computed by a node, but none does"
            )
    return OnnxGraph(
        path=str(path),
        model=model,
        opsets=opsets,
        nodes=_needed(list(graph.node), outputs, path, {*produced, *constants, inputs[0].name}),
        constants=constants,
        input_name=inputs[0].name,
        input_shape=_static_shape(inputs[0], path),
        output_names=outputs,
        rounded=rounded,
        quantisation=quantisation,
        choice=Choice(used, choice.outputs),
        rewritten=rewritten,
        notes=notes + more,
    )


def _rewrite(
    model: onnx.ModelProto, path: str | Path
) -> tuple[onnx.ModelProto, Rewritten | None, list[tuple[str, str]]]:
    """Return the model in an opset that is understood and for one frame."""
    notes: list[tuple[str, str]] = []
    converted = convert_opset(model, path)
    if converted is not model:
        change = f"from opset {opset_of(model)} to {opset_of(converted)}"
        notes.append(("converted by ONNX before it was read", change))
    frames = unbatch(converted, path)
    if frames > 1:
        notes.append(("one frame is compiled of the file's batch", f"{frames} frames"))
    if not notes:
        return converted, None, []
    return converted, Rewritten(serialise(converted, path), frames), notes


def serialise(model: onnx.ModelProto, path: str | Path) -> bytes:
    """Return a model as the contents of a file.

    Raises
    ------
    UserError
        It is larger than ONNX can hold in one piece.
    """
    try:
        return bytes(model.SerializeToString())
    except Exception as error:  # protobuf's own, for more than 2 GiB
        raise UserError(
            f"model {path} must be smaller than 2 GiB with its weights: no target holds more"
        ) from error


def _array(tensor: onnx.TensorProto, what: str, path: str | Path) -> NDArray[np.generic]:
    """Return a constant in a type of numpy's own, refusing NaN and infinity.

    A mask of scores may be -inf; who reads it as a number refuses it (`views.finite`).
    """
    try:
        array = numpy_helper.to_array(tensor)
    except Exception as error:  # sizes that do not fit, unknown types, data that is not there
        raise UserError(
            f"{what} of {path} cannot be read, the file is damaged: {first_line(error)}"
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
    """Return an input's shape, a symbolic first dimension being a batch of 1.

    A number there is 1 already, see ``_rewrite``.
    """
    tensor = value.type.tensor_type
    if tensor.elem_type != onnx.TensorProto.FLOAT:
        known = onnx.TensorProto.DataType.Name(tensor.elem_type)
        raise UserError(f"input {value.name!r} of {path} must be of floats, not {known.lower()}")
    if not tensor.HasField("shape") or not tensor.shape.dim:
        raise UserError(f"input {value.name!r} of {path} must have a shape: export it with one")
    shape = []
    for index, dimension in enumerate(tensor.shape.dim):
        if dimension.HasField("dim_value") and dimension.dim_value > 0:
            shape.append(int(dimension.dim_value))
        elif index == 0:
            shape.append(1)
        else:
            name = label(dimension, index)
            raise UserError(
                f"dimension {index} ({name!r}) of input {value.name!r} of {path} must be a "
                f"number: give it by --dim {name}=NUMBER, or export the model with a static shape"
            )
    elements = math.prod(shape)
    if elements > MOST_INPUTS:
        raise UserError(
            f"input {value.name!r} of {path} must have at most {MOST_INPUTS:,} elements, not "
            f"{elements:,}: no target takes more"
        )
    return tuple(shape)


def _needed(
    nodes: list[onnx.NodeProto], outputs: list[str], path: str | Path, known: set[str]
) -> list[onnx.NodeProto]:
    """Return the nodes that the outputs depend on, in the file's order."""
    wanted = set(outputs)
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
