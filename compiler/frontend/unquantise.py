"""Takes the quantisers out of a model: what is left computes in float32, and is recognised.

Pairs of QuantizeLinear and DequantizeLinear, and Quant nodes of QONNX and Brevitas, stand for
integers in a float model. Constants become the floats that they stand for; around activations the
pair is removed. What was there is remembered by tensor.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from moesaic.compiler.frontend.nodes import describe, reads
from moesaic.compiler.frontend.quantised import Quantisation, QuantisedWeight, Quantiser
from moesaic.compiler.frontend.quantiser_inputs import QuantiserInputs, attributes, integer_type
from moesaic.spec.errors import UserError

PAIR_DOMAINS = ("", "ai.onnx", "com.microsoft")
QUANT_DOMAINS = ("qonnx.custom_op.general", "onnx.brevitas", "finn.custom_op.general")
QDQ = "quantise the float model with quant_format=QuantFormat.QDQ"


def unquantise(model: onnx.ModelProto, path: str) -> Quantisation:
    """Take the quantisers out of a model, in place.

    Raises
    ------
    UserError
        A quantiser stands alone, or has a scale, zero point or width that is not supported.
    """
    if not any(_is_quantiser(node) for node in model.graph.node):
        return Quantisation()
    return _Remover(model, path).run()


def _is_quantiser(node: onnx.NodeProto) -> bool:
    if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
        return node.domain in PAIR_DOMAINS
    return node.op_type in ("Quant", "IntQuant") and node.domain in QUANT_DOMAINS


class _Remover:
    def __init__(self, model: onnx.ModelProto, path: str) -> None:
        self.graph, self.inputs = model.graph, QuantiserInputs(model, path)
        self.found = Quantisation()
        self.renamed: dict[str, str] = {}
        """What reads the first tensor reads the second one from now on."""
        self.codes: dict[str, onnx.NodeProto] = {}
        """Integer tensors, and the QuantizeLinear that makes each, perhaps through a Clip."""

    def run(self) -> Quantisation:
        kept = []
        for node in self.graph.node:
            narrows = node.op_type == "Clip" and node.input[0] in self.codes
            if not narrows and not _is_quantiser(node):
                kept.append(node)
                continue
            try:
                self._take(node)
            except UserError:
                raise
            except Exception as error:  # a malformed node can fail anywhere
                reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
                raise self.inputs.wrong(
                    node, f"is not valid ({reason}): check the export"
                ) from error
        read = {name for node in kept for name in reads(node)}
        read |= {output.name for output in self.graph.output}
        for name, node in self.codes.items():
            if name in read:
                raise self.inputs.wrong(node, f"must be followed by a DequantizeLinear: {QDQ}")
        del self.graph.node[:]
        self.graph.node.extend(kept)
        self._rename()
        self._drop_unread()
        return self.found

    def _take(self, node: onnx.NodeProto) -> None:
        if node.op_type == "QuantizeLinear":
            self._quantise(node)
        elif node.op_type == "DequantizeLinear":
            self._dequantise(node)
        elif node.op_type == "Clip":
            self._narrow(node)
        else:
            self._quant(node)

    def _quantise(self, node: onnx.NodeProto) -> None:
        if self.inputs.constant(node.input[0]) is not None:
            return  # what reads it finds it constant, too
        self.inputs.one_scale(node)
        zero, kind = self.inputs.zero_point(node)
        width = integer_type(kind)
        if width is None:
            name = onnx.TensorProto.DataType.Name(kind).lower()
            raise self.inputs.wrong(node, f"must give integers, not {name}: quantise to QInt8")
        self._remember(node, zero, *width)
        self.codes[node.output[0]] = node

    def _narrow(self, node: onnx.NodeProto) -> None:
        """A Clip of codes: a quantiser of fewer of them, as Brevitas exports narrow ranges."""
        first = self.codes[node.input[0]]
        source = self._source(first)
        quantiser = self.found.activations[source]
        least = -(1 << quantiser.bits - 1) if quantiser.signed else 0
        bounds = [least, least + (1 << quantiser.bits) - 1]
        for index, keep in ((1, max), (2, min)):
            if index < len(node.input) and node.input[index]:
                bound = self.inputs.number(node, index, "bound")
                bounds[index - 1] = keep(bounds[index - 1], int(bound.reshape(-1)[0]))
        if bounds[0] >= bounds[1]:
            raise self.inputs.wrong(node, f"must leave more than one code, not {bounds}")
        bits = (bounds[1] - bounds[0]).bit_length()
        if quantiser.node == describe(first):  # else it is of a later rounding, which counts
            self.found.activations[source] = replace(quantiser, bits=bits)
        self.codes[node.output[0]] = first

    def _dequantise(self, node: onnx.NodeProto) -> None:
        codes = self.inputs.constant(node.input[0])
        if codes is not None:
            self._fold(node, codes)
            return
        first = self.codes.get(node.input[0])
        if first is None:
            what = f"reads {node.input[0]!r}, which no QuantizeLinear makes: {QDQ}"
            raise self.inputs.wrong(node, what)
        differs = self.inputs.one_scale(node) != self.inputs.one_scale(first)
        if differs or self.inputs.zero_point(node)[0] != self.inputs.zero_point(first)[0]:
            raise self.inputs.wrong(
                node,
                f"must have the scale and zero point of {describe(first)}, whose codes it reads:"
                " quantise the float model again",
            )
        self.renamed[node.output[0]] = self._source(first)

    def _fold(self, node: onnx.NodeProto, codes: NDArray[np.generic]) -> None:
        """DequantizeLinear of a constant."""
        width = integer_type(helper.np_dtype_to_tensor_dtype(codes.dtype))
        if width is None:
            raise self.inputs.wrong(
                node, f"must read integers, not {codes.dtype}: quantise to QInt8"
            )
        scale = self.inputs.scales(node).reshape(-1)
        zero: NDArray[np.int64] = np.zeros(1, np.int64)
        if len(node.input) > 2 and node.input[2]:
            zero = self.inputs.number(node, 2, "zero point").astype(np.int64).reshape(-1)
        given = attributes(node)
        axis = given.get("axis", 1)
        assert isinstance(axis, int)
        axis %= max(codes.ndim, 1)
        if (
            given.get("block_size")
            or not _fits(scale, codes, axis)
            or zero.size not in (1, scale.size)
        ):
            raise self.inputs.wrong(
                node,
                f"must have one scale, or one for each channel, not {scale.size} of"
                f" {'x'.join(map(str, codes.shape))}: quantise per channel, without blocks",
            )
        whole = codes.astype(np.int64) - _along(zero, axis, codes.ndim)
        self._store(node, whole, scale, axis, width[0])

    def _quant(self, node: onnx.NodeProto) -> None:
        """A Quant node rounds a constant or an activation, and leaves it a float."""
        given = attributes(node)
        mode = str(given.get("rounding_mode", "ROUND")).upper()
        if mode not in ("ROUND", "HALF_EVEN"):
            raise self.inputs.wrong(node, f"must round to the nearest (ROUND), not {mode}")
        numbers = [self.inputs.number(node, i, what) for i, what in ((2, "zero"), (3, "width"))]
        if any(np.unique(value).size != 1 for value in numbers):
            raise self.inputs.wrong(node, "must have one zero point and one width")
        zero, bits = (float(value.reshape(-1)[0]) for value in numbers)
        if zero != round(zero) or bits != round(bits) or not 2 <= bits <= 32:
            raise self.inputs.wrong(
                node, f"must have a whole zero point and 2 to 32 bits, not {zero:g} and {bits:g}"
            )
        signed = bool(given.get("signed", 1))
        values = self.inputs.constant(node.input[0])
        if values is None:
            self._remember(node, int(zero), int(bits), signed)
            self.renamed[node.output[0]] = self._source(node)
            return
        shape = self.inputs.scales(node).shape
        scale = self.inputs.scales(node).reshape(-1)
        axis = next((i - len(shape) + values.ndim for i, n in enumerate(shape) if n > 1), 0)
        if not _fits(scale, values, axis):
            raise self.inputs.wrong(node, f"has {scale.size} scales that do not fit its weights")
        whole = np.rint(values.astype(np.float64) / _along(scale, axis, values.ndim) + zero)
        least = -(1 << int(bits) - 1) if signed else 0
        most = least + (1 << int(bits)) - 1
        if given.get("narrow", 0):
            least, most = (least + 1, most) if signed else (least, most - 1)
        codes = (whole.clip(least, most) - zero).astype(np.int64)
        self._store(node, codes, scale, axis, int(bits))

    def _source(self, node: onnx.NodeProto) -> str:
        """Return the tensor that a quantiser of an activation rounds."""
        return self.renamed.get(node.input[0], node.input[0])

    def _remember(self, node: onnx.NodeProto, zero: int, bits: int, signed: bool) -> None:
        source = self._source(node)
        self.found.activations.pop(source, None)  # the last one, in the file's order
        step = self.inputs.one_scale(node)
        self.found.activations[source] = Quantiser(step, zero, bits, signed, describe(node))

    def _store(
        self,
        node: onnx.NodeProto,
        codes: NDArray[np.int64],
        scale: NDArray[np.float32],
        axis: int,
        bits: int,
    ) -> None:
        """Put the floats that codes stand for where the node's output was."""
        values = codes.astype(np.float32) * _along(scale, axis, codes.ndim)
        self.graph.initializer.append(numpy_helper.from_array(values, node.output[0]))
        self.inputs.keep(node.output[0], values)
        if codes.ndim >= 2:
            weight = QuantisedWeight(codes.astype(np.int32), scale, axis, bits, describe(node))
            self.found.weights.append(weight)

    def _rename(self) -> None:
        """Let readers of removed nodes read what those read; outputs keep their names."""
        produced = {name for node in self.graph.node for name in node.output}
        for output in self.graph.output:
            source = self.renamed.pop(output.name, None)
            if source is None:
                continue
            if source in produced and all(source != other.name for other in self.graph.output):
                self.renamed[source] = output.name
            else:  # an input, or an output of its own
                self.graph.node.append(helper.make_node("Identity", [source], [output.name]))
        final = {name: self.renamed.get(source, source) for name, source in self.renamed.items()}
        _rename_graph(self.graph, final)
        self.found.activations = {
            final.get(name, name): quantiser for name, quantiser in self.found.activations.items()
        }

    def _drop_unread(self) -> None:
        read = {output.name for output in self.graph.output}
        needed = []
        for node in reversed(
            self.graph.node
        ):  # what changes constants in front of quantisers is not
            if not read.isdisjoint(node.output):
                needed.append(node)
                read.update(reads(node))
        del self.graph.node[:]
        self.graph.node.extend(reversed(needed))
        kept = [tensor for tensor in self.graph.initializer if tensor.name in read]
        # Files of old tools list their constants among the inputs, too.
        gone = {tensor.name for tensor in self.graph.initializer} - read
        inputs = [value for value in self.graph.input if value.name not in gone]
        del self.graph.input[:]
        self.graph.input.extend(inputs)
        del self.graph.initializer[:]
        self.graph.initializer.extend(kept)
        known = {name for node in self.graph.node for name in node.output}
        described = [value for value in self.graph.value_info if value.name in known]
        del self.graph.value_info[:]
        self.graph.value_info.extend(described)


def _rename_graph(graph: onnx.GraphProto, names: dict[str, str]) -> None:
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                _rename_graph(inner, names)


def _fits(scale: NDArray[np.float32], tensor: NDArray[np.generic], axis: int) -> bool:
    return scale.size == 1 or (0 <= axis < tensor.ndim and scale.size == tensor.shape[axis])


def _along(values: NDArray[Any], axis: int, rank: int) -> NDArray[Any]:
    """Return values of rank 1 in a shape that broadcasts along an axis of a tensor."""
    if values.size == 1:
        return values.reshape((1,) * rank)
    return values.reshape([-1 if index == axis else 1 for index in range(rank)])
