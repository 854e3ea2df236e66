"""Which tensors the accelerator delivers where the host computes the rest of a model.

One tensor of each output, where all paths pass through one (``cut``). A decoder that reads several
layers has no such tensor, or one far in front; then the tensors nearest to the output that are
heads, each of the stream behind some layer.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from moesaic.compiler.frontend.cut import SUMS, UNREADABLE, Backbone, find_cut, is_data
from moesaic.compiler.frontend.host_part import host_nodes
from moesaic.compiler.frontend.nodes import describe, reads
from moesaic.compiler.frontend.recognise import read_embedding, read_layers
from moesaic.compiler.frontend.taps import Tap, last_state, place_heads, read_taps
from moesaic.compiler.frontend.trace import Trace
from moesaic.compiler.frontend.views import NotRecognised, Source, Sum, TooLarge, View


def find_boundary(traced: Trace) -> Backbone:
    """Return the backbone whose heads are all that the host's part and the outputs need.

    Raises
    ------
    NotRecognised
        There is none; the message names the node that is in the way.
    """
    tensors: dict[str, None] = {}
    obstacles = []
    for output in traced.graph.output_names:
        found, obstacle = _of_output(traced, output)
        tensors |= dict.fromkeys(found)
        obstacles.append(obstacle)
    backbone = read_backbone(traced, list(tensors))
    backbone.obstacle = next(filter(None, obstacles), "")
    return backbone


def read_backbone(traced: Trace, tensors: list[str]) -> Backbone:
    """Read the layers up to several tensors.

    Raises
    ------
    NotRecognised
        A tensor is no head, or they have no stream in common.
    """
    arena, views = traced.arena, {}
    for name in tensors:
        view = traced.values[name]
        assert isinstance(view, View)
        views[name] = view
    taps = read_taps(arena, views)
    layers, states = read_layers(arena, last_state(arena, taps))
    heads = place_heads(taps, states, layers)
    return Backbone(read_embedding(arena, states[0], traced.source), layers, heads, states)


def _of_output(traced: Trace, output: str) -> tuple[list[str], str]:
    """Return the tensors that an output needs; several only where more layers are then the
    accelerator's. And why the layer behind is not taken, if the host has layers."""
    single: Backbone | NotRecognised
    try:
        single = find_cut(traced, output)
    except TooLarge:
        raise
    except NotRecognised as error:
        single = error
    try:
        several = _Search(traced, output).run()
        depth = len(read_backbone(traced, several).layers)
        if isinstance(single, NotRecognised) or depth > len(single.layers):
            return several, ""
    except UNREADABLE:
        pass
    if isinstance(single, NotRecognised):
        raise single
    return [head.tensor for head in single.heads], single.obstacle


class _Search:
    """Goes back from an output, on all paths, to what is a head."""

    def __init__(self, traced: Trace, output: str) -> None:
        self._traced, self._output = traced, output
        self._makers = {name: node for node in traced.graph.nodes for name in node.output}
        self._layers: dict[int, int] = {}
        """Layers in front of streams that are known, by the source of the stream; 0 for none."""

    def run(self) -> list[str]:
        """Return the tensors.

        Raises
        ------
        NotRecognised
            A path reaches the input, or the host would get layers of the stream.
        """
        found: dict[str, Tap] = {}
        seen: set[str] = set()
        waiting = [self._output]
        while waiting:
            name = waiting.pop()
            if name in seen:
                continue
            seen.add(name)
            if (tap := self._tap(name)) is not None:
                found[name] = tap
            elif name == self._traced.graph.input_name:
                raise NotRecognised(f"output {self._output!r} also depends on the input itself")
            else:
                inputs = reads(self._makers[name])
                waiting += [n for n in reversed(inputs) if is_data(self._traced, n)]
        self._check(found)
        return _in_order(self._traced, found)

    def _tap(self, name: str) -> Tap | None:
        view = self._traced.values.get(name)
        if not isinstance(view, View):
            return None
        arena = self._traced.arena
        try:
            (tap,) = read_taps(arena, {name: view})
            state = last_state(arena, [tap])
            sources = arena.sources_of(state.view)
            place = max((source.start for source in sources), default=-1)
            if place not in self._layers:
                self._layers[place] = 0
                self._layers[place] = len(read_layers(arena, state)[0])
            return tap if self._layers[place] else None
        except UNREADABLE:
            return None

    def _check(self, found: Mapping[str, Tap]) -> None:
        """A layer that the accelerator does not take is refused, not left to the host: nothing may
        be added to the stream itself."""
        arena = self._traced.arena
        streams = {source.start for tap in found.values() for source in _streams(tap, self._traced)}
        for node in host_nodes(self._traced, list(found), [self._output]):
            names = [name for name in reads(node) if is_data(self._traced, name)]
            if node.op_type not in SUMS or len(names) < 2:
                continue
            for name in names:
                view = self._traced.values.get(name)
                if isinstance(view, View) and not streams.isdisjoint(
                    source.start for source in arena.sources_of(view)
                ):
                    raise NotRecognised(f"{describe(node)} adds something to the residual stream")


def _streams(tap: Tap, traced: Trace) -> Iterator[Source]:
    """The sums that a tap is of, if it is of the stream itself."""
    if tap.head is not None and tap.head.norm.plain:
        for source in traced.arena.sources_of(tap.view):
            if isinstance(source, Sum):
                yield source


def _in_order(traced: Trace, names: Mapping[str, object]) -> list[str]:
    """Return tensors in the order in which the file computes them."""
    made = [name for node in traced.graph.nodes for name in node.output]
    return [name for name in made if name in names]
