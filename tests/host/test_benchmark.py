"""The benchmark of torch devices: what it prints, and what it refuses."""

from __future__ import annotations

import argparse
import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from moesaic.host import benchmark
from moesaic.host.benchmark import Measurement
from moesaic.host.pool import DeviceResult, DeviceUnavailable
from moesaic.spec.bundle import Bundle
from moesaic.spec.errors import UserError
from moesaic.spec.presets import PRESETS
from tests.compiler.random_intgraph import Shape, random_intgraph
from tests.e2e.bundles import make_bundle


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    made = make_bundle({"task": random_intgraph(Shape(), seed=1)}, PRESETS["nano"])
    shape = made.graphs["task"].input_shape[1:]
    made.samples["task.input"] = np.random.default_rng(0).uniform(-1, 1, (3, *shape))
    return made


class Counter:
    """A device that counts frames."""

    name = "counter"

    def __init__(self) -> None:
        self.calls: list[int] = []

    def run(self, task: str, patches: np.ndarray) -> DeviceResult:
        self.calls.append(len(patches))
        return DeviceResult(np.zeros((len(patches), 1), np.int16), [])

    def close(self) -> None:
        pass


def arguments(**changes: object) -> argparse.Namespace:
    defaults = {
        "bundle": Path("memory"),
        "device": "cpu",
        "batch": "1,5",
        "task": None,
        "option": [],
        "json": False,
    }
    return argparse.Namespace(**{**defaults, "seconds": 0.01, **changes})


def test_figures_follow_from_the_calls() -> None:
    row = Measurement("cpu", "seg", 8, (1.0, 2.0, 1.0))
    assert row.frames_per_second == 6.0 and row.percentile(50) == 1.0
    assert 1.9 < row.percentile(99) <= 2.0


def test_warm_up_is_not_counted() -> None:
    device = Counter()
    row = benchmark.measure(device, "task", np.zeros((4, 2, 2), np.int8), 0.0)
    assert len(row.seconds) == benchmark.FEWEST_CALLS and row.batch == 4
    assert device.calls == [4] * (benchmark.FEWEST_CALLS + benchmark.WARM_UP_CALLS)


def test_frames_are_the_samples_in_turns(bundle: Bundle) -> None:
    frames = benchmark.make_frames(bundle, "task", 5)
    assert frames.shape == (5, *bundle.graphs["task"].gather.shape)
    assert (frames[3:] == frames[:2]).all() and (frames[0] != frames[1]).any()


def test_bundle_without_samples_is_refused() -> None:
    bare = make_bundle({"task": random_intgraph(Shape(), seed=1)}, PRESETS["nano"])
    with pytest.raises(UserError, match="holds no samples of task task"):
        benchmark.make_frames(bare, "task", 1)


def test_table_names_what_was_measured(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark, "load_bundle", lambda path: bundle)
    text = io.StringIO()
    benchmark.run(arguments(), Console(file=text, width=100))
    lines = text.getvalue().splitlines()
    assert (
        lines[0].startswith("cpu: ")
        and ", 1 threads, " in lines[0]
        and torch.__version__ in lines[0]
    )
    rows = [line.split("│")[1:4] for line in lines if line.startswith("│")]
    assert [[cell.strip() for cell in row] for row in rows] == [
        ["cpu", "task", "1"],
        ["cpu", "task", "5"],
    ]


def test_figures_for_programs(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(benchmark, "load_bundle", lambda path: bundle)
    benchmark.main(["memory", "--batch", "2,1", "--seconds", "0", "--json"])
    rows = json.loads(capsys.readouterr().out)
    assert [(row["device"], row["task"], row["batch"]) for row in rows] == [
        ("cpu", "task", 2),
        ("cpu", "task", 1),
    ]
    assert all(row["calls"] == benchmark.FEWEST_CALLS for row in rows)
    assert all(0 < row["p50"] <= row["p99"] and row["frames_per_second"] > 0 for row in rows)


def no_cuda(self: object, bundle: Bundle) -> None:
    raise DeviceUnavailable("torch finds no CUDA device")


@pytest.mark.parametrize("devices", ["cpu,cuda", "cuda, cpu"])
def test_missing_device_is_left_out_and_named(
    devices: str, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(benchmark, "load_bundle", lambda path: bundle)
    monkeypatch.setattr("moesaic.host.torch_devices.CudaDevice.__init__", no_cuda)
    text = io.StringIO()
    benchmark.run(arguments(device=devices), Console(file=text, width=100))
    lines = text.getvalue().splitlines()
    assert lines[0] == "device cuda is left out: torch finds no CUDA device"
    rows = [line.split("│")[1].strip() for line in lines if line.startswith("│")]
    assert rows == ["cpu", "cpu"]


def test_nothing_is_measured_without_a_device(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(benchmark, "load_bundle", lambda path: bundle)
    monkeypatch.setattr("moesaic.host.torch_devices.CudaDevice.__init__", no_cuda)
    with pytest.raises(SystemExit) as stopped:
        benchmark.main(["memory", "--device", "cuda"])
    captured = capsys.readouterr()
    assert stopped.value.code == 1 and captured.out == ""
    assert "device cuda is left out: torch finds no CUDA device" in captured.err


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"device": "sim"}, "device must be one of cpu, cuda, not 'sim'"),
        ({"option": ["cpu.treads=2"]}, "no option 'treads'; did you mean 'threads'"),
        ({"option": ["cuda.threads=2"]}, "'cuda', which is not among cpu"),
        ({"batch": "1,0"}, "--batch must be positive numbers"),
        ({"batch": "two"}, "--batch must be positive numbers"),
        ({"task": "pose"}, "has no task 'pose'"),
    ],
)
def test_wrong_arguments_are_refused(
    changes: dict[str, str], message: str, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(benchmark, "load_bundle", lambda path: bundle)
    with pytest.raises(UserError, match=message):
        benchmark.run(arguments(**changes), Console(file=io.StringIO()))
