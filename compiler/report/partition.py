"""What the report says of a task that is divided between accelerator and host."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moesaic.compiler.float_reference import run_outputs
from moesaic.compiler.ir import Graph
from moesaic.spec.hostpart import HostPart
from moesaic.spec.hostside import dequantise_outputs, quantise_input
from moesaic.spec.intgraph import IntGraph
from moesaic.spec.metrics import sqnr_db


def open_host_part(graph: Graph) -> HostPart | None:
    """Return what the host runs of a graph, ready to run.

    Raises
    ------
    UserError
        ONNX Runtime refuses it.
    """
    if graph.host is None:
        return None
    part = HostPart(
        graph.host.model, f"the host's part of {graph.source}", dict.fromkeys(graph.host.outputs)
    )
    part.open()
    return part


def open_front(graph: Graph) -> HostPart | None:
    """Return what the host runs in front of a graph, ready to run.

    Raises
    ------
    UserError
        ONNX Runtime refuses it.
    """
    if graph.front is None:
        return None
    name = f"the front of {graph.source}"
    part = HostPart(graph.front.model, name, {graph.input_name: graph.input_shape})
    part.open()
    return part


def report_front(
    graph: Graph, integer: IntGraph, streams: NDArray[np.float32]
) -> dict[str, Any] | None:
    """The placement of every node of the front, why there is one, and how close the integers are
    that the accelerator begins with; ``streams`` are samples of its input [n, tokens, channels]."""
    if graph.front is None:
        return None
    codes = quantise_input(integer, streams).astype(np.float64)
    exact = streams.reshape(len(streams), -1)[:, integer.gather]
    return {
        "cut": {
            "tensor": graph.input_name,
            "shape": list(graph.input_shape),
            "sqnr_db": sqnr_db(exact, (codes * integer.input_scale).astype(np.float32)),
        },
        "inputs": {graph.front.input_name: list(graph.front.input_shape)},
        "why": graph.front.why,
        "accelerator_nodes": graph.front.nodes_behind,
        "nodes": [asdict(node) for node in graph.front.nodes],
        "macs": graph.front.macs,
    }


def report_host_part(
    graph: Graph,
    integer: IntGraph,
    rows: NDArray[np.float32],
    codes: NDArray[np.int16],
    outputs: dict[str, NDArray[np.float32]],
) -> dict[str, Any] | None:
    """The placement of every node, and how close the integers are where the host takes over.

    Parameters
    ----------
    graph, integer
        The accelerator's part in float and in integers.
    rows
        Samples [n, ...].
    codes
        The integer graph's for the samples.
    outputs
        The task's for the codes.
    """
    if graph.host is None:
        return None
    exact, given = run_outputs(graph, rows), dequantise_outputs(integer, codes)
    return {
        "cuts": [
            {
                "tensor": head.tensor,
                "shape": list(head.shape),
                "sqnr_db": sqnr_db(exact[head.tensor].astype(np.float32), given[head.tensor]),
            }
            for head in graph.heads
        ],
        "outputs": {name: [1, *array.shape[1:]] for name, array in outputs.items()},
        "accelerator_nodes": graph.host.nodes_before,
        "nodes": [asdict(node) for node in graph.host.nodes],
        "macs": graph.host.macs,
    }
