"""Which of the user's modules a layer is, where the exporter kept their names.

torch's exporter leaves with every node the path of modules that it was traced in. Other exporters,
and optimizers that write new nodes, leave nothing: then layers go by the names of their nodes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import assert_never

import onnx

from moesaic.compiler import ir
from moesaic.compiler.frontend.nodes import is_module_name, module_path, node_name

TAKEN = {"embed", "head"}
"""Names that are no layer's."""


def name_layers(layers: Sequence[ir.Layer], nodes: Iterable[onnx.NodeProto]) -> None:
    """Set ``module`` of the layers whose modules are known, so that no two have the same.

    A layer's module is the innermost one around all its linear layers. Where two layers share it,
    because a block computes both itself, the kind of the layer follows the name; where that does
    not tell them apart either, they have none.
    """
    paths: dict[str, list[str] | None] = {}
    for node in nodes:
        name = node_name(node)
        paths[name] = None if name in paths else module_path(node)
    found = [_common([paths.get(name) for name in _nodes(layer)]) for layer in layers]
    sharing = Counter(found)
    kinds = Counter(zip(found, map(ir.layer_kind, layers), strict=True))
    crowded = {module for (module, _), count in kinds.items() if count > 1}
    names = []
    for module, layer in zip(found, layers, strict=True):
        name = module if sharing[module] == 1 else f"{module}.{ir.layer_kind(layer)}"
        good = module and module not in crowded and is_module_name(name)
        names.append(name if good and name not in TAKEN else "")
    for name, layer in zip(names, layers, strict=True):
        layer.module = name if names.count(name) == 1 else ""


def _common(paths: Sequence[list[str] | None]) -> str:
    """The innermost module that all paths go through; "" for none."""
    known = [path for path in paths if path is not None]
    if not known or len(known) < len(paths):
        return ""
    module = ""
    for names in zip(*known, strict=False):
        if len(set(names)) > 1:
            break
        module = names[0]
    return module


def _nodes(layer: ir.Layer) -> list[str]:
    """Names of the nodes of a layer's linear layers, and of the choice between experts."""
    match layer:
        case ir.Attention():
            return [layer.query.name, layer.key.name, layer.value.name, layer.output.name]
        case ir.Mlp():
            return [linear.name for linear in layer.linears]
        case ir.Renorm():
            return [layer.name]
        case ir.Moe():
            # Experts of one node have no nodes of their own: com.microsoft.MoE is the layer's.
            names = [linear.name for expert in layer.experts for linear in expert.linears]
            inside = [name for name in names if not name.startswith(f"{layer.name}.")]
            return [layer.name, layer.gate.name, *inside]
        case _:
            assert_never(layer)
