"""The compiler's float graph: a vision transformer on one residual stream.

The frontend turns whatever ONNX expresses into these few nodes; everything behind it knows no
ONNX. Layout operators are gone: the input and output layouts are index arrays, and rows of
query, key and value weights are in head order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import assert_never

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]
IndexArray = NDArray[np.int64]


@dataclass(frozen=True)
class Given:
    """What a quantised file says of a linear layer; None where it says nothing.

    A rewrite may scale rows of the weight: the codes stay. One that scales what the layer reads or
    gives must take the step away.
    """

    codes: NDArray[np.int8] | None = None
    """[outputs, inputs], -127 to 127; each row of the file's weight is its codes times a scale."""
    source: float | None = None
    """Real value of one int8 code of what it reads."""
    source_zero: int = 0
    """The int8 code of 0 of what it reads."""
    target: float | None = None
    """Real value of one int8 code of what it gives."""


@dataclass(eq=False)
class Linear:
    """``y = x @ weight.T + bias``; weight [outputs, inputs], bias [outputs] (zeros if absent)."""

    weight: FloatArray
    bias: FloatArray
    name: str
    """ONNX node that it comes from, for messages."""
    given: Given = Given()

    @property
    def outputs(self) -> int:
        return int(self.weight.shape[0])

    @property
    def inputs(self) -> int:
        return int(self.weight.shape[1])


@dataclass(eq=False)
class Norm:
    """LayerNorm over the channels; gamma, beta [channels].

    ``plain`` stands for none: the rows as they are, with gamma 1 and beta 0.
    """

    gamma: FloatArray
    beta: FloatArray
    epsilon: float
    name: str
    plain: bool = False


@dataclass(eq=False)
class Rotary:
    """Cosine and sine [tokens, pairs]: of every head of queries and keys, channels i and i + pairs
    become ``x[i] * cos - x[i + pairs] * sin`` and ``x[i + pairs] * cos + x[i] * sin``."""

    cosine: FloatArray
    sine: FloatArray


@dataclass
class Attention:
    """``residual += output(softmax(scale * q @ k.T) @ v)`` per head on the normalised residual.

    ``query``, ``key``, ``value`` have ``heads * head_dim`` outputs, head after head; ``output``
    has as many inputs in the same order. A model's fourth dimension per head for v may differ
    from q and k: ``value_dim``.
    """

    norm: Norm
    query: Linear
    key: Linear
    value: Linear
    output: Linear
    heads: int
    head_dim: int
    value_dim: int
    scale: float
    name: str
    module: str = ""
    """The user's module that it is, "" where the file does not say."""
    parallel: bool = False
    """Whether it reads the rows that the layer in front reads, not that layer's result: both are
    branches of one residual update. Their norms may differ in gamma and beta, in nothing else."""
    rotary: Rotary | None = None
    """Rotation of queries and keys behind their linear layers, alike in all heads."""


@dataclass
class Mlp:
    """``residual += down(activation(up(norm(residual))))``, of all rows or some; with a ``factor``,
    a linear layer of the same rows, ``down(activation(up(...)) * factor(...))``."""

    norm: Norm
    up: Linear
    down: Linear
    name: str
    activation: str = "gelu"
    """Of ``spec.activations``."""
    factor: Linear | None = None
    module: str = ""
    """As :attr:`Attention.module`."""
    parallel: bool = False
    """As :attr:`Attention.parallel`; of no expert."""
    tokens: IndexArray | None = None
    """Rows of the stream that it adds to, ascending; None for all. Of no expert."""

    @property
    def linears(self) -> list[Linear]:
        """All linear layers, those of normalised rows first."""
        return [self.up, *([self.factor] if self.factor is not None else []), self.down]


@dataclass
class Moe:
    """``residual += sum_e g_e * expert_e(norm(residual))`` over the ``top_k`` chosen experts.

    ``g`` is the softmax over all experts, or with ``sigmoid`` the sigmoid; with ``renormalise``
    over the sum of the chosen ones.
    """

    norm: Norm
    gate: Linear
    top_k: int
    renormalise: bool
    experts: list[Mlp]
    """Their ``norm`` is this node's own."""
    name: str
    sigmoid: bool = False
    sum_epsilon: float = 0.0
    """With ``renormalise``: what the file adds to the sum of the chosen; integers do not."""
    corrections: FloatArray | None = None
    """[experts], with ``sigmoid``: added to the sigmoids for the choice alone."""
    module: str = ""
    """As :attr:`Attention.module`."""
    parallel: bool = False
    """As :attr:`Attention.parallel`."""


@dataclass
class Renorm:
    """``residual = linear(norm(residual))``: nothing of the stream before is left but its norm.

    ``linear`` [channels, channels] is diagonal (the identity in front of the rewrites) but where
    what follows is rotated.
    """

    norm: Norm
    linear: Linear
    name: str
    module: str = ""
    """As :attr:`Attention.module`."""
    parallel: bool = False
    """It never is: it reads no rows but its own."""


Layer = Attention | Mlp | Moe | Renorm


def layer_kind(layer: Layer) -> str:
    """attention, dense, moe or renorm."""
    match layer:
        case Attention():
            return "attention"
        case Mlp():
            return "dense"
        case Moe():
            return "moe"
        case Renorm():
            return "renorm"
        case _:
            assert_never(layer)


def layer_label(number: int, layer: Layer) -> str:
    """What messages, profiles and estimates call a layer: the user's module, or where the file does
    not name it, its kind, its place and its ONNX node. No two layers of a graph share it."""
    return layer.module or f"{layer_kind(layer)}{number}:{layer.name}"


