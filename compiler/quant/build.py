"""The integer graph of one task from its folded float graph and the scales."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import replace
from typing import assert_never

import numpy as np
from numpy.typing import NDArray

from moesaic.compiler import ir
from moesaic.compiler.points import (
    ALL_FEATURES,
    WIDE_KINDS,
    Site,
    first_layer,
    mlp_hidden,
    norm_point,
    sites,
    wide_name,
    wide_points,
)
from moesaic.compiler.quant.feedback import round_half_up
from moesaic.compiler.quant.linear import ACCUMULATOR_MAX, Inputs, quantise_linear
from moesaic.compiler.quant.options import QuantOptions
from moesaic.compiler.quant.scales import SCORE_OCTAVES, Scales
from moesaic.compiler.quant.share import digest
from moesaic.compiler.threads import map_on_cores
from moesaic.spec import semantics
from moesaic.spec.errors import UserError
from moesaic.spec.formats import (
    CORRECTION_BITS,
    FEW_WEIGHT_BITS,
    INT8_LARGEST,
    INT16_LARGEST,
    SIGMOID_FRACTION_BITS,
    UINT8_LARGEST,
    WEIGHT_BITS,
)
from moesaic.spec.graph_sizes import count_macs
from moesaic.spec.intgraph import (
    EPSILON_BITS,
    IntActivation,
    IntAttention,
    IntDense,
    IntEmbed,
    IntGraph,
    IntHead,
    IntLayer,
    IntLinear,
    IntMlp,
    IntMoe,
    IntNorm,
    IntRenorm,
    IntRotary,
    IntTokens,
    Scale,
    head_name,
)

WIDE_STEPS = 256
"""Steps of the 16-bit normalised row in one step of the 8-bit one."""

Done = dict[tuple[str, float, float, int, int, int, int], IntLinear]
"""(digest of the float layer, input step, output step, code of the input's zero, largest magnitude
of an input code, inputs in 16 bits, bits of the weights) to the integer layer."""


class Builder:
    """Quantises the layers of one task.

    Parameters
    ----------
    task, graph
        The task's name and float graph, norms folded.
    scales
        One real value per step of every point.
    options
        What is done to weights.
    done
        Linear layers of the tasks before, and where this task's go: equal layers with equal
        scales become one object.
    wide
        Points that are held in 16 bits: normalised rows (``3.norm``), queries (``3.query``),
        attended rows (``3.attention``) and hidden rows (``5.hidden``, ``7.expert2.hidden``), of
        which a number of channels may follow (``5.hidden:64``).
    few
        Roles of linear layers whose weights have four bits.

    Raises
    ------
    ValueError
        ``wide`` names something else.
    """

    def __init__(
        self,
        task: str,
        graph: ir.Graph,
        scales: Scales,
        options: QuantOptions,
        done: Done,
        wide: Collection[str] = (),
        few: Collection[str] = (),
    ) -> None:
        self.few = few
        self.task, self.graph, self.scales, self.done = task, graph, scales, done
        self.options, self.wide = options, wide_points(graph, wide)
        may = set(may_be_wide(graph))
        for point, count in self.wide.items():
            if point not in may or (count != ALL_FEATURES and not point.endswith("hidden")):
                raise ValueError(
                    "wide must name normalised rows, queries, attended or hidden rows, not"
                    f" {wide_name(point, count)!r}"
                )
        self.sites = {site.role: site for site in sites(graph)}
        self.residuals = [scales.residual(task, point) for point in ir.stream_points(graph.layers)]
        """Steps of the residual stream in front of the first layer and behind each."""

    def build(self) -> IntGraph:
        """Quantise the whole task.

        Raises
        ------
        UserError
            A sum would leave int32, or a factor its field; the message names the layer.
        """
        graph = self.graph
        embed = self._embed()
        layers = tuple(self._layer(number, layer) for number, layer in enumerate(graph.layers))
        heads = tuple(self._head(number, head) for number, head in enumerate(graph.heads))
        return IntGraph(
            task=self.task,
            input_name=graph.input_name,
            input_shape=graph.input_shape,
            input_scale=self.scales.input(self.task)[0],
            input_zero=self.scales.input(self.task)[1],
            gather=graph.embed.gather,
            residual_scale=self.residuals[0],
            embed=embed,
            layers=layers,
            heads=heads,
            macs=count_macs(embed, layers, heads, len(graph.embed.gather)),
        )

    def _embed(self) -> IntEmbed | IntTokens:
        if isinstance(self.graph.embed, ir.Tokens):
            return IntTokens(self.graph.tokens, self.graph.channels)
        initial = round_half_up(self.graph.embed.initial.astype(np.float64) / self.residuals[0])
        codes = np.clip(initial, -(1 << 15), (1 << 15) - 1).astype(np.int16)
        source, zero = self.scales.input(self.task)
        linear = self._linear("embed", source, self._addend(-1), zero)
        return IntEmbed(linear, codes, self.graph.embed.first_row)

    def _addend(self, number: int) -> float:
        """Step of what layer ``number`` adds to the residual stream; -1 is the embedding."""
        return self.residuals[number + 1] / (1 << semantics.RESIDUAL_GUARD_BITS)

    def _layer(self, number: int, layer: ir.Layer) -> IntLayer:
        rows = norm_point(self.graph.layers, number)
        match layer:
            case ir.Attention():
                return self._attention(number, layer, rows)
            case ir.Mlp():
                return IntDense(
                    norm=self._norm(rows, layer.norm),
                    mlp=self._mlp(number, layer, None),
                    name=ir.layer_label(number, layer),
                    wide=rows in self.wide,
                    parallel=layer.parallel,
                    tokens=layer.tokens,
                )
            case ir.Moe():
                return self._moe(number, layer, rows)
            case ir.Renorm():
                return self._renorm(number, layer)
            case _:
                assert_never(layer)

    def _attention(self, number: int, layer: ir.Attention, rows: str) -> IntAttention:
        wide_query = f"{number}.query" in self.wide
        prove_attention(layer, self.graph.tokens, wide_query)
        step = {
            part: self.scales.int8(self.task, f"{number}.{part}")
            for part in ("query", "key", "value", "attention")
        }
        wide_attended = f"{number}.attention" in self.wide
        for part, is_wide in (("query", wide_query), ("attention", wide_attended)):
            if is_wide:
                step[part] = self.scales.wide(self.task, f"{number}.{part}")
        target = dict(step)
        if layer.rotary is not None:
            # What is rotated has steps of 16 bits, or 256ths of those of 8.
            target["query"] /= 1 if wide_query else WIDE_STEPS
            target["key"] /= WIDE_STEPS
        query, key, value = (
            self._from_norm(rows, f"{number}.{part}", target[part])
            for part in ("query", "key", "value")
        )
        score = step["query"] * step["key"] * layer.scale * SCORE_OCTAVES
        return IntAttention(
            norm=self._norm(rows, layer.norm),
            query=query,
            key=key,
            value=value,
            output=self._linear(
                f"{number}.output",
                step["attention"],
                self._addend(number),
                limit=INT16_LARGEST if wide_attended else None,
            ),
            heads=layer.heads,
            head_dim=layer.head_dim,
            value_dim=layer.value_dim,
            softmax=_scale(score, f"scores of {layer.name}"),
            scale=_scale(step["value"] / step["attention"], f"attention of {layer.name}"),
            name=ir.layer_label(number, layer),
            wide=rows in self.wide,
            wide_query=wide_query,
            wide_attended=wide_attended,
            parallel=layer.parallel,
            rotary=None
            if layer.rotary is None
            else IntRotary.of(layer.rotary.cosine, layer.rotary.sine),
        )

    def _moe(self, number: int, layer: ir.Moe, rows: str) -> IntMoe:
        logit = self.scales.logits(self.task, number)
        return IntMoe(
            norm=self._norm(rows, layer.norm),
            gate=self._linear(f"{number}.gate", self._norm_step(rows), logit),
            top_k=layer.top_k,
            renormalise=layer.renormalise,
            sigmoid=layer.sigmoid,
            corrections=self._corrections(layer),
            softmax=_scale(logit * SCORE_OCTAVES, f"logits of {layer.name}"),
            experts=tuple(
                map_on_cores(lambda e: self._mlp(number, layer, e), range(len(layer.experts)))
            ),
            name=ir.layer_label(number, layer),
            wide=rows in self.wide,
            parallel=layer.parallel,
        )

    def _corrections(self, layer: ir.Moe) -> NDArray[np.int32] | None:
        """Codes around zero: only differences between experts count."""
        if layer.corrections is None:
            return None
        values = layer.corrections.astype(np.float64)
        values = values - (values.max() + values.min()) / 2
        codes = np.round(np.ldexp(values, SIGMOID_FRACTION_BITS))
        most = (1 << CORRECTION_BITS - 1) - 1
        if np.abs(codes).max() > most:
            raise UserError(
                f"{self.graph.source}: node {layer.name!r} adds {np.ptp(values):g} more to the"
                " score of one expert than to that of another for the choice, at most"
                f" {2 * np.ldexp(most, -SIGMOID_FRACTION_BITS):g} is possible: no sigmoid makes up"
                " for that, so leave out experts that are never chosen"
            )
        return codes.astype(np.int32)

    def _renorm(self, number: int, layer: ir.Renorm) -> IntRenorm:
        source, target = self._norm_step(f"{number}.norm"), self._addend(number)
        first = self._linear(f"{number}.linear", source, target)
        linears = [first]
        if np.count_nonzero(layer.linear.weight - np.diag(np.diag(layer.linear.weight))):
            # All that follows is made of it, and it is seldom: what 8 bits lose comes after it.
            factor = np.ldexp(first.multiplier.astype(np.float64), -first.shift.astype(np.int32))
            weight = layer.linear.weight - first.weight * (factor * target / source)[:, None]
            bias = layer.linear.bias - first.bias * factor * target
            rest = replace(
                layer.linear, weight=weight.astype(np.float32), bias=bias.astype(np.float32)
            )
            linears.append(self._linear(f"{number}.linear", source, target, linear=rest))
        return IntRenorm(
            norm=self._norm(f"{number}.norm", layer.norm),
            linears=tuple(linears),
            residual_scale=self.residuals[number + 1],
            name=ir.layer_label(number, layer),
        )

    def _mlp(self, number: int, node: ir.Mlp | ir.Moe, expert: int | None) -> IntMlp:
        prefix = "" if expert is None else f"expert{expert}."
        point = mlp_hidden(number, expert)
        up, down = f"{number}.{prefix}up", f"{number}.{prefix}down"
        channels = self.sites[down].linear.inputs
        wide = min(self.wide.get(point, 0), channels)
        order = None
        if wide == channels:
            hidden, offset = self.scales.wide(self.task, point), 0
        elif wide:
            hidden, offset = self.scales.hidden_without(self.task, point, wide)
            order = self.scales.largest_first(self.task, point, wide)
        else:
            hidden, offset = self.scales.hidden(self.task, point)
        table, norm = self.scales.table(self.task, point), self.sites[up].source
        inner = _picked(self._from_norm(norm, up, table.step), order)
        factor = f"{number}.{prefix}factor"
        paired = factor in self.sites
        if paired:
            step, shift = self.scales.factor(self.task, point, hidden)
            inner = _joined(inner, _picked(self._from_norm(norm, factor, step), order))
            scale = Scale(1, shift)
        else:
            scale = _scale(table.fine / hidden, f"activations of {node.name}")
        return IntMlp(
            up=inner,
            activation=IntActivation.of(table),
            scale=scale,
            paired=paired,
            down=self._linear(down, hidden, self._addend(number), offset, wide=wide, order=order),
            offset=offset,
            wide=wide,
        )

    def _head(self, number: int, head: ir.Head) -> IntHead:
        name = head_name(number)
        rows, scale = f"{name}.norm", self.scales.output(self.task, ir.output_point(number))
        return IntHead(
            name=head.tensor,
            shape=head.shape,
            scale=scale,
            permutation=head.permutation,
            depth=head.depth,
            norm=self._norm(rows, head.norm),
            linear=self._from_norm(rows, name, scale),
            first_row=head.first_row,
            rows=head.rows,
            wide=rows in self.wide,
        )

    def _norm(self, point: str, norm: ir.Norm) -> IntNorm:
        channels, step = self.graph.channels, self._norm_step(point)
        residual = self.residuals[first_layer(self.graph, point)]
        if norm.plain:
            factor = residual / (step * channels)
            return IntNorm(channels, 0, _scale(factor, f"rows of {norm.name}"), plain=True)
        epsilon = round(channels**2 * norm.epsilon / residual**2)
        if epsilon >= 1 << EPSILON_BITS:
            raise UserError(
                f"norm {norm.name} must have an epsilon far below the residual's squares,"
                f" not {norm.epsilon!r}: its input is next to zero on all samples"
            )
        return IntNorm(channels, epsilon, _scale(1.0 / step, f"norm {norm.name}"))

    def _norm_step(self, point: str) -> float:
        """Step of the 16-bit normalised rows; that of the int8 rows is 256 times as large."""
        if point in self.wide:
            return self.scales.wide(self.task, point)
        return self.scales.int8(self.task, point) / WIDE_STEPS

    def _from_norm(self, point: str, role: str, target: float) -> IntLinear:
        """A linear layer of normalised rows, in 8 or 16 bits."""
        if point in self.wide:
            return self._linear(role, self._norm_step(point), target, limit=INT16_LARGEST)
        return self._linear(role, self.scales.int8(self.task, point), target)

    def _linear(
        self,
        role: str,
        source: float,
        target: float,
        zero: int = 0,
        *,
        limit: int | None = None,
        wide: int = 0,
        order: NDArray[np.int64] | None = None,
        linear: ir.Linear | None = None,
    ) -> IntLinear:
        """Quantise a layer once; ``limit`` is the largest input code if not that of its site, and
        its inputs come in another ``order``, the first ``wide`` of them in 16 bits. Another
        ``linear`` layer may take its place."""
        site: Site = self.sites[role]
        if linear is not None:
            site = replace(site, linear=linear)
        if limit is not None:
            site = replace(site, input_limit=limit)
        if order is not None:
            weight = site.linear.weight[:, order]
            site = replace(site, linear=replace(site.linear, weight=weight))
        bits = FEW_WEIGHT_BITS if role in self.few else WEIGHT_BITS
        key = (digest(site), source, target, zero, site.input_limit, wide, bits)
        if key not in self.done:
            seen = self.scales.moments(self.task, site.source)
            covariance = seen.covariance(site.linear.inputs)
            mean = seen.mean(site.linear.inputs)
            if order is not None:
                covariance, mean = covariance[np.ix_(order, order)], mean[order]
            inputs = Inputs(covariance, mean, self.options.feedback, self.options.correct)
            self.done[key] = quantise_linear(site, source, target, inputs, zero, wide, bits)
        return self.done[key]


def _picked(linear: IntLinear, order: NDArray[np.int64] | None) -> IntLinear:
    """The layer with its outputs in another order."""
    if order is None:
        return linear
    return replace(
        linear,
        weight=linear.weight[order],
        bias=linear.bias[order],
        multiplier=linear.multiplier[order],
        shift=linear.shift[order],
    )


def _joined(first: IntLinear, second: IntLinear) -> IntLinear:
    """One layer with the outputs of both."""
    return replace(
        first,
        weight=np.concatenate([first.weight, second.weight]),
        bias=np.concatenate([first.bias, second.bias]),
        multiplier=np.concatenate([first.multiplier, second.multiplier]),
        shift=np.concatenate([first.shift, second.shift]),
        weight_bits=max(first.weight_bits, second.weight_bits),
    )


def may_be_wide(graph: ir.Graph) -> Iterator[str]:
    """Points that can be held in 16 bits."""
    for site in sites(graph):
        yield from (p for p in (site.source, site.target) if p.endswith(WIDE_KINDS))


def prove_attention(layer: ir.Attention, tokens: int, wide_query: bool = False) -> None:
    """Q*K^T and P*V have no weights: their largest sums follow from the shapes alone.

    Raises
    ------
    UserError
        A sum could leave int32.
    """
    score = (INT16_LARGEST if wide_query else INT8_LARGEST) * INT8_LARGEST
    mixed = UINT8_LARGEST * INT8_LARGEST
    if max(tokens * mixed, layer.head_dim * score) > ACCUMULATOR_MAX:
        raise UserError(
            f"attention {layer.name} must have at most {ACCUMULATOR_MAX // mixed} tokens"
            f" and {ACCUMULATOR_MAX // score} dimensions per head for its sums to fit"
            f" 32 bits, not {tokens} and {layer.head_dim}: choose a smaller model"
        )


def _scale(value: float, what: str) -> Scale:
    try:
        return Scale.of(value)
    except ValueError as error:
        raise UserError(f"{what} have no integer scale ({error}): check the samples") from error
