"""Mixtures of experts in the forms that people export: recognised, or refused for what they are."""

from __future__ import annotations

import functools
import io
import logging
import warnings
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from onnx import TensorProto
from torch import Tensor, nn

from moesaic.compiler import ir
from moesaic.compiler.frontend import load_graph
from moesaic.models.zoo import mixture_forms, mixtures
from moesaic.models.zoo.mixture_forms import FORMS
from moesaic.models.zoo.mixtures import MIXTURES, SIDE, Mixture, MixtureViT, chosen
from moesaic.spec.errors import UserError
from tests.compiler.onnx_vit import CHANNELS, EXPERTS, TOP_K, Vit
from tests.compiler.test_frontend_forms import compare
from tests.compiler.test_frontend_refusals import message
from tests.compiler.validated import compare as compare_graph
from tests.compiler.validated import read_validated

ONE = {"switch", "switch-argmax"}
"""Forms with one expert for a token."""
OF_ALL = {*ONE, "gathered-scores"}
"""Forms whose weights are the softmax of all experts, as it is."""
DYNAMO = {"mixtral", "slot-mask", "sparse-softmax", "switch-argmax", "take-along"}
"""Forms that torch's two exporters write in different ways, or the older one not at all."""
MANY = 3
"""Experts: exports of loops take their time."""


@pytest.fixture(autouse=True)
def few_experts(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (mixtures, mixture_forms):
        monkeypatch.setattr(module, "EXPERTS", MANY)


def export(mixture: nn.Module, folder: Path, dynamo: bool = False) -> Path:
    """Write a small transformer with one mixture."""
    torch.manual_seed(0)
    path = folder / "model.onnx"
    options = {"external_data": False, "verbose": False} if dynamo else {"opset_version": 17}
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        x = torch.randn(1, 3, SIDE, SIDE)
        model = MixtureViT(mixture).eval()
        torch.onnx.export(model, (x,), path, dynamo=dynamo, input_names=["x"], **options)
    return path


def over_all(logits: Tensor) -> Tensor:
    """Sigmoids over the sum of all sigmoids."""
    scores = logits.sigmoid()
    return chosen(scores / scores.sum(-1, keepdim=True))


def mixture_of(graph: ir.Graph) -> ir.Moe:
    moe = graph.layers[1]
    assert isinstance(moe, ir.Moe)
    return moe


@pytest.mark.parametrize(
    ("form", "dynamo"),
    [(form, form in DYNAMO) for form in sorted(FORMS) if form != "tight"] + [("mixtral", False)],
)
def test_form(tmp_path: Path, form: str, dynamo: bool) -> None:
    torch.manual_seed(3)
    path = export(FORMS[form](), tmp_path, dynamo)
    graph, error = compare(path)
    assert error < 1e-5
    moe = mixture_of(graph)
    assert (moe.top_k, moe.renormalise) == (1 if form in ONE else 2, form not in OF_ALL)
    assert len(moe.experts) == MANY and moe.gate.inputs == mixtures.CHANNELS
    read_validated(path)


@pytest.mark.parametrize(
    ("name", "top_k", "renormalise"),
    [
        ("softmax-first-where", 2, False),
        ("renormalised-where", 2, True),
        ("softmax-first-stacked", 2, False),
        ("switch", 1, False),
        ("dense-mixture", MANY, False),
    ],
)
def test_mixture_of_the_zoo(tmp_path: Path, name: str, top_k: int, renormalise: bool) -> None:
    graph, error = compare(export(MIXTURES[name](), tmp_path))
    assert error < 1e-5
    moe = mixture_of(graph)
    assert (moe.top_k, moe.renormalise) == (top_k, renormalise)
    ties = [note for note in graph.notes if "equal scores" in note]
    assert len(ties) == (name == "switch")


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("renormalise", [False, True])
@pytest.mark.parametrize("slope", [1.0, 2.5])
def test_sigmoids(tmp_path: Path, renormalise: bool, slope: float, after: bool) -> None:
    """Of all logits, or of those that were chosen; of a multiple of them; times a number."""

    def weights(logits: Tensor) -> Tensor:
        if not after:
            return 1.5 * chosen((slope * logits).sigmoid(), renormalise=renormalise)
        values, index = logits.topk(2, -1)
        values = (slope * values).sigmoid()
        if renormalise:
            values = values / values.sum(-1, keepdim=True)
        return torch.zeros_like(logits).scatter(-1, index, 1.5 * values)

    path = export(Mixture(weights), tmp_path)
    graph, error = compare(path)
    moe = mixture_of(graph)
    assert error < 1e-5
    assert (moe.sigmoid, moe.renormalise, moe.top_k) == (True, renormalise, 2)
    read_validated(path)


LOOKED_UP: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "of the same": (torch.sigmoid, torch.sigmoid),
    "of logits": (lambda x: x, torch.sigmoid),
    "of a softmax": (lambda x: x.softmax(-1), torch.sigmoid),
    "one constant": (lambda x: x.sigmoid() + 0.25, torch.sigmoid),
}
"""What the experts are chosen by, and what of it is gathered by their numbers."""


