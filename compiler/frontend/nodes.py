"""What is asked of single ONNX nodes everywhere: names, domains, what they read."""

from __future__ import annotations

import ast

import onnx

SCOPES = "pkg.torch.onnx.name_scopes"
"""Metadata of a node: a Python list of names from the root module ('') to the node itself."""
NAMESPACE = "namespace"
"""The same as ``name: class`` pairs with slashes between."""
LONGEST = 200
"""Characters of a name; a longer one is no module path that anybody would type."""


def describe(node: onnx.NodeProto) -> str:
    """Return how messages name a node: with the module that it comes from, where that is known."""
    inside = module_path(node)
    if inside and is_module_name(inside[-1]):
        return f"node {node_name(node)!r} ({node.op_type} in {inside[-1]})"
    return f"node {node_name(node)!r} ({node.op_type})"


def module_path(node: onnx.NodeProto) -> list[str] | None:
    """Modules around a node, the outermost first without the root; None where nothing is known."""
    metadata = {entry.key: entry.value for entry in node.metadata_props}
    try:
        if SCOPES in metadata:
            scopes = ast.literal_eval(metadata[SCOPES])
            if isinstance(scopes, list) and all(isinstance(name, str) for name in scopes):
                return [name for name in scopes[:-1] if name]
        if NAMESPACE in metadata:
            pairs = metadata[NAMESPACE].split("/")
            return [name for pair in pairs[:-1] if (name := pair.split(":")[0].strip())]
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        pass  # whatever somebody else wrote there
    return None


def is_module_name(name: str) -> bool:
    """Whether a name is one that a user would know a module by."""
    return name.isprintable() and len(name) <= LONGEST


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
