"""The Containerfile, as far as it can be held to the project without a container engine."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import typer

from moesaic.cli.application import app
from moesaic.host import Session
from moesaic.host.serving.access import OPEN_PATHS
from moesaic.host.serving.limits import Limits
from tests.host.serving import serving, two_tasks

ROOT = Path(__file__).resolve().parents[2]


def instructions() -> list[tuple[str, str]]:
    text = (ROOT / "deploy" / "Containerfile").read_text()
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    return [
        (word, re.sub(r"\s+", " ", rest).strip())
        for word, _, rest in (line.partition(" ") for line in joined.splitlines() if line)
    ]


def values(name: str) -> list[str]:
    return [rest for word, rest in instructions() if word == name]


def test_base_and_account() -> None:
    bases = [base.split()[0] for base in values("FROM")]
    assert set(bases) == {"docker.io/library/debian:12-slim"}
    order = [word for word, _ in instructions()]
    last = len(order) - 1 - order[::-1].index("FROM")
    (user,) = values("USER")
    assert int(user.split(":")[0]) > 0
    assert order.index("USER") > last, "the account of the image that runs"
    assert "RUN" not in order[order.index("USER") :]


def test_extras_exist() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (install,) = [line for line in values("RUN") if "pip install" in line]
    (extras,) = re.findall(r"\[(.*)\]", install)
    assert extras == "serve,cpu" and set(extras.split(",")) <= set(project["optional-dependencies"])
    (copied,) = [line for line in values("COPY") if "--from" not in line]
    assert "constraints.txt" in copied.split() and (ROOT / "constraints.txt").is_file()


def test_command_parses() -> None:
    (entry,), (arguments,) = values("ENTRYPOINT"), values("CMD")
    program, name, *rest = json.loads(entry) + json.loads(arguments)
    assert program.endswith("/bin/moesaic")
    command = typer.main.get_command(app).commands[name]  # type: ignore[attr-defined]
    given = command.make_context(name, rest).params
    assert {str(given["port"]), str(given["grpc_port"])} == set(values("EXPOSE")[0].split())


@pytest.mark.parametrize("up", [True, False])
def test_health_check(up: bool) -> None:
    """It runs here, on a server's port and on one where nothing answers."""
    (check,) = values("HEALTHCHECK")
    _, option, code = json.loads(check[check.index("CMD ") + 4 :])
    assert option == "-c" and any(f":8000{path}'" in code for path in OPEN_PATHS)
    with serving(Session(two_tasks(), ["cpu"]), Limits()) as running:
        port = running.port if up else running.rpc_port
        there = code.replace(":8000", f":{port}")
        done = subprocess.run([sys.executable, "-c", there], capture_output=True, check=False)
    assert (done.returncode == 0) is up, done.stderr