def gathered(choose: Callable[[Tensor], Tensor], weigh: Callable[[Tensor], Tensor]) -> Mixture:
    def weights(logits: Tensor) -> Tensor:
        index = choose(logits).topk(2, -1).indices
        return torch.zeros_like(logits).scatter(-1, index, weigh(logits).gather(-1, index))

    return Mixture(weights)


@pytest.mark.parametrize("name", LOOKED_UP)
def test_sigmoids_that_are_looked_up(tmp_path: Path, name: str) -> None:
    path = export(gathered(*LOOKED_UP[name]), tmp_path)
    graph, error = compare(path)
    moe = mixture_of(graph)
    assert error < 1e-5
    assert (moe.sigmoid, moe.renormalise, moe.top_k) == (True, False, 2)


def test_corrected_choice(tmp_path: Path) -> None:
    """What is added to the sigmoids decides, and leaves the weights alone."""
    path = export(
        gathered(lambda x: (2 * x).sigmoid() * 3 + UNEVEN, lambda x: (2 * x).sigmoid()), tmp_path
    )
    graph, _ = read_validated(path)
    moe = mixture_of(graph)
    assert moe.sigmoid and moe.corrections is not None
    np.testing.assert_allclose(moe.corrections, UNEVEN / 3, atol=1e-6)
    moe.corrections = None
    with pytest.raises(UserError, match="was not recognised for what it is"):
        compare_graph(graph, path)
    moe.corrections = -(UNEVEN / 3).numpy()
    with pytest.raises(UserError, match="was not recognised for what it is"):
        compare_graph(graph, path)


def by_sum_of_all(logits: Tensor) -> Tensor:
    return logits.sigmoid() / logits.sigmoid().sum(-1, keepdim=True)


UNEVEN = torch.linspace(0.0, 0.5, MANY)


@pytest.mark.parametrize(
    ("mixture", "what"),
    [
        (FORMS["tight"], "(CumSum) counts, and drop the others: raise the"),
        (MIXTURES["capacity"], "(CumSum) counts, and drop the others: raise the"),
        (MIXTURES["threshold"], "(Greater) compares gate weights with a threshold"),
        (lambda: Mixture(lambda x: chosen(x.tanh())), "(Tanh): only the scores of a linear"),
        (
            lambda: Mixture(lambda x: chosen((x + 0.5).sigmoid() + x)),
            "(Add): only the scores of a linear",
        ),
        (lambda: gathered(torch.sigmoid, by_sum_of_all), "other things than weights"),
        (
            lambda: gathered(
                lambda x: x.softmax(-1) + UNEVEN, functools.partial(torch.softmax, dim=-1)
            ),
            "only sigmoids can be corrected for the choice",
        ),
        (lambda: gathered(lambda x: x + UNEVEN, torch.sigmoid), "(Sigmoid) is no sigmoid of"),
        (lambda: gathered(torch.sigmoid, torch.tanh), "gate weights are computed by node"),
        (lambda: Mixture(over_all), "(Div): only the scores of a linear"),
        (MIXTURES["expert-choice"], "must choose from all scores of node"),
    ],
)
@pytest.mark.parametrize("partition", [False, True])
def test_what_is_not_understood_is_named(
    tmp_path: Path, mixture: type[nn.Module], what: str, partition: bool
) -> None:
    """Not the sum that it ends up in; with --partition it is why the host has the layer."""
    path = export(mixture(), tmp_path)
    if partition:
        graph = load_graph(path, partition=True)
        compare_graph(graph, path)
        assert graph.host is not None and len(graph.layers) == 1
        text = "; ".join(node.reason for node in graph.host.nodes)
    else:
        with pytest.raises(UserError) as caught:
            load_graph(path)
        text = str(caught.value)
    assert what in text and "joins the results" not in text and "\n" not in text


