"""One script for ONNX Runtime's session and ours."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

import moesaic
from moesaic.spec.metrics import sqnr_db

Session = Callable[[str], Any]


def users_script(open_session: Session, model: str) -> dict[str, np.ndarray]:
    """What an application does with a model, whoever runs it."""
    session = open_session(model)
    (given,) = session.get_inputs()
    shape = [1 if isinstance(size, str) else size for size in given.shape]
    assert given.type == "tensor(float)"
    x = np.random.default_rng(3).normal(size=shape).astype(np.float32)
    names = [output.name for output in session.get_outputs()]
    answers = session.run(None, {given.name: x})
    assert session.get_providers()
    again = session.run(names, {given.name: x})
    for first, second in zip(answers, again, strict=True):
        np.testing.assert_array_equal(first, second)
    return dict(zip(names, answers, strict=True))


@pytest.fixture
def ours(
    small_models: tuple[Path, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Session:
    monkeypatch.setenv("MOESAIC_CACHE", str(tmp_path / "cache"))
    samples = small_models[0] / "samples.npz"

    def open_session(model: str) -> moesaic.InferenceSession:
        providers = ["CPUExecutionProvider"]
        return moesaic.InferenceSession(
            model, providers=providers, target="nano", calibration=samples
        )

    return open_session


def theirs(model: str) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])


def test_same_script_runs_on_both(ours: Session, small_models: tuple[Path, list[str]]) -> None:
    model = str(small_models[0] / "seg.onnx")
    exact, integer = users_script(theirs, model), users_script(ours, model)
    assert list(exact) == list(integer)
    for name, value in exact.items():
        assert value.shape == integer[name].shape and value.dtype == integer[name].dtype
        assert sqnr_db(value, integer[name]) > 20


def test_compiles_once(
    ours: Session, small_models: tuple[Path, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = small_models[0] / "seg.onnx"
    first = users_script(ours, str(model))

    def never(*_: object, **__: object) -> None:
        raise AssertionError("compiled again")

    monkeypatch.setattr("moesaic.compiler.driver.compile", never)
    second = users_script(ours, str(model))
    np.testing.assert_array_equal(first["seg"], second["seg"])
    with pytest.raises(AssertionError, match="compiled again"):
        users_script(ours, str(small_models[0] / "depth.onnx"))


def test_bundle_and_options(small_bundle: Path) -> None:
    session = moesaic.InferenceSession(
        small_bundle, providers=[("CPUExecutionProvider", {})], task="depth"
    )
    with session:
        assert session.get_providers() == ["cpu"]
        assert [output.name for output in session.get_outputs()] == ["depth"]
        sample = session.session.bundle.samples["depth.input"]
        (answer,) = session.run(["depth"], {"image": sample})
        assert len(answer) == len(sample)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"providers": "cpu"}, "must be a list"),
        ({"providers": ["TPUExecutionProvider"]}, "no provider 'TPUExecutionProvider'"),
        ({"providers": ["nowhere"], "task": "seg"}, "unknown device 'nowhere'"),
        ({"providers": ["cpu"], "provider_options": []}, "an entry for each"),
        ({}, "several tasks"),
        ({"path": "none.onnx"}, "none.onnx cannot be read"),
        ({"path": b"no model"}, "give target= and calibration="),
        ({"path": b"no model", "target": "zcu999", "calibration": {}}, "zcu999"),
    ],
)
def test_refused_in_a_sentence(
    small_bundle: Path, arguments: dict[str, Any], sentence: str
) -> None:
    path = arguments.pop("path", small_bundle)
    with pytest.raises(moesaic.UserError, match=sentence.replace("(", r"\(")):
        moesaic.InferenceSession(path, **arguments)


def test_calls_that_are_not_there(small_bundle: Path) -> None:
    with moesaic.InferenceSession(small_bundle, task="seg") as session:
        for call in (session.io_binding, lambda: session.run_with_iobinding(None)):
            with pytest.raises(moesaic.UserError, match="call run instead"):
                call()
        with pytest.raises(moesaic.UserError, match="no output 'nothing'"):
            session.run(["nothing"], {"image": np.zeros((1, 3, 32, 32), np.float32)})
