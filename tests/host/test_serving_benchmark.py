"""The benchmark of servers: what it asks, what it prints, and what it refuses."""

from __future__ import annotations

import http.client
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from moesaic.host.failures import DeviceError
from moesaic.host.serving import benchmark
from moesaic.host.serving.benchmark import Joining, Load, Requests, choose_models
from moesaic.spec.bundle import Bundle
from moesaic.spec.errors import UserError
from tests.host.joint_devices import three_tasks
from tests.host.serving import frames, two_tasks


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    made = three_tasks()
    made.samples.update({f"{task}.input": frames(made, task, 2) for task in made.tasks})
    return made


def test_figures_follow_from_the_images() -> None:
    one = Load(Joining(8, 0.0), ("seg",), 2, (0.25, 0.75), 1.0, 6, 2)
    both = one + Load(Joining(8, 0.0), ("seg",), 2, (0.5,), 1.0, 2, 2)
    assert one.images_per_second == 2.0 and both.images_per_second == 1.5
    assert both.percentile(50) == 0.5 and (both.frames, both.calls) == (8, 4)
    console = Console(file=io.StringIO(), width=120)
    console.print(benchmark.make_table([both]))
    printed = console.file.getvalue()  # type: ignore[attr-defined]
    assert "1.5" in printed and "500.0" in printed and "2.00" in printed


def test_tasks_of_one_input_are_asked_for_one_by_one_and_together(bundle: Bundle) -> None:
    assert choose_models(bundle) == [("seg",), ("seg", "depth"), ("seg+depth",)]
    assert choose_models(two_tasks()) == [("seg",)]


class Wire:
    """A connection whose answers are as they are told."""

    def __init__(self, *answers: bytes, status: int = 200) -> None:
        self.answers, self.status = list(answers), status
        self.headers = {benchmark.HEADER_LENGTH: "2"}

    def request(self, *asked: Any) -> None:
        if not self.answers:
            raise BrokenPipeError("Broken pipe")

    def getresponse(self) -> Wire:
        return self

    def read(self) -> bytes:
        return b"{}" + self.answers.pop(0)


def ask(requests: Requests, wire: Wire, model: str) -> bytes:
    connection: http.client.HTTPConnection = wire  # type: ignore[assignment]
    return requests.ask(connection, model, 0)


def test_every_answer_must_have_the_bits_of_the_first(bundle: Bundle) -> None:
    requests = Requests(bundle)
    wire = Wire(b"one", b"two", b"one", b"onetwo", b"twoone", b"ones")
    assert ask(requests, wire, "seg") == b"one" and ask(requests, wire, "depth") == b"two"
    ask(requests, wire, "seg")
    ask(requests, wire, "seg+depth")
    for model in ("seg+depth", "seg"):
        with pytest.raises(DeviceError, match="other bits than before"):
            ask(requests, wire, model)
    with pytest.raises(DeviceError, match="the server answers 503: {}full"):
        ask(requests, Wire(b"full", status=503), "seg")
    with pytest.raises(DeviceError, match="the server gave no answer: Broken pipe"):
        ask(requests, Wire(), "seg")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--clients", "0"], "--clients must be numbers from 1 on, with commas, not '0'"),
        (["--batch", "1,x"], "--batch must be numbers from 1 on"),
        (["--batch-wait-ms", "-1"], "--batch-wait-ms must be numbers from 0 on"),
        (["--clients", "1", "--rounds", "0"], "--rounds must be at least 1"),
        (["--clients", "1"], "memory holds no samples of task"),
    ],
)
def test_what_cannot_be_measured_is_one_sentence(
    arguments: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(benchmark, "load_bundle", lambda path: three_tasks())
    with pytest.raises(SystemExit) as ended:
        benchmark.main(["memory", *arguments])
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith(f"moesaic benchmark: {message}") and said.count("\n") == 1


def test_task_with_a_front_has_no_samples_for_a_client(bundle: Bundle) -> None:
    bundle.samples["edge.input"] = np.zeros((1, 3), np.float32)
    with pytest.raises(UserError, match="task edge has a front on the host"):
        ask(Requests(bundle), Wire(), "edge")


def test_server_that_does_not_start_says_why(tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match="does not start: .*is no bundle"):
        with benchmark.serving(tmp_path, Joining(1, 0.0), 4, []):
            pass


def test_servers_are_measured_in_turn(
    small_bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    size = ["--clients", "1,2", "--seconds", "0.01", "--rounds", "1", "--batch", "2"]
    benchmark.main([str(small_bundle), *size])
    rows = [line.split("│")[1:-1] for line in capsys.readouterr().out.splitlines() if "│" in line]
    assert [row[1].strip() for row in rows] == ["1", "2"] * (len(rows) // 2) and rows
    assert all(float(row[4]) > 0 and 1 <= float(row[7]) <= 2 for row in rows)
