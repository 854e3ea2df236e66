"""How a model's tokens spread over its experts."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray
from torch import Tensor

from moesaic.spec.execute import Executor
from moesaic.spec.intgraph import InputCodes, IntGraph, IntMoe


def run_and_watch_routing(
    graph: IntGraph, patches: InputCodes
) -> tuple[NDArray[Any], dict[str, list[int]]]:
    """Run the integer reference and count the first frame's tokens per expert.

    Parameters
    ----------
    patches
        [frames, patches, inputs] int8 codes.

    Returns
    -------
    Output codes of all frames, and layer name to tokens of each expert.
    """
    counts: dict[str, list[int]] = {}

    def watch(name: str, value: Tensor) -> None:
        number, _, point = name.partition(".")
        if point != "chosen":
            return
        layer = graph.layers[int(number)]
        assert isinstance(layer, IntMoe)
        if layer.name not in counts:
            tokens = value.flatten().bincount(minlength=len(layer.experts))
            counts[layer.name] = tokens.tolist()

    return Executor(graph).run(patches, watch), counts
