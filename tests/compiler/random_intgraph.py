"""Random integer graphs: no float model behind them, every integer path exercised."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moesaic.spec.activations import ACTIVATIONS, choose_step, tabulate
from moesaic.spec.formats import FEW_WEIGHT_BITS, FEW_WEIGHT_LARGEST
from moesaic.spec.graph_sizes import count_macs
from moesaic.spec.intgraph import (
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
)


@dataclass(frozen=True)
class Shape:
    """Sizes of a random model; ``moe`` says for each block whether its MLP is a mixture."""

    tokens: int = 9
    patches: int = 8
    patch_inputs: int = 20
    channels: int = 24
    heads: int = 3
    head_dim: int = 8
    value_dim: int = 8
    hidden: int = 40
    expert_hidden: int = 20
    experts: int = 5
    top_k: int = 2
    renormalise: bool = False
    moe: tuple[bool, ...] = (False, True)
    outputs: int = 30
    head_rows: int = 8
    head_first: int = 1
    renorm: float = 0.0
    """Share of places between two layers, and in front of the first, at which the stream begins
    anew."""
    wide: float = 0.3
    """Share of normalised rows, and of hidden rows in part or whole, in 16 bits."""
    functions: float = 0.2
    """Share of MLPs that have an activation of their own and not the graph's."""
    pairs: float = 0.3
    """Share of MLPs, all experts of a layer alike, that multiply pairs of hidden channels."""
    rotary: float = 0.0
    """Share of attention layers that rotate queries and keys, all by one table or by their own."""
    parallel: tuple[int, ...] = ()
    """Layers that read the rows of the one in front; each block has two layers."""
    from_host: bool = False
    """Whether the input is the residual stream, and there are no patches."""
    lists: float = 0.0
    """Share of dense MLPs in whose place are up to four on one norm, each for some of the tokens
    (:func:`random_lists`)."""
    taps: float = 0.0
    """Share of places on the stream, the last one among them, that have one more head."""


def random_linear(rng: np.random.Generator, outputs: int, inputs: int, gain: float) -> IntLinear:
    """Weights over the full range; the scale maps the accumulators' spread to ``gain``."""
    weight = rng.integers(-128, 128, (outputs, inputs)).astype(np.int8)
    scales = [Scale.of(gain / (74 * 40 * inputs**0.5) * s) for s in rng.uniform(0.5, 2, outputs)]
    return IntLinear(
        weight,
        rng.integers(-20000, 20000, outputs).astype(np.int32),
        np.array([s.multiplier for s in scales], np.uint16),
        np.array([s.shift for s in scales], np.uint8),
    )


def valueless_linear(rng: np.random.Generator, outputs: int, inputs: int, gain: float) -> IntLinear:
    """Sizes without values, and without memory for them."""

    def zeros(dtype: type, *sizes: int) -> np.ndarray:
        return np.broadcast_to(np.zeros((), dtype), sizes)

    return IntLinear(
        zeros(np.int8, outputs, inputs),
        zeros(np.int32, outputs),
        zeros(np.uint16, outputs),
        zeros(np.uint8, outputs),
    )


