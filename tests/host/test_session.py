"""Sessions: device choice, refusals, and what importing the runtime costs."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from typing import Any

import numpy as np
import pytest
import torch

from moesaic.host import DeviceError, Session, pool
from moesaic.host.cpu.executor import NativeExecutor
from moesaic.host.options import parse_options
from moesaic.host.pool import DeviceResult, DeviceUnavailable
from moesaic.spec.bundle import Bundle
from moesaic.spec.errors import UserError
from moesaic.spec.execute import Executor
from moesaic.spec.hostside import quantise_input
from moesaic.spec.presets import PRESETS
from tests.compiler.random_intgraph import Shape, random_intgraph
from tests.e2e.bundles import expected_codes, make_bundle
from tests.outputs import only_output


class Broken:
    """A device that cannot be opened here."""

    def __init__(self, bundle: Bundle, **options: Any) -> None:
        raise DeviceUnavailable("no such board")


class Recorder:
    """A device that answers zeros and remembers how it was used."""

    name = "recorder"
    closed = 0

    def __init__(self, bundle: Bundle, **options: Any) -> None:
        self.bundle, self.options = bundle, options

    def run(self, task: str, patches: np.ndarray) -> DeviceResult:
        head = self.bundle.graphs[task].heads[0]
        return DeviceResult(np.zeros((len(patches), head.codes), np.int16), [])

    def close(self) -> None:
        Recorder.closed += 1


@pytest.fixture
def bundle() -> Bundle:
    return make_bundle({"task": random_intgraph(Shape(), seed=1)}, PRESETS["nano"])


@pytest.fixture
def devices(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    points = [
        EntryPoint("broken", f"{__name__}:Broken", pool.DEVICE_GROUP),
        EntryPoint("recorder", f"{__name__}:Recorder", pool.DEVICE_GROUP),
    ]
    monkeypatch.setattr(EntryPoint, "load", lambda self: globals()[self.value.split(":")[1]])
    monkeypatch.setattr(pool, "entry_points", lambda group: points)
    yield


@pytest.mark.parametrize(
    ("statement", "forbidden"),
    [
        ("import moesaic.host", ("torch", "onnx", "onnxruntime", "amaranth")),
        ("import moesaic", ("numpy", "typer", "rich")),
        # Below 0.3 s of processor time; each of these would take it above.
        ("import moesaic.cli; moesaic.cli.main()", ("numpy", "onnx", "pygments", "markdown_it")),
    ],
)
def test_what_is_not_needed_is_not_imported(statement: str, forbidden: tuple[str, ...]) -> None:
    code = (
        "import atexit, sys; sys.argv = ['moesaic', '--help']; "
        f"atexit.register(lambda: print([m for m in {forbidden} if m in sys.modules])); {statement}"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_first_device_that_opens_is_used(bundle: Bundle, devices: None) -> None:
    options = {"recorder": {"depth": 3}}
    with Session(bundle, ["broken", "recorder"], options) as opened:
        assert opened.device.name == "recorder"
        passed, used = opened.placement()
        assert (passed.device, passed.state, passed.reason) == (
            "broken", "passed over", "no such board"
        )  # fmt: skip
        assert (used.device, used.state, used.reason) == ("recorder", "first choice", "")
        assert opened.device.options == {"depth": 3}  # type: ignore[attr-defined]
        before = Recorder.closed
    assert Recorder.closed == before + 1


def test_no_device_says_why(bundle: Bundle, devices: None) -> None:
    with pytest.raises(UserError, match="no device can run .* broken: no such board"):
        Session(bundle, ["broken"])


def test_unknown_device_is_named(bundle: Bundle, devices: None) -> None:
    with pytest.raises(UserError, match="unknown device 'abacus'; devices are broken, recorder"):
        Session(bundle, ["abacus"])


def test_cpu_gives_the_reference(bundle: Bundle) -> None:
    graph = bundle.graphs["task"]
    x = np.random.default_rng(0).uniform(-1, 1, (2, *graph.input_shape[1:])).astype(np.float32)
    with Session(bundle, ["cpu"]) as opened:
        got = opened.run({"x": x})["y"]
    codes = expected_codes(graph, quantise_input(graph, x))
    np.testing.assert_array_equal(got, only_output(graph, codes))
    assert got.shape == (2, *graph.heads[0].shape[1:]) and got.dtype == np.float32


def test_cuda_gives_the_reference_or_says_why_not(bundle: Bundle) -> None:
    graph = bundle.graphs["task"]
    x = np.random.default_rng(0).uniform(-1, 1, (2, *graph.input_shape[1:])).astype(np.float32)
    with Session(bundle, ["cuda", "cpu"]) as opened:
        answer = opened.run({"x": x})
        place = opened.placement()[0]
    codes = expected_codes(graph, quantise_input(graph, x))
    np.testing.assert_array_equal(answer["y"], only_output(graph, codes))
    if torch.cuda.is_available():
        assert answer.device == "cuda" and place.reason == ""
    else:
        assert answer.device == "cpu" and place.reason == "torch finds no CUDA device"


@pytest.mark.parametrize(
    ("kernels", "error"),
    [
        ("torch", RuntimeError("out of memory\nmore about it")),
        ("torch", torch.OutOfMemoryError("out of memory")),
        ("torch", MemoryError()),
        ("best", MemoryError("out of memory")),
    ],
)
def test_failing_arithmetic_is_a_device_failure(
    kernels: str, error: Exception, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(self: Executor | NativeExecutor, patches: np.ndarray) -> np.ndarray:
        raise error

    graph = bundle.graphs["task"]
    with Session(bundle, ["cpu"], {"cpu": {"kernels": kernels}}) as opened:
        monkeypatch.setattr(Executor if kernels == "torch" else NativeExecutor, "run", lost)
        with pytest.raises(DeviceError, match="cpu: out of memory$"):
            opened.run({"x": np.zeros((1, *graph.input_shape[1:]), np.float32)})


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({}, "needs the input 'x'"),
        ({"x": np.zeros((1, 7), np.float32)}, "must have the shape"),
        ({"x": np.array([["a"]])}, "must be float32"),
        ({"x": None}, "must be float32"),
    ],
)
def test_wrong_inputs_are_refused(bundle: Bundle, inputs: dict[str, Any], message: str) -> None:
    with Session(bundle, ["cpu"]) as opened, pytest.raises(UserError, match=message):
        opened.run(inputs)


def test_a_text_may_be_the_first_option_of_a_device() -> None:
    assert parse_options(["fpga.name=moesaic0"]) == {"fpga": {"name": "moesaic0"}}


def test_options_of_devices_are_read_and_checked(bundle: Bundle) -> None:
    texts = ["fpga.clock_hz=300000000", "fpga.mode=cached", "sim.watchdog_cycles=0x10"]
    assert parse_options(texts) == {
        "fpga": {"clock_hz": 300_000_000, "mode": "cached"},
        "sim": {"watchdog_cycles": 16},
    }
    for text in ("clock_hz=3", "fpga.clock_hz", "fpga.=3", ".clock_hz=3", "fpga.a b=3"):
        with pytest.raises(UserError, match="DEVICE.NAME=VALUE"):
            parse_options([text])
    with pytest.raises(UserError, match="cpu cannot be opened with these options.*colour"):
        Session(bundle, ["cpu"], {"cpu": {"colour": "red"}})


def test_outputs_are_chosen_by_name(bundle: Bundle) -> None:
    graph = bundle.graphs["task"]
    inputs = {"x": np.zeros((1, *graph.input_shape[1:]), np.float32)}
    with Session(bundle) as session:
        everything = session.run(inputs)
        np.testing.assert_array_equal(session.run(None, inputs)["y"], everything["y"])
        np.testing.assert_array_equal(session.run(["y"], inputs, task="task")["y"], everything["y"])
        for wrong in (["z"], "y"):
            with pytest.raises(UserError, match="output"):
                session.run(wrong, inputs)
        with pytest.raises(UserError, match="needs the inputs"):
            session.run(["y"])  # type: ignore[call-overload]
        with pytest.raises(UserError, match="before the inputs"):
            session.run(inputs, inputs)  # type: ignore[call-overload]
