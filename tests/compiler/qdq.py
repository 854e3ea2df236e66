"""Quantised files by ONNX Runtime, and what the accelerator does its own way in them."""

from __future__ import annotations

from collections.abc import Collection
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime

from moesaic.compiler import ir
from moesaic.compiler.frontend import load_graph
from moesaic.compiler.frontend.load import read_model
from moesaic.compiler.frontend.trace import trace
from moesaic.compiler.frontend.views import BatchProduct, Input, Norm, Product, Softmax, Sum, View
from moesaic.compiler.quant.given import given_steps
from moesaic.models.zoo import quantised

quantise_file = partial(quantised.quantise_file, symmetric=True, per_channel=True)
"""As for accelerators: symmetric activations, and a scale for each channel of weights."""


def run(model: Path | onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    """Run a file as its graph defines it: ONNX Runtime's fusions round in other places."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    content = str(model) if isinstance(model, Path) else model.SerializeToString()
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return np.concatenate([session.run(None, {name: sample[None]})[0] for sample in x])


def without(path: Path, tensors: Collection[str]) -> onnx.ModelProto:
    """Return a quantised file's model without the quantisers of some tensors.

    `tensors` as the frontend names them, which gives outputs their names back.
    """
    model = onnx.load(path)
    made = {node.output[0]: node for node in model.graph.node if node.op_type == "QuantizeLinear"}
    final = {output.name for output in model.graph.output}
    renamed = {}
    for node in model.graph.node:
        first = made.get(node.input[0]) if node.op_type == "DequantizeLinear" else None
        if first is None:
            continue
        if node.output[0] in final:  # the frontend calls what is rounded there like the output
            if node.output[0] in tensors:
                node.op_type, node.input[:] = "Identity", [first.input[0]]
                del node.attribute[:]
        elif first.input[0] in tensors:
            renamed[node.output[0]] = first.input[0]
    for node in model.graph.node:
        node.input[:] = [renamed.get(name, name) for name in node.input]
    return model


def own_ways(path: Path) -> dict[str, list[str]]:
    """Return the tensors that a file quantises and the accelerator does not, by what they are."""
    traced, graph = trace(read_model(path)), load_graph(path)
    taken = {given.step for given in given_steps(graph).values()}
    ups = {part.name for layer in graph.layers for part in _ups(layer)}
    quantisers = traced.graph.quantisation.activations
    sources = {name: _source(traced, name) for name in quantisers}

    def is_taken(name: str) -> bool:
        # In front of a GELU a step may equal the one behind it: their largest values agree.
        up = isinstance(sources[name], Product) and sources[name].name in ups
        return quantisers[name].step in taken and not up

    biased = {sources[name].start for name in quantisers if sources[name] and is_taken(name)}
    ways: dict[str, list[str]] = {}
    for name, source in sources.items():
        if source is None or is_taken(name):
            continue
        if isinstance(source, Norm):
            kind = "normalised rows, behind gamma and beta"
        elif isinstance(source, Softmax):
            kind = "probabilities"
        elif isinstance(source, BatchProduct):
            kind = "scores"
        elif isinstance(source, Sum):
            kind = "residual stream"
        elif isinstance(source, Product) and source.start in biased:
            kind = "products in front of their bias"
        elif isinstance(source, Product) and source.name in ups:
            kind = "values in front of the GELU"
        elif isinstance(source, Product):
            kind = "results of layers in front of the sum"
        elif isinstance(source, Input):
            kind = "input"
        else:
            kind = "gate weights and what they weight"
        ways.setdefault(kind, []).append(name)
    return ways


def _source(traced: Any, name: str) -> Any:
    value = traced.values.get(name)
    sources = traced.arena.sources_of(value) if isinstance(value, View) else []
    return sources[0] if sources else None


def _ups(layer: ir.Layer) -> list[ir.Linear]:
    if isinstance(layer, ir.Mlp):
        return [layer.up]
    return [expert.up for expert in layer.experts] if isinstance(layer, ir.Moe) else []
