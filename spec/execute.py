"""Runs an integer graph in torch: the oracle for the gateware and the CPU/GPU device.

Exact on every device: the same codes in give the same codes out, bit for bit. All frames of a
chunk, all tokens and all heads are computed at once.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from moesaic.spec import kernels, semantics
from moesaic.spec.exhaustive import unreachable
from moesaic.spec.formats import (
    ADDEND_BITS,
    GATE_FRACTION_BITS,
    INT8_LARGEST,
    INT16_LARGEST,
    LOGIT_BITS,
    RESIDUAL_BITS,
    RESIDUAL_GUARD_BITS,
)
from moesaic.spec.graph_sizes import frame_values
from moesaic.spec.intgraph import (
    InputCodes,
    IntAttention,
    IntDense,
    IntEmbed,
    IntGraph,
    IntMoe,
    IntRenorm,
    head_name,
)
from moesaic.spec.precision import exact_float32
from moesaic.spec.prepared import Attention, Linear, Mlp

Observe = Callable[[str, Tensor], None]

CHUNK_VALUES = {"cpu": 1 << 21, "cuda": 1 << 25}
"""Most values of the widest tensor of a chunk, by kind of device; a chunk needs memory for a
handful of float64 tensors of this size (16 and 256 MiB each). It should give every expert enough
tokens for an efficient product; beyond that, a processor gains nothing by leaving its caches."""


class _Graph:
    """A graph's constants on a device, layer by layer."""

    def __init__(self, graph: IntGraph, device: torch.device) -> None:
        if isinstance(graph.embed, IntEmbed):
            self.embed = Linear([graph.embed.linear], ADDEND_BITS, device)
            self.initial = torch.tensor(graph.embed.initial, dtype=torch.float64, device=device)
        self.heads = [
            Linear([head.linear], RESIDUAL_BITS, device, _largest(head.wide))
            for head in graph.heads
        ]
        self.one = torch.tensor(2.0**-RESIDUAL_GUARD_BITS, device=device).double()
        self.attention: dict[int, Attention] = {}
        self.gates: dict[int, Linear] = {}
        self.renorms: dict[int, list[Linear]] = {}
        self.mlps: dict[int, list[Mlp]] = {}
        for index, layer in enumerate(graph.layers):
            match layer:
                case IntAttention():
                    self.attention[index] = Attention(layer, graph.tokens, device)
                case IntDense():
                    largest = _largest(layer.wide)
                    self.mlps[index] = [Mlp(layer.mlp, device, largest)]
                case IntMoe():
                    self.gates[index] = Linear([layer.gate], LOGIT_BITS, device, INT16_LARGEST)
                    largest = _largest(layer.wide)
                    self.mlps[index] = [Mlp(expert, device, largest) for expert in layer.experts]
                case IntRenorm():
                    self.renorms[index] = [
                        Linear([linear], ADDEND_BITS, device, INT16_LARGEST)
                        for linear in layer.linears
                    ]
                case _:
                    unreachable(layer)


def _largest(wide: bool) -> int:
    """Largest magnitude in a layer's normalised rows."""
    return INT16_LARGEST if wide else INT8_LARGEST


