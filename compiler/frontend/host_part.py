"""The part of a model that the host runs: extracted as ONNX, and every node accounted for."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

import numpy as np
import onnx
import onnx_ir
from onnx import checker, helper, numpy_helper, shape_inference

from moesaic.compiler import ir
from moesaic.compiler.frontend import layout
from moesaic.compiler.frontend.cut import is_data
from moesaic.compiler.frontend.host_macs import count_macs
from moesaic.compiler.frontend.nodes import (
    describe,
    first_output,
    node_name,
    reads,
    standard_domain,
)
from moesaic.compiler.frontend.operators import OPERATORS
from moesaic.compiler.frontend.trace import RANDOM, Trace
from moesaic.compiler.frontend.views import NotRecognised, View

FLOATS = (onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE)
NUMBERS = (
    *FLOATS,
    onnx.TensorProto.INT64,
    onnx.TensorProto.INT32,
    onnx.TensorProto.UINT8,
    onnx.TensorProto.BOOL,
)
"""What an output may be: classes, for example, which are delivered as floats like all else."""
LATE = "at most a LayerNorm and one linear layer can follow the last transformer layer"


def extract_host_part(traced: Trace, tensors: Collection[str], obstacle: str = "") -> ir.HostPart:
    """Return everything between `tensors` and the other outputs as a model of its own.

    Parameters
    ----------
    traced
        The whole model.
    tensors
        Computed by the accelerator; all paths from the input to the outputs pass through them.
    obstacle
        Why what follows is not for the accelerator, though it has units for it.

    Raises
    ------
    NotRecognised
        The part draws random numbers, is no valid ONNX, an input is not float, or an output
        holds no numbers.
    """
    nodes = host_nodes(traced, tensors)
    makers = {name: node_name(node) for node in nodes for name in node.output}
    try:
        read = {name for node in nodes for name in reads(node)}
        inputs = [name for name in tensors if name in read]
        outputs = [name for name in traced.graph.output_names if name not in tensors]
        proto = extract(traced, inputs, outputs)
        checker.check_model(proto, full_check=True)
    except Exception as error:  # whatever onnx finds wrong with a model that a user hands in
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise NotRecognised(f"what follows {min(tensors)!r} is no valid ONNX ({reason})") from error
    refuse_random(proto)
    for ends, kinds in ((proto.graph.input, FLOATS), (proto.graph.output, NUMBERS)):
        for end in ends:
            kind = end.type.tensor_type.elem_type
            if kind not in kinds:
                known = onnx.TensorProto.DataType.Name(kind).lower()
                raise NotRecognised(
                    f"{end.name!r} must hold numbers, not {known}: end the model before it"
                )
    return ir.HostPart(
        model=proto.SerializeToString(deterministic=True),
        nodes=[_place(traced, node, makers, obstacle or LATE) for node in nodes],
        macs=count_macs(proto),
        outputs=traced.graph.output_names,
        nodes_before=len(host_nodes(traced, [])) - len(nodes),
    )


def refuse_random(proto: onnx.ModelProto) -> None:
    """Refuse a model that gives another result each time."""
    for node in proto.graph.node:
        if node.op_type in RANDOM:
            raise NotRecognised(
                f"{describe(node)} draws random numbers: export the model for inference"
            )


def extract(traced: Trace, sources: Sequence[str], targets: Sequence[str]) -> onnx.ModelProto:
    """Return what computes tensors ``targets`` from tensors ``sources``, whose shapes are known."""
    model = onnx_ir.from_proto(with_constants(traced))
    graph = onnx_ir.convenience.extract(model.graph, sources, targets)
    for value in graph.inputs:
        view = traced.values[str(value.name)]
        assert isinstance(view, View)
        value.shape = onnx_ir.Shape(view.shape)
        if value.dtype is None:  # behind an operator that ONNX does not know; those compute floats
            value.dtype = onnx_ir.DataType.FLOAT
    for node in graph.all_nodes():
        # Exporters leave stack traces here: paths on the machine of whoever exported the model.
        node.metadata_props.clear()
        node.doc_string = None
    graph.metadata_props.clear()
    graph.doc_string = None
    proto = onnx_ir.to_proto(onnx_ir.Model(graph, ir_version=model.ir_version))
    for unordered in (proto.graph.initializer, proto.graph.value_info):  # out of a set
        unordered.sort(key=lambda entry: entry.name)
    return shape_inference.infer_shapes(proto)


def host_nodes(
    traced: Trace, tensors: Collection[str], outputs: Iterable[str] | None = None
) -> list[onnx.NodeProto]:
    """Return the nodes between tensors and outputs, by default all of the graph, constants apart,
    in the file's order; of no tensors all that depend on the input."""
    wanted = set(traced.graph.output_names if outputs is None else outputs).difference(tensors)
    result = []
    for node in reversed(traced.graph.nodes):
        made = wanted.intersection(node.output)
        if any(is_data(traced, name) for name in made):
            result.append(node)
            wanted.update(name for name in reads(node) if name not in tensors)
    return result[::-1]


def with_constants(traced: Trace) -> onnx.ModelProto:
    """Return the model with inferred types, and with what tracing found to be constant stored.

    The Shape of a tensor, for example, depends on the input as far as ONNX knows; left as it is,
    it would pull the backbone into the host's part.
    """
    source = traced.graph
    model = shape_inference.infer_shapes(source.model)
    types = {value.name: value.type.tensor_type.elem_type for value in model.graph.value_info}
    computed = {source.input_name}
    kept = []
    for node in model.graph.node:
        if not computed.isdisjoint(reads(node)):
            computed.update(node.output)
            constant = [name for name in node.output if not is_data(traced, name)]
            for name in constant:
                array = np.asarray(traced.values[name])
                if name in types:
                    array = array.astype(helper.tensor_dtype_to_np_dtype(types[name]))
                model.graph.initializer.append(numpy_helper.from_array(array, name))
            if len(constant) == len(node.output):
                continue
            names = [f"{name}/unused" if name in constant else name for name in node.output]
            node.output[:] = names
        kept.append(node)
    del model.graph.node[:]
    model.graph.node.extend(kept)
    return model


def _place(traced: Trace, node: onnx.NodeProto, makers: dict[str, str], late: str) -> ir.HostNode:
    """Say why a node runs on the host: `late` if it has a unit. `makers` are the names of the nodes
    that make its inputs."""
    refusal = traced.refused.get(first_output(node))
    before = [makers[name] for name in reads(node) if name not in traced.values]
    if refusal is not None:
        reason = refusal.reason
    elif not _has_unit(node):
        reason = f"there is no unit for {node.op_type}"
    elif before:
        reason = f"it follows {before[0]!r} on the host"
    else:
        reason = late
    return ir.HostNode(node_name(node), node.op_type, reason)


def _has_unit(node: onnx.NodeProto) -> bool:
    domain = standard_domain(node)
    known = (domain, node.op_type) in OPERATORS
    return known or (not domain and node.op_type in layout.DATA_INPUTS)
