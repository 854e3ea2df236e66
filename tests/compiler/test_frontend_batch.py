"""Files with a fixed batch: read as one frame, and compared with the whole batch."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from moesaic.compiler.float_reference import run_float
from moesaic.compiler.frontend import load_graph
from moesaic.compiler.validate.compare import open_oracle, validate
from moesaic.models.config import M3ViTConfig
from moesaic.models.m3vit import random_model
from moesaic.models.tracing import SingleTask
from moesaic.spec.errors import UserError
from tests.compiler.onnx_vit import CHANNELS, PATCHES, Vit
from tests.compiler.validated import compare, read_validated, samples_for

FRAMES = 4


class TokensFirst(nn.Module):
    """torch's encoder on [tokens, frames, channels], where frames are inside merged axes."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(16, 2, 24, norm_first=True, activation="gelu")
        self.embed, self.head = nn.Linear(12, 16), nn.Linear(16, 3)
        self.position = nn.Parameter(torch.randn(6, 1, 16))
        self.layers = nn.TransformerEncoder(layer, 2, nn.LayerNorm(16), enable_nested_tensor=False)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.embed(x).transpose(0, 1) + self.position
        return self.head(self.layers(tokens)).transpose(0, 1)


def reference() -> nn.Module:
    """The reference model, with experts."""
    config = M3ViTConfig(height=8, width=12, patch=4, dim=20, depth=2, heads=2, experts=4,
                         top_k=2, expert_hidden=11)  # fmt: skip
    return SingleTask(random_model(config, seed=5), "seg")


class Around(nn.Module):
    """A model with something around it that frames may not do."""

    def __init__(self, model: nn.Module, function: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.model, self.function = model, function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self.model, x)


def export(model: nn.Module, path: Path, frames: int, dynamo: bool) -> Path:
    torch.manual_seed(1)
    shape = (6, 12) if isinstance(model, TokensFirst) else (3, 8, 12)
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # ONNX has no such operator
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                model.eval(), (torch.randn(frames, *shape),), str(path), dynamo=dynamo,
                input_names=["x"], opset_version=20 if dynamo else 17, verbose=False,
            )  # fmt: skip
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
    return path


@pytest.mark.parametrize("dynamo", [False, True], ids=["TorchScript", "dynamo"])
@pytest.mark.parametrize("model", [TokensFirst, reference])
def test_one_frame_of_a_batch(tmp_path: Path, model: Callable[[], nn.Module], dynamo: bool) -> None:
    """As the same model exported for one frame, and as ONNX Runtime computes the batch."""
    torch.manual_seed(0)
    module = model()
    path = export(module, tmp_path / "batch.onnx", FRAMES, dynamo)
    graph, found = read_validated(path)
    assert found.worst < 0.25 and graph.input_shape[0] == 1
    assert graph.notes == [f"one frame is compiled of the file's batch: {FRAMES} frames"]
    single = load_graph(export(module, tmp_path / "single.onnx", 1, dynamo))
    x = samples_for(graph, FRAMES)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (expected,) = session.run(None, {"x": x})
    for one in (graph, single):
        assert np.abs(run_float(one, x) - expected).max() < 1e-5 * np.abs(expected).max()


MIXED: dict[str, tuple[Callable[[nn.Module, Tensor], Tensor], str]] = {
    "mean": (lambda model, x: model(x - x.mean(0, keepdim=True)), "it mixes frames, or takes one"),
    "first": (lambda model, x: model(x + x[:1]), "it mixes frames, or takes one of them"),
    "flipped": (lambda model, x: model(x.flip(0)), "does not give what it gives alone"),
    "not first": (lambda model, x: model(x).transpose(0, 1), "the batch of 4 frames as its first"),
    "merged": (lambda model, x: model(x).permute(1, 0, 2, 3).flatten(0, 1), "as its first axis"),
}
"""Frames that depend on each other, or leave in another order."""