class Executor:
    """An integer graph made ready for one torch device.

    Parameters
    ----------
    graph
        The task to run. Its constants are converted and sent to the device by the first run.
    device
        A torch device name: ``cpu`` or ``cuda``.

    Attributes
    ----------
    chunk_frames
        Frames computed at once; a run of more takes several rounds, so that memory is bounded.
    """

    def __init__(self, graph: IntGraph, device: str = "cpu") -> None:
        self.graph = graph
        self.device = torch.device(device)
        self.chunk_frames = max(1, CHUNK_VALUES[self.device.type] // frame_values(graph))

    @cached_property
    def _ready(self) -> _Graph:
        return _Graph(self.graph, self.device)

    def run(self, patches: InputCodes, observe: Observe | None = None) -> NDArray[np.int16]:
        """Run input codes [frames, patches, inputs] to int16 codes [frames, codes], those of
        all heads one behind the other.

        ``observe(name, value)`` sees intermediate integers, int64: those of every frame by
        itself, a name's frames in their order.

        Raises
        ------
        RuntimeError
            torch failed: out of memory, or the device is lost.
        """

        def watch(name: str, value: Tensor) -> None:
            if observe is not None:
                for frame in value:
                    observe(name, frame.to(torch.int64))

        result = np.empty((len(patches), self.graph.codes), np.int16)
        with exact_float32(self.device):
            for start in range(0, len(patches), self.chunk_frames):
                part = slice(start, start + self.chunk_frames)
                codes = torch.tensor(patches[part]).to(self.device)
                result[part] = self._chunk(codes.float(), watch).to(torch.int16).cpu().numpy()
        return result

    def _chunk(self, patches: Tensor, watch: Observe) -> Tensor:
        """Codes [frames, patches, inputs] to codes [frames, codes]."""
        graph, ready = self.graph, self._ready
        if isinstance(graph.embed, IntEmbed):
            residual = ready.initial.repeat(len(patches), 1, 1)
            rows = residual[:, graph.embed.first_row :][:, : patches.shape[1]]
            rows.copy_(kernels.residual_add(rows, ready.embed(patches), ready.one))
        else:
            residual = patches.double()
        watch("embed", residual)
        outputs: list[Tensor | None] = [None] * len(graph.heads)
        self._tap(0, residual, outputs, watch)
        for index, layer in enumerate(graph.layers):

            def inside(name: str, value: Tensor, index: int = index) -> None:
                watch(f"{index}.{name}", value)

            if not layer.parallel:
                narrow, wide = kernels.layer_norm(residual, layer.norm)
                inside("norm", narrow)
            rows = wide if layer.wide else narrow
            match layer:
                case IntAttention():
                    addend = self._attention(rows, ready.attention[index], inside)
                    residual = kernels.residual_add(residual, addend, ready.one)
                case IntDense():
                    residual = self._dense(residual, rows, layer, ready.mlps[index][0])
                case IntMoe():
                    logits, mlps = ready.gates[index](wide), ready.mlps[index]
                    residual = self._moe(residual, rows, logits, layer, mlps, inside)
                case IntRenorm():
                    residual = torch.zeros_like(residual)
                    for linear in ready.renorms[index]:
                        residual = kernels.residual_add(residual, linear(rows), ready.one)
                case _:
                    unreachable(layer)
            inside("residual", residual)
            self._tap(index + 1, residual, outputs, watch)
        return torch.cat([output.flatten(1) for output in outputs if output is not None], 1)

    def _tap(
        self, depth: int, residual: Tensor, outputs: list[Tensor | None], watch: Observe
    ) -> None:
        """Compute the heads that read the stream behind ``depth`` layers."""
        for number, head in enumerate(self.graph.heads):
            if head.depth == depth:
                rows = residual[:, head.first_row : head.first_row + head.rows]
                narrow, wide = kernels.layer_norm(rows, head.norm)
                watch(f"{head_name(number)}.norm", narrow)
                outputs[number] = self._ready.heads[number](wide if head.wide else narrow)

    def _dense(self, residual: Tensor, rows: Tensor, layer: IntDense, mlp: Mlp) -> Tensor:
        """Add to all rows, or to those of the layer's tokens."""
        one = self._ready.one
        if layer.tokens is None:
            return kernels.residual_add(residual, mlp(rows), one)
        mine = torch.from_numpy(layer.tokens).to(self.device)
        added = kernels.residual_add(residual[:, mine], mlp(rows[:, mine]), one)
        return residual.index_copy(1, mine, added)

    def _corrections(self, codes: NDArray[np.int32]) -> Tensor:
        return torch.from_numpy(codes.astype(np.int64)).to(self.device)

    def _attention(self, normalised: Tensor, layer: Attention, watch: Observe) -> Tensor:
        query, key, value = layer.split(normalised)
        watch("query", query)
        watch("key", key)
        watch("value", value)
        probability, attended = layer.attend(query, key, value)
        for head in range(layer.heads):
            watch(f"head{head}.probability", probability[:, head])
        watch("attended", attended)
        return layer.output(attended)

    def _moe(
        self,
        residual: Tensor,
        normalised: Tensor,
        logits: Tensor,
        layer: IntMoe,
        experts: list[Mlp],
        watch: Observe,
    ) -> Tensor:
        """Route, run every expert once on its tokens of all frames, add in ascending order."""
        frames, tokens, channels = residual.shape
        watch("logits", logits)
        chosen, weights = semantics.route(
            logits.flatten(0, 1).long(),
            layer.top_k,
            layer.renormalise,
            layer.softmax.multiplier,
            layer.softmax.shift,
            layer.sigmoid,
            None if layer.corrections is None else self._corrections(layer.corrections),
        )
        watch("chosen", chosen.unflatten(0, (frames, tokens)))
        watch("weights", weights.unflatten(0, (frames, tokens)))
        ascending, slot = chosen.sort(-1)
        weights = weights.gather(1, slot).unflatten(0, (frames, tokens)).double()
        weights *= 2.0 ** -(GATE_FRACTION_BITS + RESIDUAL_GUARD_BITS)
        # Pairs of token and slot, sorted by expert: every expert's tokens are one slice. Their
        # counts are the only values that the host waits for.
        grouped, pairs = ascending.flatten().sort(stable=True)
        numbers = torch.arange(len(experts), device=self.device)
        counts = (grouped[:, None] == numbers).sum(0).tolist()
        parts = normalised.flatten(0, 1)[pairs // layer.top_k].split(counts)
        results = [expert(part) for expert, part in zip(experts, parts, strict=True) if len(part)]
        addend = residual.new_empty(len(pairs), channels)
        addend[pairs] = torch.cat(results)
        addend = addend.unflatten(0, (frames, tokens, layer.top_k))
        for place in range(layer.top_k):
            weight = weights[:, :, place, None]
            residual = kernels.residual_add(residual, addend[:, :, place], weight)
        return residual
