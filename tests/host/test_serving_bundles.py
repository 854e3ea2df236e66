"""Several bundles behind one server."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from moesaic.host import DeviceError, Session
from moesaic.host.serving.bundles import NamedBundle, Served, by_bundle, model_names, read_names
from moesaic.host.serving.limits import Limits
from moesaic.spec.bundle import Bundle
from moesaic.spec.errors import UserError
from moesaic.spec.presets import PRESETS
from tests.compiler.random_intgraph import Shape, random_intgraph
from tests.e2e.bundles import make_bundle
from tests.host.serving import (
    WAIT_SECONDS,
    Puppet,
    Running,
    frames,
    install_puppet,
    serving_all,
    two_tasks,
    write_bundle,
)
from tests.host.serving_command import command, write_plugin

NAMES = ["seg", "day.depth", "night.depth"]


@pytest.fixture(scope="module")
def bundles() -> dict[str, Bundle]:
    """``day`` has the tasks seg and depth, ``night`` another depth."""
    shape = Shape(patches=6, tokens=7, head_rows=6, outputs=5)
    graph = random_intgraph(shape, seed=3, task="depth")
    return {"day": two_tasks(), "night": make_bundle({"depth": graph}, PRESETS["nano"])}


def served(bundles: dict[str, Bundle], **options: Any) -> list[Served]:
    named = [NamedBundle(name, Path(name), False) for name in bundles]
    tasks = [bundle.tasks for bundle in bundles.values()]
    names = model_names(list(zip(named, tasks, strict=True)))
    return [
        Served(name, Session(bundle, **options), models)
        for (name, bundle), models in zip(bundles.items(), names, strict=True)
    ]


@pytest.fixture
def running(bundles: dict[str, Bundle], monkeypatch: pytest.MonkeyPatch) -> Iterator[Running]:
    install_puppet(monkeypatch)
    with serving_all(
        served(bundles, devices=["puppet"], queue_frames=2, pause_seconds=1000.0), Limits(queue=2)
    ) as server:
        yield server


def test_each_model_gives_its_bundles_answers(bundles: dict[str, Bundle], running: Running) -> None:
    index = running.ask("POST", "/v2/repository/index", {}).json
    assert [model["name"] for model in index] == NAMES
    assert running.ask("GET", "/v2/models/depth").status == 404  # whose?
    answers = {}
    x = frames(bundles["day"], "depth", 2)
    for name, bundle in (("day", bundles["day"]), ("night", bundles["night"])):
        reply = running.infer(f"{name}.depth", x)
        assert reply.status == 200, reply.body
        with Session(bundle, ["cpu"]) as session:
            wanted = session.run({"x": x}, "depth")["y"].tobytes()
        assert reply.body.endswith(wanted)
        assert f'"model_name": "{name}.depth"'.encode() in reply.body
        answers[name] = wanted
    assert answers["day"] != answers["night"]
    assert running.infer("seg", frames(bundles["day"], "seg")).status == 200


def test_a_bundle_without_a_device_takes_the_server_out(
    bundles: dict[str, Bundle], running: Running
) -> None:
    x = frames(bundles["day"], "depth")
    Puppet.plan = [DeviceError("watchdog")]
    reply = running.infer("night.depth", x)
    assert reply.status == 503 and "puppet: watchdog" in reply.error
    ready = running.ask("GET", "/v2/health/ready")
    assert ready.status == 503
    assert ready.json["error"] == "no device works for night: puppet: watchdog"
    # What the other one can do, it does.
    states = {name: running.ask("GET", f"/v2/models/{name}/ready").status for name in NAMES}
    assert states == {"seg": 200, "day.depth": 200, "night.depth": 503}
    index = running.ask("POST", "/v2/repository/index", {}).json
    assert [model["state"] for model in index] == ["READY", "READY", "UNAVAILABLE"]
    assert running.infer("day.depth", x).status == 200
    state = {"device": "puppet", "state": "passed over"}
    assert running.metric("moesaic_device_state", bundle="night", **state) == 1
    assert running.metric("moesaic_device_state", bundle="day", **state) == 0


def test_one_queue_for_all_and_metrics_by_model(
    bundles: dict[str, Bundle], running: Running
) -> None:
    x, gate = frames(bundles["day"], "depth"), threading.Event()
    Puppet.rest = gate
    replies = []
    clients = [
        threading.Thread(target=lambda name=name: replies.append(running.infer(name, x)))
        for name in ("day.depth", "night.depth")
    ]
    for client in clients:
        client.start()
    for _ in clients:  # both devices work, at the same time
        assert Puppet.began.acquire(timeout=WAIT_SECONDS)
    refused = running.infer("seg", frames(bundles["day"], "seg"))
    assert refused.status == 503 and "2 requests wait already" in refused.error
    gate.set()
    for client in clients:
        client.join(WAIT_SECONDS)
    assert [reply.status for reply in replies] == [200, 200]
    counts = {name: running.metric("moesaic_requests_total", task=name) for name in NAMES}
    assert counts == dict.fromkeys(NAMES, 1)
    for name in NAMES[1:]:
        assert running.metric("moesaic_device_seconds_count", task=name, device="puppet") == 1


def test_names(tmp_path: Path) -> None:
    (tmp_path / "a=b" / "dusk").mkdir(parents=True)
    dusk = tmp_path / "a=b" / "dusk"
    found = read_names(["x/day", "north=x/day", str(dusk)])
    assert found == [
        NamedBundle("day", Path("x/day"), False),
        NamedBundle("north", Path("x/day"), True),
        NamedBundle("dusk", dusk, False),
    ]


@pytest.mark.parametrize(
    ("texts", "sentence"),
    [
        (["x/day", "y/day"], "two bundles are called 'day'"),
        (["a=x", "a=y"], "two bundles are called 'a'"),
        (["a=x", "y/a"], "two bundles are called 'a'"),
        (["x/day", "y/a b"], "call it NAME="),
    ],
)
def test_names_that_are_refused(texts: list[str], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        read_names(texts)


def test_prefixes_stand_where_they_must() -> None:
    day, night = (NamedBundle(name, Path(name), False) for name in ("day", "night"))
    given = NamedBundle("north", Path("x"), True)
    tasks = ["seg", "depth"]
    assert model_names([(day, tasks)]) == [{"seg": "seg", "depth": "depth"}]
    assert model_names([(given, ["seg"])]) == [{"seg": "north.seg"}]
    assert model_names([(day, tasks), (night, ["depth", "flow"])]) == [
        {"seg": "seg", "depth": "day.depth"},
        {"depth": "night.depth", "flow": "flow"},
    ]


def test_options_of_one_bundle() -> None:
    names = ["day", "night"]
    found = by_bundle(["cuda,cpu", "night=cpu"], "=", names, "--device")
    assert found == {"": ["cuda,cpu"], "night": ["cpu"]}
    found = by_bundle(["fpga.name=a:b", "day:fpga.name=c"], ":", names, "--option")
    assert found == {"": ["fpga.name=a:b"], "day": ["fpga.name=c"]}
    with pytest.raises(UserError, match="'dusk', and the bundles are day, night"):
        by_bundle(["dusk=cpu"], "=", names, "--device")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("serve")
    write_bundle(made / "bundle")
    write_plugin(made)
    return made


def test_the_command_serves_several(folder: Path, tmp_path: Path) -> None:
    also = [f"north={folder / 'bundle'}", "--device", "north=cpu"]
    first = "bundle.seg, bundle.depth, north.seg, north.depth", "gated (bundle), cpu (north)"
    with command(folder, tmp_path, options=also, first=first) as server:
        index = server.ask("POST", "/v2/repository/index")
        assert [model["name"] for model in index.json] == [
            "bundle.seg",
            "bundle.depth",
            "north.seg",
            "north.depth",
        ]
        server.process.send_signal(signal.SIGTERM)
        assert server.end() == (0, "all accepted requests are answered\n")
    assert (tmp_path / "closed").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["x/bundle"], "two bundles are called 'bundle'"),
        (["b={folder}/none"], "none"),
        (["b={folder}/bundle", "--device", "c=cpu"], "for a bundle 'c'"),
        (["--device", "cpu", "--device", "sim"], "--device is given 2 times"),
        (["b={folder}/bundle", "--option", "b:cpu.threads=x"], "cpu.threads"),
    ],
)
def test_wrong_bundles_are_one_sentence(folder: Path, arguments: list[str], words: str) -> None:
    given = [argument.format(folder=folder) for argument in arguments]
    done = subprocess.run(
        [sys.executable, "-m", "moesaic.cli", "serve", str(folder / "bundle"), "--port", "0"]
        + given,
        capture_output=True,
        text=True,
        timeout=WAIT_SECONDS,
        check=False,
    )
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert words in done.stderr
