"""What a server writes: JSON for programs, a line of each request, nothing that clients forge."""

from __future__ import annotations

import json
import logging
import re
import signal
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from moesaic.host import Session
from moesaic.host.serving.limits import Limits
from moesaic.host.serving.lines import JsonLines
from moesaic.host.serving.logs import Folding
from moesaic.host.serving.requestlog import logger as requests
from moesaic.spec.bundle import Bundle
from tests.host.serving import (
    WAIT_SECONDS,
    Running,
    binary_request,
    frames,
    json_request,
    serving,
    two_tasks,
    write_bundle,
)
from tests.host.serving_command import command, write_plugin

SEG = "/v2/models/seg/infer"


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return two_tasks()


@pytest.fixture(scope="module")
def running(bundle: Bundle) -> Iterator[Running]:
    with serving(Session(bundle, ["cpu"]), Limits()) as server:
        yield server


class Lines(logging.Handler):
    """Keeps what a program that reads the log would get."""

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(JsonLines())
        self.read: list[dict[str, Any]] = []

    def emit(self, record: logging.LogRecord) -> None:
        text = self.format(record)
        assert "\n" not in text and text.isascii()
        self.read.append(json.loads(text))


@pytest.fixture
def lines() -> Iterator[list[dict[str, Any]]]:
    kept = Lines()
    requests.addHandler(kept)
    requests.setLevel(logging.INFO)
    yield kept.read
    requests.setLevel(logging.NOTSET)
    requests.removeHandler(kept)


def awaited(lines: list[dict[str, Any]], request_id: str | None) -> dict[str, Any]:
    """The line of a request, which comes when its answer has been taken."""
    deadline = time.monotonic() + WAIT_SECONDS
    while not (found := [line for line in lines if line["request_id"] == request_id]):
        assert time.monotonic() < deadline, lines
        time.sleep(0.005)
    assert len(found) == 1
    return found[0]


def test_each_request_is_a_line(
    bundle: Bundle, running: Running, lines: list[dict[str, Any]]
) -> None:
    body, headers = binary_request(frames(bundle, "seg"), id="frame 7")
    before = datetime.now(UTC)
    reply = running.ask("POST", SEG, body, {**headers, "X-Request-Id": "abc-1"})
    assert reply.status == 200 and reply.headers["X-Request-Id"] == "abc-1"
    missing_id = running.ask("GET", "/v2/models/night").headers["X-Request-Id"]
    line, missing = awaited(lines, "abc-1"), awaited(lines, missing_id)
    assert (line["level"], line["event"]) == ("info", "request")
    assert line["time"].endswith("Z")
    age = datetime.fromisoformat(line["time"].replace("Z", "+00:00")) - before
    assert -0.01 < age.total_seconds() < 60
    assert [line[name] for name in ("method", "path", "model", "status", "device")] == [
        "POST",
        SEG,
        "seg",
        200,
        "cpu",
    ]
    assert line["request_id"] == "abc-1" and 0 < line["seconds"] < 60
    assert (missing["status"], missing["model"], missing["device"]) == (404, None, None)


@pytest.mark.parametrize(
    ("header", "given", "wanted"),
    [
        ("abc", "frame-7", "abc"),
        (None, "frame-7", "frame-7"),
        (None, None, None),
        (None, "two words", None),
        ("x" * 129, "frame-7", "frame-7"),
        ("with space", None, None),
    ],
)
def test_names_of_requests(
    bundle: Bundle,
    running: Running,
    lines: list[dict[str, Any]],
    header: str | None,
    given: str | None,
    wanted: str | None,
) -> None:
    body = json_request(frames(bundle, "seg"), **({} if given is None else {"id": given}))
    reply = running.ask("POST", SEG, body, {} if header is None else {"X-Request-Id": header})
    assert reply.json.get("id") == given
    said = reply.headers["X-Request-Id"]
    if wanted is None:
        assert re.fullmatch("[0-9a-f]{16}", said)
    else:
        assert said == wanted
    assert awaited(lines, said)["path"] == SEG


def test_a_client_cannot_forge_a_line(running: Running, lines: list[dict[str, Any]]) -> None:
    evil = '/v2/models/%0A{"level":"error"}%E2%80%A8%1B[31m' + "x" * 1000
    reply = running.ask("GET", evil)
    assert reply.status == 404
    line = awaited(lines, reply.headers["X-Request-Id"])
    assert line["path"].startswith('/v2/models/\n{"level"') and len(line["path"]) < 300
    assert "\n" not in line["message"] and "\x1b" not in line["message"]


def test_folded_lines_say_how_often() -> None:
    logger, kept, folding = logging.getLogger("test.folded"), Lines(), Folding(0.0)
    logger.addFilter(folding)
    logger.addHandler(kept)
    try:
        for number in range(5):
            logger.warning("number %d", number)
        folding.flush()
        try:
            raise ValueError("two\nlines")
        except ValueError:
            logger.exception("it failed")
    finally:
        logger.removeHandler(kept)
        logger.removeFilter(folding)
    assert [line["message"] for line in kept.read][:2] == [
        "number 0",
        "number 0 (4 more times in 0 s)",
    ]
    assert kept.read[1]["more_times"] == 4
    assert "ValueError: two\nlines" in kept.read[2]["exception"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("serve")
    write_bundle(made / "bundle")
    write_plugin(made)
    return made


@pytest.mark.parametrize("access_log", [False, True])
def test_all_that_the_command_says_is_json(folder: Path, tmp_path: Path, access_log: bool) -> None:
    options = ["--log-format", "json", *(["--access-log"] if access_log else [])]
    with command(folder, tmp_path, options=options, as_json=True) as server:
        assert server.ask("GET", "/v2", **{"X-Request-Id": "me"}).status == 200
        server.process.send_signal(signal.SIGTERM)
        code, _ = server.end()
        assert code == 0
    lines = [json.loads(line) for line in server.said.splitlines()]
    events = ["started", *(["request"] if access_log else []), "stopped"]
    assert [line["event"] for line in lines] == events
    assert lines[0]["models"] == ["seg", "depth"]
    if access_log:
        assert (lines[1]["request_id"], lines[1]["path"]) == ("me", "/v2")


def test_text_lines_of_requests(folder: Path, tmp_path: Path) -> None:
    with command(folder, tmp_path, options=["--access-log"]) as server:
        assert server.ask("GET", "/v2/none", **{"X-Request-Id": "me"}).status == 404
        server.process.send_signal(signal.SIGTERM)
        _, said = server.end()
    line, last = said.splitlines()
    assert line.startswith('request method="GET" path="/v2/none" model=null status=404 seconds=')
    assert line.endswith('device=null request_id="me"')
    assert last == "all accepted requests are answered"