@dataclass
class Embed:
    """The first residual: ``initial`` [tokens, channels], plus ``linear(patches)`` from
    ``first_row`` on.

    ``patches`` [rows, inputs] is ``input.flatten()[gather]``; ``initial`` holds position
    embedding and class token (and the position-independent rest that is no product).
    """

    linear: Linear
    gather: IndexArray
    initial: FloatArray
    first_row: int
    name: str

    @property
    def tokens(self) -> int:
        """Rows of the stream."""
        return int(self.initial.shape[0])

    @property
    def channels(self) -> int:
        """Columns of the stream."""
        return int(self.initial.shape[1])


@dataclass
class Tokens:
    """The first residual is the input: ``input.flatten()[gather]``, [tokens, channels]."""

    gather: IndexArray
    name: str

    @property
    def tokens(self) -> int:
        """Rows of the stream."""
        return int(self.gather.shape[0])

    @property
    def channels(self) -> int:
        """Columns of the stream."""
        return int(self.gather.shape[1])


@dataclass
class Head:
    """``linear(norm(residual[first_row : first_row + rows]))`` of the stream behind the first
    ``depth`` layers, then the output layout.

    ``output.flatten() = result.flatten()[permutation]``; result is [rows, linear.outputs].
    """

    norm: Norm
    linear: Linear
    first_row: int
    rows: int
    permutation: IndexArray
    name: str
    tensor: str
    """Of the file: an output of the task, or what its part on the host reads."""
    shape: tuple[int, ...]
    """Of one frame, behind an axis of 1 that the file's tensor may lack."""
    depth: int


@dataclass(frozen=True)
class HostNode:
    """A node that runs on the host, and why it is not on the accelerator."""

    name: str
    operator: str
    reason: str


@dataclass(frozen=True)
class HostPart:
    """What follows the accelerator's outputs, run by ONNX Runtime."""

    model: bytes
    """ONNX: its inputs are outputs of the accelerator, its outputs are the task's."""
    outputs: list[str]
    """The task's, those that the accelerator gives among them, in the file's order."""
    nodes: list[HostNode]
    """All that depend on the inputs, in order."""
    macs: int | None
    """Multiply-accumulates of one frame, if they can be counted."""
    nodes_before: int
    """Nodes in front that depend on the input: the accelerator's."""


@dataclass(frozen=True)
class HostFront:
    """What lies in front of the accelerator's input, run by ONNX Runtime."""

    input_name: str
    """Of the file."""
    input_shape: tuple[int, ...]
    model: bytes
    """ONNX: the file's input to the accelerator's, the residual stream."""
    rest: bytes
    """ONNX: all that follows, from the accelerator's input to the file's outputs."""
    outputs: list[str]
    """Names of those."""
    why: str
    """Why not all of it is on the accelerator."""
    nodes: list[HostNode]
    """All that depend on the input, in order."""
    macs: int | None
    """Multiply-accumulates of one frame, if they can be counted."""
    nodes_behind: int
    """Nodes on the accelerator."""


@dataclass(frozen=True)
class Stream:
    """A tensor of the file that holds the residual stream at some place between two layers."""

    tensor: str
    """Name in the file, local functions inlined; in any shape, its elements are the stream's."""
    offset: NDArray[np.float64] | None
    """[tokens, channels], what the tensor has more than the stream; None for nothing."""


@dataclass(frozen=True)
class Choice:
    """What a user chose of a file."""

    dims: dict[str, int] = field(default_factory=dict)
    """Numbers for symbolic dimensions of the input, by name."""
    outputs: tuple[str, ...] = ()
    """Names of some of the outputs, in the file's order; none of them for all."""


@dataclass
class Graph:
    """One task of the model, batch size 1."""

    source: str
    """File that it was read from."""
    input_name: str
    input_shape: tuple[int, ...]
    embed: Embed | Tokens
    layers: list[Layer]
    heads: list[Head]
    """In the order of the file's outputs, whatever their depths."""
    streams: list[Stream | None] = field(default_factory=list)
    """Where the file has the stream before the first layer and behind each, if it does; between
    layers that are parallel it has none."""
    notes: list[str] = field(default_factory=list)
    """What the reader of a report should know (an approximation taken, for example)."""
    choice: Choice = field(default_factory=Choice)
    """That it was read by."""
    host: HostPart | None = None
    """What the host computes from this graph's outputs; None if those are the task's."""
    front: HostFront | None = None
    """What the host computes this graph's input with; None if that is the file's."""

    @property
    def tokens(self) -> int:
        return self.embed.tokens

    @property
    def channels(self) -> int:
        return self.embed.channels

    @property
    def user_input(self) -> tuple[str, tuple[int, ...]]:
        """Name and shape of the file's input, which is the front's where there is one."""
        if self.front is not None:
            return self.front.input_name, self.front.input_shape
        return self.input_name, self.input_shape


def stream_points(layers: Sequence[Layer], first: int = 0, stream: str = "residual") -> list[str]:
    """What the float run calls the residual stream in front of layer ``first``, which is
    ``stream``, and behind each from there on: one that begins anew has another range than the one
    before."""
    points = [stream]
    for number, layer in enumerate(layers, first):
        points.append(f"{number}.residual" if isinstance(layer, Renorm) else points[-1])
    return points


def output_point(number: int) -> str:
    """What the float run calls a head's results."""
    return f"output{number or ''}"
