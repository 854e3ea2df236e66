"""What one program computes: a task, several frames of it, or several tasks of the same images.

Up to the first layer in which tasks differ there is one stream of each image. It is copied then,
behind itself, once for every further task: from there on layers work on the rows of all tasks, but
for gates and heads, of which each task has its own.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, is_dataclass, replace
from functools import cached_property

import numpy as np

from moesaic.spec.errors import UserError
from moesaic.spec.graph_sizes import part_macs
from moesaic.spec.intgraph import IntGraph, IntLayer, IntMoe
from moesaic.spec.joint import output_shapes


@dataclass(frozen=True)
class Joint:
    """All ``graphs`` on each of ``frames`` images.

    Raises
    ------
    UserError
        Tasks differ in their inputs or sizes, or later on in more than gates and heads; or there
        are more outputs than a program has.
    """

    graphs: tuple[IntGraph, ...]
    frames: int = 1

    def __post_init__(self) -> None:
        _ = self.common, self.outputs

    @staticmethod
    def of(work: IntGraph | Joint) -> Joint:
        """A single graph as one frame of it."""
        return work if isinstance(work, Joint) else Joint((work,))

    @property
    def graph(self) -> IntGraph:
        """The first task, for all that tasks have in common."""
        return self.graphs[0]

    @cached_property
    def common(self) -> int:
        """Layers in front of which tasks have one stream of each image."""
        first, common = self.graph, len(self.graph.layers)
        for other in self.graphs[1:]:
            where = f"tasks {first.task} and {other.task} can't be computed together"
            if not _equal(_begin(first), _begin(other)):
                raise UserError(f"{where}: their inputs or embeddings differ; run them one by one")
            if len(first.layers) != len(other.layers):
                counts = f"{len(first.layers)} and {len(other.layers)} layers"
                raise UserError(f"{where}: they have {counts}; run them one by one")
            for index, (mine, its) in enumerate(zip(first.layers, other.layers, strict=True)):
                if _equal(_unnamed(mine), _unnamed(its)):
                    continue
                common = min(common, index)
                if not _equal(_ungated(mine), _ungated(its)):
                    raise UserError(
                        f"{where}: layer {mine.name} differs in more than its gate; run them one by"
                        " one"
                    )
        while 0 < common < len(first.layers) and first.layers[common].parallel:
            common -= 1
        return common

    @property
    def divides(self) -> bool:
        """Whether tasks get streams of their own."""
        return self.common < len(self.graph.layers)

    @property
    def streams(self) -> int:
        """Streams that there are at a time, at most."""
        return self.frames * (len(self.graphs) if self.divides else 1)

    def streams_at(self, index: int) -> int:
        """Streams that layer ``index`` works on."""
        return self.frames if index < self.common else self.streams

    @property
    def tokens(self) -> int:
        """Rows of all streams."""
        return self.streams * self.graph.tokens

    @property
    def outputs(self) -> list[tuple[int, int]]:
        """Rows and columns of all outputs, in the order in which they lie in their window: by task,
        of each by frame."""
        return output_shapes(self.graphs, self.frames)

    @property
    def macs(self) -> int:
        """Multiply-accumulates of the pure models, those that tasks have in common once."""
        first = self.graph
        layers = first.layers[: self.common]
        shared = sum(part_macs(first.embed, layers, (), first.gather.shape[0]))
        return self.frames * (shared + sum(graph.macs - shared for graph in self.graphs))

    @property
    def words(self) -> str:
        """How messages call it, behind the sizes of a model: nothing for one frame of one task."""
        tasks = f"{len(self.graphs)} tasks" if len(self.graphs) > 1 else ""
        frames = f"{self.frames} frames" if self.frames > 1 else ""
        both = " of ".join(filter(None, (frames, tasks)))
        return f" of {both} together," if both else ""


def _begin(graph: IntGraph) -> tuple[object, ...]:
    """What must be equal in front of all layers."""
    return (
        graph.input_name,
        graph.input_shape,
        graph.input_scale,
        graph.input_zero,
        graph.gather,
        graph.residual_scale,
        graph.embed,
    )


def _unnamed(layer: IntLayer) -> IntLayer:
    return replace(layer, name="")


def _ungated(layer: IntLayer) -> IntLayer:
    """A layer without what each task may have of its own."""
    if not isinstance(layer, IntMoe):
        return _unnamed(layer)
    experts = len(layer.experts)
    gate = replace(
        layer.gate,
        weight=np.zeros((experts, 0), np.int8),
        bias=np.zeros(0, np.int32),
        multiplier=np.zeros(0, np.uint16),
        shift=np.zeros(0, np.uint8),
    )
    return replace(layer, name="", gate=gate)


def _equal(one: object, other: object) -> bool:
    """Whether values are equal, arrays in all their elements."""
    if one is other:
        return True
    if type(one) is not type(other):
        return False
    if isinstance(one, np.ndarray) and isinstance(other, np.ndarray):
        return one.dtype == other.dtype and np.array_equal(one, other)
    if isinstance(one, tuple) and isinstance(other, tuple):
        return len(one) == len(other) and all(map(_equal, one, other))
    if is_dataclass(one) and not isinstance(one, type):
        return all(
            _equal(getattr(one, part.name), getattr(other, part.name)) for part in fields(one)
        )
    return one == other