@dataclass
class Dispatched(Vit):
    """An expert's tokens by NonZero, put back by ScatterND; ``odd`` names what is done wrong."""

    odd: str = ""
    mlp: str = "loop"

    def mixture(self, x: str, count: int) -> str:
        rows = self.reshape(x, count, CHANNELS)
        scores, chosen, index = self.gates(x, "")
        if self.odd == "slots exchanged":
            chosen = self.op("Gather", chosen, self.ints(*range(TOP_K)[::-1]), axis=2)
        if self.odd == "weights by rank":
            chosen = self.op("Mul", chosen, self.const(np.linspace(1.0, 0.5, TOP_K)))
        if self.odd == "no weights":
            chosen = self.op("Add", self.op("Mul", chosen, self.const(0.0)), self.const(0.5))
        table = self.reshape(self.table(index, chosen, count), count, EXPERTS)
        total = self.const(np.zeros((count, CHANNELS)))
        for e in range(EXPERTS):
            weight = self.op("Gather", table, self.const(e, np.int64), axis=1)
            mask = self.op("Greater", weight, self.const(0.0))
            if self.odd == "mask of another expert" and e == 2:
                other = self.op("Gather", table, self.const(1, np.int64), axis=1)
                mask = self.op("Greater", other, self.const(0.0))
            place = self.transpose(self.op("NonZero", mask), 1, 0)
            total = self.expert(rows, self.op("Unsqueeze", weight, self.ints(1)), place, total)
        return self.reshape(total, 1, count, CHANNELS)

    def expert(self, rows: str, weight: str, place: str, total: str) -> str:
        """Add one expert's results, weight [T, 1], to the total."""
        mine = self.op("GatherND", rows, place)
        if self.odd == "first two":
            place = self.slice(place, 0, 0, 2)
            mine = self.op("GatherND", rows, place)
        if self.odd == "mean of tokens":
            mine = self.op("Sub", mine, self.op("ReduceMean", mine, self.ints(0)))
        if self.odd == "fixed size":
            mine = self.reshape(mine, 2, CHANNELS)
        result = self.op("Mul", self.perceptron(mine), self.op("GatherND", weight, place))
        if self.odd == "by the number of tokens":
            number = self.op("Shape", place, start=0, end=1)
            result = self.op("Div", result, self.op("Cast", number, to=TensorProto.FLOAT))
        if self.odd == "tokens in order":
            size = self.op("Shape", place, start=0, end=1)
            first = self.op("Slice", rows, self.ints(0), size, self.ints(0))
            result = self.op("Mul", self.perceptron(first), self.op("GatherND", weight, place))
        if self.odd == "turned":
            options = self.ints(-1), self.ints(-1000), self.ints(0), self.ints(-1)
            result = self.op("Slice", result, *options)
        if self.odd == "twice":
            total = self.op("ScatterND", total, place, result, reduction="add")
        kind = {"largest": "max", "overwritten": "none"}.get(self.odd, "add")
        return self.op("ScatterND", total, place, result, reduction=kind)


def test_dispatch_by_hand(tmp_path: Path) -> None:
    _, error = compare(Dispatched().save(tmp_path))
    assert error < 2e-6


def test_each_expert_twice_is_twice_its_weight(tmp_path: Path) -> None:
    once = load_graph(Dispatched().save(tmp_path, "once.onnx"))
    graph, error = compare(Dispatched(odd="twice").save(tmp_path))
    assert error < 2e-6
    for one, other in zip(mixture_of(once).experts, mixture_of(graph).experts, strict=True):
        np.testing.assert_allclose(2 * one.down.weight, other.down.weight, rtol=1e-6)


@pytest.mark.parametrize(
    ("odd", "what"),
    [
        ("first two", "(ScatterND)"),
        ("by the number of tokens", "computes with the number of tokens that a mask lists"),
        ("tokens in order", "computes with the number of tokens that a mask lists"),
        ("fixed size", "export with dynamo=True"),
        ("mean of tokens", "is not computed from each place by itself"),
        ("turned", "is not computed from each place by itself"),
        ("largest", "attribute 'reduction' must be 'none' or 'add', not 'max'"),
        ("overwritten", "do not follow from"),
        ("slots exchanged", "they depend on the score of what else"),
        ("weights by rank", "depends on its rank"),
        ("no weights", "must be their softmax"),
        ("mask of another expert", "do not follow from"),
    ],
)
def test_dispatch_that_is_something_else(tmp_path: Path, odd: str, what: str) -> None:
    assert what in message(Dispatched(odd=odd).save(tmp_path))


def test_last_of_equal_scores(tmp_path: Path) -> None:
    class Last(Vit):
        def mixture(self, x: str, count: int) -> str:
            logits = self.dense(x, CHANNELS, EXPERTS)
            index = self.op("ArgMax", logits, axis=-1, select_last_index=1)
            scores = self.op("Softmax", logits, axis=-1)
            chosen = self.op("GatherElements", scores, index, axis=2)
            table = self.op(
                "ScatterElements", self.const(np.zeros((1, count, EXPERTS))), index, chosen, axis=2
            )
            return self.total(self.loop(x, lambda e: self.slice(table, 2, e, e + 1)))

    assert "'select_last_index' must be 0" in message(Last(mlp="loop").save(tmp_path))
