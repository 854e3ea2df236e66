"""What a caller of a session gets wrong: every time one sentence, and nothing is ignored."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from moesaic.host import Session
from moesaic.host.options import near
from moesaic.host.pool import DeviceResult
from moesaic.spec.bundle import Bundle
from moesaic.spec.errors import UserError
from moesaic.spec.presets import PRESETS
from tests.compiler.random_intgraph import Shape, random_intgraph
from tests.e2e.bundles import make_bundle
from tests.host.known_devices import know_devices


class Board:
    """A device with options of several types."""

    name = "board"

    def __init__(
        self, bundle: Bundle, *, clock_hz: int = 1, mode: str = "a", trace: Path | None = None,
        profile: bool = False,
    ) -> None:  # fmt: skip
        self.options = {"clock_hz": clock_hz, "mode": mode, "trace": trace, "profile": profile}

    def run(self, task: str, patches: np.ndarray) -> DeviceResult:
        raise NotImplementedError

    def close(self) -> None:
        pass


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return make_bundle({"task": random_intgraph(Shape(), seed=1)}, PRESETS["nano"])


@pytest.fixture
def boards(monkeypatch: pytest.MonkeyPatch) -> None:
    know_devices(monkeypatch, board=Board)


def frame(bundle: Bundle) -> dict[str, np.ndarray]:
    return {"x": np.zeros((1, *bundle.graphs["task"].input_shape[1:]), np.float32)}


@pytest.mark.parametrize("devices", ["cpu", " cpu ,board", ["cpu"], ("cpu", "board"), "board,cpu"])
def test_devices_are_names_or_one_text(devices: Any, bundle: Bundle, boards: None) -> None:
    words = devices.split(",") if isinstance(devices, str) else devices
    with Session(bundle, devices) as session:
        assert [place.device for place in session.placement()] == [word.strip() for word in words]


def test_gpu_is_no_misspelt_cpu() -> None:
    assert near("GPU", ("cpu", "cuda")) == "; did you mean 'cuda'?"
    assert near("gpu", ("cpu", "fpga")) == "; did you mean 'cpu'?"


@pytest.mark.parametrize(
    ("devices", "message"),
    [
        ([], "no device is named"),
        ("", "no device is named"),
        (3, "devices must be names.*not 3"),
        (None, "devices must be names"),
        ([1], "devices must be names"),
        ("cpu,", "unknown device ''; devices are board, cpu"),
        ("CPU", "unknown device 'CPU'.*did you mean 'cpu'"),
        ("boart", "unknown device 'boart'.*did you mean 'board'"),
    ],
)
def test_devices_that_are_none_are_refused(
    devices: Any, message: str, bundle: Bundle, boards: None
) -> None:
    with pytest.raises(UserError, match=message) as caught:
        Session(bundle, devices)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"boart": {"clock_hz": 3}}, "unknown device 'boart'; did you mean 'board'"),
        ({"zzz": {"clock_hz": 3}}, "unknown device 'zzz'; devices are board, cpu"),
        ({"board": {"clok_hz": 3}}, "no option 'clok_hz'; did you mean 'clock_hz'"),
        ({"board": {"zzz": 3}}, "no option 'zzz'; it has clock_hz, mode, trace, profile"),
        ({"board": {"clock_hz": "fast"}}, "board.clock_hz must be of the type int, not 'fast'"),
        ({"board": {"clock_hz": True}}, "board.clock_hz must be of the type int, not True"),
        ({"board": {"mode": 3}}, "board.mode must be of the type str, not 3"),
        ({"board": {"profile": 3}}, "board.profile must be of the type bool, not 3"),
    ],
)
@pytest.mark.parametrize("devices", [["board"], ["cpu", "board"]])
def test_wrong_option_is_refused_even_of_a_stand_in(
    devices: list[str], options: dict[str, Any], message: str, bundle: Bundle, boards: None
) -> None:
    with pytest.raises(UserError, match=message):
        Session(bundle, devices, options)


def test_option_of_a_device_that_is_not_named_is_refused(bundle: Bundle, boards: None) -> None:
    with pytest.raises(UserError, match="'board', which is not among cpu"):
        Session(bundle, "cpu", {"board": {"clock_hz": 3}})
    with Session(bundle, "cpu,board", {"board": {"clock_hz": 3}}, strict=True) as session:
        assert [place.device for place in session.placement()] == ["cpu"]


def test_options_of_a_command_line_become_what_the_device_takes(
    bundle: Bundle, boards: None
) -> None:
    given = {"board": {"clock_hz": 3, "mode": "b", "trace": "w.vcd", "profile": 1}}
    with Session(bundle, "board", given) as session:
        assert session.device.options == {  # type: ignore[attr-defined]
            "clock_hz": 3, "mode": "b", "trace": Path("w.vcd"), "profile": True
        }  # fmt: skip


def test_closed_session_says_so(bundle: Bundle) -> None:
    session = Session(bundle)
    session.close()
    session.close()
    for use in (
        lambda: session.run(frame(bundle)),
        lambda: session.submit(frame(bundle)),
        lambda: session.device,
    ):
        with pytest.raises(UserError, match="session of memory is closed: open another one"):
            use()


@pytest.mark.parametrize("name", ["X", "imag", "seg"])
def test_unknown_input_is_refused_by_name(name: str, bundle: Bundle) -> None:
    with Session(bundle) as session:
        extra = {**frame(bundle), name: np.zeros(3)}
        with pytest.raises(UserError, match=f"has no input '{name}': leave out all but x"):
            session.run(extra)
        with pytest.raises(UserError, match="has no input"):
            session.submit(extra).result()


def test_inputs_of_other_tasks_may_be_there() -> None:
    """One file serves all tasks of a bundle."""
    graphs = {name: random_intgraph(Shape(), seed=1) for name in ("a", "b")}
    object.__setattr__(graphs["b"], "input_name", "z")
    both = make_bundle(graphs, PRESETS["nano"])
    x = np.ones((1, *graphs["a"].input_shape[1:]), np.float32)
    with Session(both) as session:
        answers = [session.run({"x": x, "z": x}, task=task)["y"] for task in graphs]
    assert np.array_equal(*answers)


def test_forked_child_is_refused_and_opens_its_own(bundle: Bundle) -> None:
    """After its parent's has computed; the child leaves the parent's session usable."""
    session = Session(bundle)
    wanted = session.run(frame(bundle))["y"]
    child = os.fork()
    if not child:
        code = 1
        try:
            refused = 0
            for use in (
                lambda: session.run(frame(bundle)),
                lambda: session.submit(frame(bundle)),
                lambda: session.device,
            ):
                try:
                    use()
                except UserError as error:
                    refused += "before this process was forked" in str(error)
            session.close()
            with Session(bundle) as mine:
                same = np.array_equal(mine.run(frame(bundle))["y"], wanted)
            code = 0 if refused == 3 and same else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert np.array_equal(session.run(frame(bundle))["y"], wanted)
    session.close()