def random_angles(shape: Shape, rng: np.random.Generator) -> IntRotary:
    """None for the first tokens, and of some tables longer than 1."""
    angle = rng.uniform(-np.pi, np.pi, (shape.tokens, max(1, shape.head_dim // 2)))
    angle[: rng.integers(0, shape.tokens)] = 0
    size = 1 << 14 if rng.random() < 0.7 else 20000
    cosine, sine = (np.round(size * f(angle)).astype(np.int16) for f in (np.cos, np.sin))
    return IntRotary(cosine, sine)


def random_lists(rng: np.random.Generator, tokens: int) -> list[NDArray[np.int64]]:
    """One to four lists of tokens, none of them empty: ranges, any, or such that share none."""
    count, kind = int(rng.integers(1, 5)), rng.integers(3)
    if kind == 0:
        ends = np.sort(rng.integers(0, tokens + 1, (count, 2)), axis=1)
        found = [np.arange(*pair) for pair in ends]
    elif kind == 1:
        found = [np.flatnonzero(rng.random(tokens) < rng.random()) for _ in range(count)]
    else:
        of = rng.integers(0, count + rng.integers(2), tokens)
        found = [np.flatnonzero(of == number) for number in range(count)]
    return [part for part in found if part.size] or [np.arange(tokens)]


def random_intgraph(
    shape: Shape, seed: int = 0, task: str = "task", *, values: bool = True
) -> IntGraph:
    """A random graph whose activations stay lively: neither all zero nor all saturated.

    Without ``values``, linear layers have sizes only: enough to schedule, and quick.
    """
    rng, forms = np.random.default_rng(seed), np.random.default_rng([seed, 1])
    kinds, gates = np.random.default_rng([seed, 2]), np.random.default_rng([seed, 3])
    linear = random_linear if values else valueless_linear
    c = shape.channels

    def is_wide() -> bool:
        return bool(forms.random() < shape.wide)

    def norm() -> IntNorm:
        return IntNorm(c, int(rng.integers(0, 10**6)), Scale.of(rng.uniform(6000, 12000)))

    def normalised(outputs: int, gain: float, wide: bool) -> IntLinear:
        return linear(rng, outputs, c, gain / 256 if wide else gain)

    def activation() -> IntActivation:
        name = str(kinds.choice(sorted(ACTIVATIONS)))
        return IntActivation.of(tabulate(name, choose_step(name, float(kinds.uniform(1, 60)))))

    common = activation()

    def mlp(hidden: int, wide_rows: bool, paired: bool) -> IntMlp:
        wide, offset = is_wide(), int(forms.choice([0, forms.integers(1, 30), 128, 255]))
        count = int(forms.choice([hidden, forms.integers(1, max(1, hidden) + 1)])) if wide else 0
        up = normalised(2 * hidden if paired else hidden, 8000, wide_rows)
        function = activation() if kinds.random() < shape.functions else common
        if count == hidden:
            down = linear(rng, c, hidden, 2e5 / 256)
            scale = Scale(1, 14) if paired else Scale.of(1.024)
            return IntMlp(up, function, scale, down, wide=count, paired=paired)
        # Of the others some saturate where some are in 16 bits.
        down = linear(rng, c, hidden, 2e5 / 8 if count else 2e5)
        taken_out = down.bias - offset * down.weight[:, count:].sum(1, dtype=np.int32)
        scale = Scale.of(0.032 if count else 0.004)
        if paired:
            scale = Scale(1, 18 if count else 21)
        down = replace(down, bias=taken_out)
        return IntMlp(up, function, scale, down, offset, count, paired)

    def renorms() -> Iterator[IntRenorm]:
        if not shape.renorm or len(layers) in shape.parallel or forms.random() >= shape.renorm:
            return
        made = random_linear(rng, c, c, 2e5 / 256)  # what is zero decides the schedule
        if forms.random() < 0.7:
            made = replace(made, weight=np.diag(np.diag(made.weight)))
        before = norm()
        if forms.random() < 0.2:
            before = IntNorm(c, 0, Scale.of(forms.uniform(0.5, 2) / c), plain=True)
        made = (made, random_linear(rng, c, c, 1e3 / 256)) if forms.random() < 0.3 else (made,)
        yield IntRenorm(before, made, 1e-3, f"renorm{len(layers)}")

    layers: list[IntLayer] = []
    turns, places = np.random.default_rng([seed, 3]), np.random.default_rng([seed, 9])
    common_angles = random_angles(shape, turns)

    def rows() -> tuple[IntNorm, bool, bool]:
        """Norm of the next layer, whether it reads 16-bit rows, and whether it is parallel."""
        if len(layers) in shape.parallel:
            return layers[-1].norm, layers[-1].wide, True
        return norm(), is_wide(), False

    def corrections() -> NDArray[np.int32]:
        spread = int(gates.choice([1, 1 << 10, 1 << 16, 1 << 19]))
        return gates.integers(1 - spread, spread, shape.experts, dtype=np.int32)

    for index, mixture in enumerate(shape.moe):
        layers += renorms()
        width = shape.heads * shape.head_dim
        values = shape.heads * shape.value_dim
        before, wide, parallel = rows()
        wide_query, wide_attended = is_wide(), is_wide()
        steps = 256 if wide_query else 1
        rotary, gain = None, 40
        if shape.head_dim % 2 == 0 and turns.random() < shape.rotary:
            rotary = common_angles if turns.random() < 0.6 else random_angles(shape, turns)
            gain = 40 * 256  # 18 bits: steps of 16 bits, or 256ths of the codes'
        attended_steps = 256 if wide_attended else 1
        layers.append(
            IntAttention(
                before,
                normalised(width, gain if rotary else gain * steps, wide),
                normalised(width, gain, wide),
                normalised(values, 40, wide),
                linear(rng, c, values, 2e5 / attended_steps),
                shape.heads,
                shape.head_dim,
                shape.value_dim,
                Scale.of(rng.uniform(0.05, 0.3) / steps),
                Scale.of(rng.uniform(0.8, 2) * attended_steps),
                f"attention{index}",
                wide,
                wide_query,
                wide_attended,
                parallel,
                rotary,
            )
        )
        layers += renorms()
        before, wide, parallel = rows()
        paired = bool(kinds.random() < shape.pairs)
        if mixture:
            gate = linear(rng, shape.experts, c, 10000)
            layers.append(
                IntMoe(
                    before,
                    gate,
                    shape.top_k,
                    shape.renormalise,
                    Scale.of(rng.uniform(0.005, 0.05)),
                    tuple(mlp(shape.expert_hidden, wide, paired) for _ in range(shape.experts)),
                    f"moe{index}",
                    wide,
                    sigmoid := bool(kinds.random() < 0.4),
                    parallel,
                    corrections() if sigmoid and gates.random() < 0.5 else None,
                )
            )
        elif places.random() < shape.lists:
            for number, tokens in enumerate(random_lists(places, shape.tokens)):
                made, name = mlp(shape.hidden, wide, paired), f"mlp{index}.{number}"
                layers.append(IntDense(before, made, name, wide, parallel or number > 0, tokens))
        else:
            perceptron = mlp(shape.hidden, wide, paired)
            layers.append(IntDense(before, perceptron, f"mlp{index}", wide, parallel))
    embed: IntEmbed | IntTokens = IntEmbed(
        linear(rng, c, shape.patch_inputs, 5e5),
        rng.integers(-3000, 3000, (shape.tokens, c)).astype(np.int16),
        shape.tokens - shape.patches,
    )
    wide = is_wide()
    last, before = normalised(shape.outputs, 9000, wide), norm()
    if forms.random() < 0.3:
        before = IntNorm(c, 0, Scale.of(forms.uniform(0.5, 2) / c), plain=True)
    heads = [_head("y", len(layers), before, last, shape.head_first, shape.head_rows, wide)]
    heads += _taps(seed, shape, layers, normalised)
    # Outputs need not come in the order of their depths.
    heads = [heads[n] for n in np.random.default_rng([seed, 8]).permutation(len(heads))]
    patches, patch_inputs, input_scale = shape.patches, shape.patch_inputs, 1 / 127
    if shape.from_host:
        embed = IntTokens(shape.tokens, c)
        patches, patch_inputs, input_scale = shape.tokens, c, 1e-3
    inputs = patches * patch_inputs
    return IntGraph(
        task,
        "x",
        (1, inputs),
        input_scale,
        rng.permutation(inputs).reshape(patches, patch_inputs),
        1e-3,
        embed,
        tuple(layers),
        tuple(heads),
        count_macs(embed, tuple(layers), tuple(heads), patches),
    )


def _head(
    name: str, depth: int, norm: IntNorm, linear: IntLinear, first: int, rows: int, wide: bool
) -> IntHead:
    codes = rows * linear.outputs
    order = np.arange(codes)
    return IntHead(name, (1, codes), 1 / 32767, order, depth, norm, linear, first, rows, wide)


def _taps(
    seed: int,
    shape: Shape,
    layers: list[IntLayer],
    normalised: Callable[[int, float, bool], IntLinear],
) -> Iterator[IntHead]:
    """Heads of other sizes, of normalised rows or of the stream itself."""
    rng = np.random.default_rng([seed, 7])
    c = shape.channels
    for depth in range(len(layers) + 1):
        if depth < len(layers) and layers[depth].parallel or rng.random() >= shape.taps:
            continue
        first = int(rng.integers(0, shape.tokens))
        rows = int(rng.integers(1, shape.tokens - first + 1))
        plain, wide = bool(rng.random() < 0.5), bool(rng.random() < 0.5)
        scale = Scale.of(rng.uniform(0.5, 2) / c if plain else rng.uniform(20, 40))
        norm = IntNorm(c, 0 if plain else int(rng.integers(1, 1 << 30)), scale, plain=plain)
        outputs = int(rng.integers(1, 2 * c))
        made = normalised(outputs, 9000, wide)
        yield _head(f"tap{depth}", depth, norm, made, first, rows, wide)


def random_patches(graph: IntGraph, frames: int, seed: int = 0) -> np.ndarray:
    """Input codes [frames, patches, inputs]: int8, or int16 of a residual stream."""
    rng = np.random.default_rng(seed)
    if isinstance(graph.embed, IntTokens):
        codes = rng.integers(-8000, 8000, (frames, *graph.gather.shape)).astype(np.int16)
        codes[:, 0, :2] = np.iinfo(np.int16).min, np.iinfo(np.int16).max
        return codes
    return rng.integers(-128, 128, (frames, *graph.gather.shape)).astype(np.int8)


def in_few_bits(part: Any, rng: np.random.Generator, share: float = 1.0) -> Any:
    """The graph, or a part of it, with a ``share`` of the linear layers in four bits: a sixteenth
    of their codes, and of the sums that are requantised."""
    if isinstance(part, IntLinear):
        if rng.random() >= share:
            return part
        largest = FEW_WEIGHT_LARGEST
        return replace(
            part,
            weight=np.clip(part.weight.astype(np.int16) + 8 >> 4, -largest, largest).astype(
                np.int8
            ),
            bias=part.bias >> 4,
            shift=np.maximum(part.shift, 4) - np.uint8(4),
            weight_bits=FEW_WEIGHT_BITS,
        )
    if isinstance(part, tuple):
        return tuple(in_few_bits(item, rng, share) for item in part)
    if not is_dataclass(part):
        return part
    kept = {f.name: in_few_bits(getattr(part, f.name), rng, share) for f in fields(part)}
    return replace(part, **kept)  # type: ignore[type-var]
