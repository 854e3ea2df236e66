"""What a reader of bundles does not believe of graphs and manifests: every seal is right."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from moesaic.host import Session
from moesaic.spec import graphcheck
from moesaic.spec.bundle import load_bundle
from moesaic.spec.hostpart import front_frames
from moesaic.spec.hostside import quantise_input
from moesaic.spec.manifest import TaskReport
from moesaic.spec.presets import PRESETS
from moesaic.spec.schema import Reader
from tests.e2e.bundles import expected_codes
from tests.spec.bundle_pieces import Pieces, first, pieces, refusal

Change = Callable[[Pieces], object]


def array_of(p: Pieces, owner: dict[str, Any], field: str) -> np.ndarray:
    """An array that a graph refers to, to be changed in place."""
    name = owner[field]["array"]
    p.arrays[name] = p.arrays[name].copy()
    return p.arrays[name]


@pytest.mark.parametrize("number", [0, 1, 2, 3])
def test_good_bundle_is_read_as_it_was_written(number: int, tmp_path: Path) -> None:
    made = pieces(number)
    made.write(tmp_path)
    bundle = load_bundle(tmp_path)
    assert list(bundle.joint) == ["depth*2", "depth*3"][: number % 3]
    assert bundle.arch == PRESETS["nano"] and list(bundle.tasks) == list(made.graph_of)
    with Session(bundle) as session:
        for task, graph in made.graph_of.items():
            x = made.samples[f"{task}.input"]
            assert np.array_equal(bundle.sample(task, "input"), x)
            (source,) = bundle.inputs(task)
            frames = front_frames(bundle.front(task), source, x)
            codes = expected_codes(graph, quantise_input(graph, frames))
            assert np.array_equal(session.run({source: x}, task).result.codes, codes)
    assert bundle.image == bytes(made.image)


def test_frames_of_billions_of_products_are_read() -> None:
    """A ViT-B at 224 pixels has 17 billion."""
    report = pieces(0).manifest["report"]["tasks"]["seg"] | {"macs": 17 * 10**9, "cycles": 1 << 33}
    read = Reader(extra=True).read(TaskReport, report, "report")
    assert (read.macs, read.cycles) == (17 * 10**9, 1 << 33)


def fill(p: Pieces, owner: dict[str, Any], field: str, value: int) -> None:
    array_of(p, owner, field)[...] = value


def hidden_of(made: Any, kind: str) -> int:
    """Hidden channels of the first MLP."""
    return int(made.arrays[first(made, kind)["down"]["weight"]["array"]].shape[1])


def parallel_layers(layers: list[Any]) -> list[Any]:
    """With one more behind the head, parallel to the last."""
    return [*layers, {**layers[-1], "parallel": True}]


def listed(made: Any, tokens: list[int]) -> None:
    """Give the dense layer some of the tokens, and the task the MACs of those."""
    layer = first(made, "IntDense")
    weights = [made.arrays[layer["mlp"][part]["weight"]["array"]].size for part in ("up", "down")]
    made.graphs["seg"]["macs"] += (len(tokens) - 5) * sum(weights)
    made.arrays["seg.tokens"] = np.array(tokens, np.int64)
    layer["tokens"] = {"array": "seg.tokens"}


GRAPH_CHANGES: dict[str, tuple[Change, str]] = {
    "multiplier": (lambda p: first(p, "Scale").update(multiplier=65536), "multiplier must be 0 to"),
    "shift": (lambda p: first(p, "Scale").update(shift=64), "shift must be 0 to 63, not 64"),
    "truth": (lambda p: first(p, "Scale").update(shift=True), "shift must be int"),
    "shifts": (lambda p: fill(p, first(p, "IntLinear"), "shift", 64), "shift must be 0 to 63"),
    "negative rows": (lambda p: first(p, "IntHead").update(rows=-1), "].rows must be 1 to"),
    "rows behind": (
        lambda p: first(p, "IntHead").update(first_row=2),
        "].first_row and rows",
    ),
    "patches behind": (lambda p: first(p, "IntEmbed").update(first_row=2), "embed.first_row and"),
    "channels": (lambda p: first(p, "IntNorm").update(channels=9), "norm.channels must be 8"),
    "epsilon": (lambda p: first(p, "IntNorm").update(epsilon=1 << 48), "epsilon must be 0 to"),
    "heads": (lambda p: first(p, "IntAttention").update(heads=4), "query.weight must have"),
    "head_dim": (lambda p: first(p, "IntAttention").update(head_dim=10**9), "query.weight must"),
    "value_dim": (lambda p: first(p, "IntAttention").update(value_dim=4), "value.weight must"),
    "top_k": (lambda p: first(p, "IntMoe").update(top_k=4), "top_k must be at most 3"),
    "offset": (lambda p: first(p, "IntMlp").update(offset=256), "offset must be 0 to 255, not 256"),
    "offset below": (lambda p: first(p, "IntMlp").update(offset=-1), "offset must be 0 to 255"),
    "offset of 16-bit rows": (
        lambda p: first(p, "IntMlp").update(wide=hidden_of(p, "IntMlp"), offset=3),
        "offset of 16-bit rows must be 0, not 3",
    ),
    "wide above hidden": (
        lambda p: first(p, "IntMlp").update(wide=hidden_of(p, "IntMlp") + 1),
        ".wide must be at most",
    ),
    "wide below": (lambda p: first(p, "IntMlp").update(wide=-1), "wide must be 0 to"),
    "wide hidden as bool": (lambda p: first(p, "IntMlp").update(wide=True), "wide must be int"),
    "wide as number": (lambda p: first(p, "IntDense").update(wide=1), "wide must be bool, not 1"),
    "wide_query as number": (
        lambda p: first(p, "IntAttention").update(wide_query=2),
        "wide_query must be bool, not 2",
    ),
    "wide_attended as text": (
        lambda p: first(p, "IntAttention").update(wide_attended="no"),
        "wide_attended must be bool, not 'no'",
    ),
    "parallel as number": (
        lambda p: first(p, "IntMoe").update(parallel=1),
        "parallel must be bool, not 1",
    ),
    "tokens as numbers": (
        lambda p: first(p, "IntDense").update(tokens=[1, 2]),
        "tokens must be an array",
    ),
    "tokens twice": (lambda p: listed(p, [0, 2, 2]), "layers[1].tokens must ascend"),
    "tokens behind": (lambda p: listed(p, [1, 5]), "tokens must hold indices of 0 to 4"),
    "no tokens": (lambda p: listed(p, []), "tokens must hold indices of 0 to 4"),
    "tokens of a longer stream": (lambda p: listed(p, list(range(6))), "tokens must be at most 5"),
    "fewer tokens": (lambda p: listed(p, [0, 2, 4]), "other constants for task seg"),
    "corrections of a softmax": (
        lambda p: first(p, "IntMoe").update(
            sigmoid=False, corrections=first(p, "IntMoe")["gate"]["bias"]
        ),
        "corrections must be of sigmoids",
    ),
    "corrections of others": (
        lambda p: first(p, "IntMoe").update(
            sigmoid=True, corrections=first(p, "IntMlp")["up"]["bias"]
        ),
        "corrections.length must be 3",
    ),
    "corrections as numbers": (
        lambda p: first(p, "IntMoe").update(corrections=[1, 2, 3]),
        "corrections must be an array",
    ),
    "parallel to nothing": (
        lambda p: first(p, "IntAttention").update(parallel=True),
        "layers[0].parallel must be False: there is no layer in front",
    ),
    "parallel behind another norm": (
        lambda p: p.graphs["seg"]["layers"][1].update(parallel=True),
        "layers[1].norm and wide must be those of the layer that it is parallel to",
    ),
    "no wide": (lambda p: first(p, "IntAttention").pop("wide"), "has no wide"),
    "no experts": (lambda p: first(p, "IntMoe").update(experts=[]), "must have 1 to 64 entries"),
    "too many experts": (
        lambda p: first(p, "IntMoe").update(experts=first(p, "IntMoe")["experts"] * 22),
        "must have 1 to 64 entries",
    ),
    "one expert less": (lambda p: first(p, "IntMoe")["experts"].pop(), "gate.weight must have"),
    "gather": (lambda p: fill(p, p.graphs["seg"], "gather", 28), "gather must hold indices"),
    "gather below": (lambda p: fill(p, p.graphs["seg"], "gather", -1), "gather must hold"),
    "permutation": (
        lambda p: fill(p, first(p, "IntHead"), "permutation", 20),
        "permutation must hold",
    ),
    "input": (lambda p: p.graphs["seg"].update(input_shape=[1, 1 << 30]), "values of the input"),
    "output": (lambda p: first(p, "IntHead").update(shape=[1, 21]), "permutation must be 21"),
    "no heads": (lambda p: p.graphs["seg"].update(heads=[]), "heads must have 1 to 32 entries"),
    "heads of one name": (
        lambda p: p.graphs["seg"].update(heads=2 * p.graphs["seg"]["heads"]),
        "heads must have names of their own",
    ),
    "depth": (lambda p: first(p, "IntHead").update(depth=9), "heads[0].depth must be at most 4"),
    "layers behind": (lambda p: first(p, "IntHead").update(depth=3), "depth of the last head"),
    "between parallel layers": (
        lambda p: p.graphs["seg"].update(layers=parallel_layers(p.graphs["seg"]["layers"])),
        "heads[0].depth must not lie between layers that are parallel",
    ),
    "scale of 0": (lambda p: p.graphs["seg"].update(input_scale=0), "input_scale must be"),
    "infinite scale": (lambda p: first(p, "IntHead").update(scale=float("inf")), "scale must be"),
    "macs": (lambda p: p.graphs["seg"].update(macs=1), "macs must be"),
    "task": (lambda p: p.graphs["seg"].update(task="depth"), "task is 'depth'"),
    "two lines": (lambda p: p.graphs["seg"].update(input_name="a\nb"), "must be text of one line"),
    "surrogate": (lambda p: p.graphs["seg"].update(input_name="\ud800"), "text of one line"),
    "another type": (lambda p: first(p, "IntNorm").update(type="IntMlp"), "must be a IntNorm"),
    "no type": (lambda p: p.graphs["seg"].pop("type"), "must be a IntGraph"),
    "no layer": (lambda p: p.graphs["seg"]["layers"].append({"type": "IntNorm"}), "must be IntAtt"),
    "deep layers": (lambda p: p.graphs["seg"].update(layers=[[[]]]), "must be IntAttention or"),
    "no field": (lambda p: first(p, "IntMoe").pop("name"), "has no name"),
    "one field more": (lambda p: first(p, "IntMoe").update(path="x"), "unknown field 'path'"),
    "array as number": (lambda p: p.graphs["seg"].update(gather=3), "must be an array"),
    "no such array": (lambda p: p.graphs["seg"]["gather"].update(array="x"), "must be an array"),
    "weights of six bits": (
        lambda p: first(p, "IntLinear").update(weight_bits=6),
        "weight_bits must be 4 or 8, not 6",
    ),
    "weights of three bits": (
        lambda p: first(p, "IntLinear").update(weight_bits=3),
        "weight_bits must be 4 to 8, not 3",
    ),
    "weights beyond four bits": (
        lambda p: first(p, "IntLinear").update(weight_bits=4),
        "weights of 4 bits of",
    ),
    "another array": (
        lambda p: first(p, "IntLinear").update(weight=p.graphs["seg"]["gather"]),
        "must be of type int8",
    ),
    "one array more": (lambda p: p.arrays.update(more=np.zeros(3)), "that no graph has"),
    "a task more": (lambda p: p.graphs.update(third=p.graphs["seg"]), "task is 'seg'"),
    "a task less": (lambda p: p.graphs.pop("depth"), "that no graph has"),
    "no graphs": (lambda p: setattr(p, "graphs", []), "must be an object"),
    "other initial": (
        lambda p: fill(p, first(p, "IntEmbed"), "initial", 3),
        "other constants for task seg",
    ),
}


@pytest.mark.parametrize("name", GRAPH_CHANGES)
def test_graphs_that_break_a_rule_are_refused(name: str, tmp_path: Path) -> None:
    change, message = GRAPH_CHANGES[name]
    made = pieces(0)
    change(made)
    made.write(tmp_path)
    assert message in refusal(tmp_path)


@pytest.mark.parametrize(
    ("kind", "part", "form", "largest", "wide"),
    [
        ("IntHead", "linear", {"wide": False}, 128, 0),
        ("IntAttention", "key", {"wide": False}, 128, 0),
        ("IntAttention", "key", {"wide": True}, 32768, 0),
        ("IntMlp", "down", {"wide": 0}, 255, 0),
        ("IntMlp", "down", {"wide": 3}, 255, 3),
        ("IntMoe", "gate", {"wide": False}, 32768, 0),
    ],
)
def test_accumulators_are_proven_again(
    kind: str, part: str, form: dict[str, Any], largest: int, wide: int, tmp_path: Path
) -> None:
    """The bound itself is allowed, one more is not."""
    for more in (0, 1):
        made = pieces(0)
        owner = first(made, kind)
        owner.update(form)
        linear = owner[part]
        weight = made.arrays[linear["weight"]["array"]]
        limits = np.full(weight.shape[1], largest)
        limits[:wide] = 32768
        sums = np.abs(weight.astype(np.int64)) @ limits
        bias = array_of(made, linear, "bias")
        bias[0] = graphcheck.ACCUMULATOR_MAX - sums[0] + more
        folder = tmp_path / str(more)
        folder.mkdir()
        made.write(folder)
        if more:
            message = refusal(folder)
            assert "accumulators of" in message and f".{part} must be at most" in message
        else:
            load_bundle(folder)


def test_file_is_no_bundle(tmp_path: Path) -> None:
    """An ONNX model where its bundle is wanted, say."""
    (tmp_path / "seg.onnx").write_bytes(b"model")
    assert "it is no folder; a bundle is one" in refusal(tmp_path / "seg.onnx")


def test_graph_must_be_that_of_the_image(tmp_path: Path) -> None:
    """Consistent in itself, with other shapes than the device image has."""
    made = pieces(0)
    for task, other in (("seg", "depth"), ("depth", "seg")):
        made.graphs[task] = {**pieces(0).graphs[other], "task": task}
    made.manifest["report"] = {"tasks": {}}
    made.write(tmp_path)
    assert "has other shapes or scratch for task seg" in refusal(tmp_path)


LARGE = {
    "channels": {"MAX_CHANNELS": 7},
    "values of the input": {"MAX_TENSOR_VALUES": 27},
    "values of a frame's widest tensor": {"MAX_FRAME_VALUES": 79},
    "weights": {"MAX_WEIGHTS": 500},
}


@pytest.mark.parametrize("what", LARGE)
def test_what_devices_would_allocate_is_bounded(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in LARGE[what].items():
        monkeypatch.setattr(graphcheck, name, value)
    pieces(0).write(tmp_path)
    assert f"{what} must be at most" in refusal(tmp_path)


MANIFEST_CHANGES: dict[str, tuple[Change, str]] = {
    "format": (lambda p: p.manifest.update(format=3), "has format 3"),
    "format text": (lambda p: p.manifest.update(format="a\nb" * 99), "has format"),
    "arch field": (lambda p: p.manifest["arch"].update(lanes=16.0), "arch.lanes must be int"),
    "arch rule": (lambda p: p.manifest["arch"].update(lanes=24), "power of two, not 24"),
    "arch hash": (lambda p: p.manifest.update(arch_hash=1), "another version of the gateware"),
    "no arch": (lambda p: p.manifest.pop("arch"), "must have the fields"),
    "more": (lambda p: p.manifest.update(more=1), "must have the fields"),
    "files": (lambda p: p.manifest.update(files=[]), "files must be an object"),
    "a file outside": (
        lambda p: p.manifest["files"].update({"../x": p.manifest["files"]["device.bin"]}),
        "files must be",
    ),
    "a device": (
        lambda p: p.manifest["files"].update({"/dev/zero": p.manifest["files"]["device.bin"]}),
        "files must be",
    ),
    "a file less": (lambda p: p.manifest["files"].pop("device.bin"), "files must be"),
    "task name": (lambda p: p.manifest["tasks"].update({"../x": {}}), "tasks.../x has no"),
    "host part outside": (
        lambda p: p.manifest["tasks"]["seg"].update(host_part="/etc/passwd"),
        "host_part must be 'seg.host.onnx'",
    ),
    "host part missing": (
        lambda p: p.manifest["tasks"]["seg"].update(host_part="seg.host.onnx"),
        "files must be",
    ),
    "words": (
        lambda p: p.manifest["tasks"]["seg"].update(activation_words=1 << 20),
        "activation_words are more than there are",
    ),
    "labels": (lambda p: p.manifest["tasks"]["seg"].update(labels=[""] * 257), "0 to 256 entries"),
    "report": (lambda p: p.manifest.update(report=3), "report must be an object"),
    "report without tasks": (lambda p: p.manifest.update(report={}), "has one of tasks"),
    "report task": (lambda p: p.manifest["report"].update(tasks={"x": 3}), "report.tasks.x must"),
    "report field": (
        lambda p: p.manifest["report"]["tasks"]["seg"].pop("macs"),
        "report.tasks.seg has no macs",
    ),
    "report of another": (
        lambda p: p.manifest["report"]["tasks"]["seg"].update(tokens=7),
        "report.tasks.seg is of another graph",
    ),
    "routing layer": (
        lambda p: p.manifest["report"]["tasks"]["seg"].update(routing={"x": [1]}),
        "is no layer with experts",
    ),
    "routing": (
        lambda p: p.manifest["report"]["tasks"]["seg"]["routing"].update(moe1=[5, 5, 1]),
        "does not fit the layer's experts",
    ),
}


@pytest.mark.parametrize("name", MANIFEST_CHANGES)
def test_manifests_that_break_a_rule_are_refused(name: str, tmp_path: Path) -> None:
    change, message = MANIFEST_CHANGES[name]
    made = pieces(0)
    change(made)
    made.write(tmp_path)
    assert message in refusal(tmp_path)


def test_every_field_of_a_graph_has_a_rule() -> None:
    """A field whose type the schema does not know would be read unchecked."""
    from moesaic.spec.schema import Reader, SchemaError, pack

    arrays: dict[str, np.ndarray] = {}
    for graph in pieces(0).graph_of.values():
        value = json.loads(json.dumps(pack(graph, arrays)))
        back = Reader(arrays, tagged=True).read(type(graph), value, "graph")
        assert dataclasses.asdict(back).keys() == dataclasses.asdict(graph).keys()
        for field in dataclasses.fields(graph):
            with pytest.raises(SchemaError, match=f"^graph.{field.name}"):
                Reader(arrays, tagged=True).read(
                    type(graph), {**value, field.name: {"no": "such thing"}}, "graph"
                )