@pytest.mark.parametrize("kind", MIXED)
def test_frames_that_depend_on_each_other(tmp_path: Path, kind: str) -> None:
    function, why = MIXED[kind]
    path = export(Around(reference(), function), tmp_path / "model.onnx", FRAMES, dynamo=False)
    with pytest.raises(UserError, match="export the model for a batch of 1") as caught:
        read_validated(path)
    assert why in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("place", range(FRAMES))
@pytest.mark.parametrize("samples", [1, 3, FRAMES, 9])
def test_every_place_of_a_batch_is_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, samples: int, place: int
) -> None:
    path = export(reference(), tmp_path / "model.onnx", FRAMES, dynamo=False)
    graph = load_graph(path)
    rows = samples_for(graph, samples)
    oracle = open_oracle(path, graph)
    validate(graph, oracle, rows)
    original = oracle.original
    assert original is not None
    run = original._run

    def spoilt(session: onnxruntime.InferenceSession, frames: np.ndarray) -> list[np.ndarray]:
        result = run(session, frames)
        if len(frames) == FRAMES:
            result[0][place].flat[0] += 0.01 * np.abs(result[0][place]).max()
        return result

    monkeypatch.setattr(original, "_run", spoilt)
    with pytest.raises(UserError, match=f"a frame of the batch of {FRAMES} does not give"):
        validate(graph, oracle, rows)


class Batched(Vit):
    """A class token and a position embedding for each frame."""

    different = 0.0

    def tokens(self, x: str) -> tuple[str, int]:
        weight = self.draw(CHANNELS, 3, 4, 4, std=0.2)
        x = self.op("Conv", x, self.const(weight), strides=[4, 4])
        x = self.transpose(self.reshape(x, FRAMES, CHANNELS, -1), 0, 2, 1)
        token = np.repeat(self.draw(1, 1, CHANNELS), FRAMES, 0)
        token[-1] += self.different
        x = self.op("Concat", self.const(token), x, axis=1)
        position = np.repeat(self.draw(1, 1 + PATCHES, CHANNELS), FRAMES, 0)
        return self.op("Add", self.const(position), x), 1 + PATCHES

    def mix(self, x: str, count: int) -> str:
        query, key, value = (
            self.reshape(
                self.transpose(
                    self.reshape(self.dense(x, CHANNELS, CHANNELS), FRAMES, count, 3, 4), 0, 2, 1, 3
                ), FRAMES * 3, count, 4,
            )
            for _ in range(3)
        )  # fmt: skip
        scores = self.op("MatMul", query, self.transpose(key, 0, 2, 1))
        mixed = self.op("MatMul", self.op("Softmax", scores, axis=-1), value)
        mixed = self.transpose(self.reshape(mixed, FRAMES, 3, count, 4), 0, 2, 1, 3)
        rows = self.dense(self.reshape(mixed, FRAMES * count, CHANNELS), CHANNELS, CHANNELS)
        return self.reshape(rows, FRAMES, count, CHANNELS)


def test_constants_and_sizes_of_each_frame(tmp_path: Path) -> None:
    path = Batched(batch=FRAMES, head="no norm").save(tmp_path)
    graph, found = read_validated(path)
    assert found.worst < 0.25 and "one frame is compiled" in graph.notes[0]


def test_constants_that_differ_between_frames(tmp_path: Path) -> None:
    vit = Batched(batch=FRAMES, head="no norm")
    vit.different = 1e-3
    with pytest.raises(UserError, match=r"a fixed batch of 4 frames, which .*\(Concat\) cannot"):
        load_graph(vit.save(tmp_path))


def test_operator_that_sizes_are_not_known_of(tmp_path: Path) -> None:
    path = Vit(batch=FRAMES, attention="fused joint").save(tmp_path)
    with pytest.raises(UserError, match="a fixed batch of 4 frames"):
        load_graph(path)


def test_batch_of_one_and_symbolic_batches_stay(tmp_path: Path) -> None:
    for batch in (1, "frames"):
        path = Vit(batch=batch).save(tmp_path)
        graph = load_graph(path)
        assert open_oracle(path, graph).original is None and not graph.notes
        compare(graph, path)
