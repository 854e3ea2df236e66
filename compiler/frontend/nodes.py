"""What is asked of single ONNX nodes everywhere: names, domains, what they read."""

from __future__ import annotations

import onnx


def describe(node: onnx.NodeProto) -> str:
    """Return how messages name a node."""
    return f"node {node_name(node)!r} ({node.op_type})"


def node_name(node: onnx.NodeProto) -> str:
    """Return a node's name, or that of its first output where it has none."""
    return str(node.name or next(iter(node.output), "?"))


def first_output(node: onnx.NodeProto) -> str:
    """Return the first output that a node has: unlike its name, no other node's."""
    return next(name for name in node.output if name)


def standard_domain(node: onnx.NodeProto) -> str:
    """Return a node's domain, "" being ONNX's own under either of its names."""
    return "" if node.domain == "ai.onnx" else str(node.domain)


def reads(node: onnx.NodeProto) -> list[str]:
    """Return the names of the values that a node reads, also from within its subgraphs."""
    names = [name for name in node.input if name]
    for attribute in node.attribute:
        for graph in (attribute.g, *attribute.graphs):
            own = {value.name for value in graph.input}
            own |= {tensor.name for tensor in graph.initializer}
            own |= {name for inner in graph.node for name in inner.output}
            inside = [name for inner in graph.node for name in reads(inner)]
            names += [name for name in inside if name not in own]
    return names
