"""Every command of README and the documents: it parses, and its inputs are there by then.

``MOESAIC_DOCUMENTS=1`` also runs them, which takes minutes and what ``make demo`` leaves.
"""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
import typer

from moesaic.cli.application import app
from moesaic.host import Session
from moesaic.host.serving.limits import Limits
from tests.documents import DOCUMENTS, ROOT, commands, words
from tests.host.serving import serving

ALL = [(path.name, command) for path in DOCUMENTS for command in commands(path)]
MADE = ("-o", "--output", "--out", "--stats", "--timeline", "--trace", "--json", "--picture", ">",
        "--outdir", "-keyout", "-out", "--state", "--scene-file")  # fmt: skip
"""Options whose values are written."""
DEMO = {f"build/demo/onnx/{name}" for name in
        ("seg.onnx", "depth.onnx", "calibration.npz", "heldout.npz")} | {
    "build/demo/all.npz", "build/demo/rtl.npz", "build/demo/bundle"}  # fmt: skip
"""What `make demo` leaves; `test_demo_leaves_what_commands_read` holds it against the demo."""
SYSTEM = ("curl", "openssl")
"""Programs that a document may expect."""
FOREVER = ("serve", "curl", "triton_client", "models.train", "resources.samples")
"""Of commands that end by hand, need a server, or take an hour and more."""


def test_commands_are_found() -> None:
    found = {words(command)[1] for _, command in ALL if "moesaic " in command}
    assert {"compile", "inspect", "estimate", "verify", "accuracy", "simulate", "run", "serve",
            "targets"} <= found  # fmt: skip
    assert any("curl" in command for _, command in ALL)


@pytest.mark.parametrize(("document", "command"), ALL)
def test_command_parses(document: str, command: str) -> None:
    """Its options exist, none that is needed lacks, and its program or module is there."""
    program, *rest = words(command)
    if program.endswith("moesaic"):
        group = typer.main.get_command(app)
        group.commands[rest[0]].make_context(rest[0], rest[1:])  # type: ignore[attr-defined]
    elif rest[0] == "-m":
        assert importlib.util.find_spec(rest[1]), rest[1]
    elif program.endswith("python") and rest[0] != "-c":
        assert (ROOT / rest[0]).is_file()
    else:
        assert program in SYSTEM or rest[0] == "-c"
    assert program.startswith(".venv/bin/") or program in SYSTEM, "not there from a checkout"


@pytest.mark.parametrize("document", sorted({name for name, _ in ALL}))
def test_inputs_are_made_before(document: str) -> None:
    """By the demo, or by a command further up in the same document."""
    there = set(DEMO)
    for name, command in ALL:
        if name != document:
            continue
        parts = words(command)
        made = {parts[i + 1] for i, part in enumerate(parts[:-1]) if part in MADE}
        for part in parts[1:]:
            place = part.rpartition("=")[2].removeprefix("@")
            is_file = re.fullmatch(r"[\w./-]+\.(onnx|npz|json|png|fst|vcd|pt|state)", place)
            if part in made or not (is_file or place.startswith("build/")):
                continue
            there_now = place in there or any(place.startswith(f"{folder}/") for folder in there)
            assert there_now, f"{place} of `{command}` is made by nothing"
        there |= made


def test_demo_leaves_what_commands_read() -> None:
    """The demo's source names the files, for running it takes minutes."""
    demo = (ROOT / "models" / "demo.py").read_text() + (ROOT / "models" / "export.py").read_text()
    assert 'default=Path("build/demo")' in demo and 'folder / "onnx", folder / "bundle"' in demo
    for name in ("calibration.npz", "heldout.npz"):
        assert name in demo
    assert 'inputs = {"all": ' in demo and '"rtl": ' in demo and 'folder / f"{name}.npz"' in demo


def test_requests_of_the_document_are_answered(small_bundle: Path, tmp_path: Path) -> None:
    """Their frame comes from the demo's file, here one of the same names; the server takes it."""
    (make,) = [c for _, c in ALL if "frame.json" in c and "-c" in c]
    curls = [c for _, c in ALL if c.startswith("curl")]
    (tmp_path / "build" / "demo").mkdir(parents=True)
    images = np.random.default_rng(0).normal(size=(2, 3, 32, 32)).astype(np.float32)
    np.savez(tmp_path / "build" / "demo" / "rtl.npz", image=images)
    (tmp_path / ".venv").symlink_to(ROOT / ".venv")
    subprocess.run(make, shell=True, cwd=tmp_path, check=True, timeout=60)
    body = (tmp_path / "build" / "frame.json").read_text()
    asked = set()
    with Session(small_bundle, queue_frames=Limits.queue) as session:
        answers = session.run_many({"image": images[:1]})
        with serving(session, Limits()) as server:
            for curl in curls:
                path = re.search(r":8000(/v2/models/(\S+)/infer)", curl)
                assert path and "@build/frame.json" in curl
                reply = server.ask("POST", path[1], body.encode())
                assert reply.status == 200, reply.body
                asked.add(path[2])
                outputs = {output["name"]: output for output in reply.json["outputs"]}
                wanted = {k: v for task in path[2].split("+") for k, v in answers[task].items()}
                assert list(outputs) == list(wanted)
                for name, output in outputs.items():
                    found = np.asarray(output["data"], np.float32).reshape(output["shape"])
                    assert np.array_equal(found, wanted[name])
    assert asked == {"seg", "seg+depth"}


RUN = [pair for pair in ALL if not any(word in pair[1] for word in FOREVER)]


@pytest.mark.skipif(not os.environ.get("MOESAIC_DOCUMENTS"), reason="takes minutes")
@pytest.mark.parametrize(("document", "command"), RUN)
def test_command_runs(document: str, command: str) -> None:
    done = subprocess.run(command, shell=True, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
