"""Every target of ``make help``, with the variables that README and the docs give it."""

import os
import re
import subprocess
from pathlib import Path

import pytest

from moesaic.spec.presets import PRESETS

ROOT = Path(__file__).resolve().parents[1]
LINE = re.compile(r"\bmake ([a-z]+)((?: [A-Z][A-Z_0-9]*=[\w.-]+)*)")


def make(*words: str) -> subprocess.CompletedProcess[str]:
    """Run make as a user's shell would, without what an outer make has set."""
    clean = {k: v for k, v in os.environ.items() if k not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")}
    return subprocess.run(
        ["make", *words], cwd=ROOT, env=clean, capture_output=True, text=True, timeout=600
    )


def targets() -> list[str]:
    listed = make("-s", "help").stdout.splitlines()
    return [line.split()[0] for line in listed]


def documented() -> list[str]:
    """All ``make TARGET VARIABLE=...`` of the documents, with each of the presets in turn."""
    texts = [path.read_text() for path in (*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"))]
    found = {target + variables for text in texts for target, variables in LINE.findall(text)}
    for target in ("verilog", "sim", "resources"):
        found |= {f"{target} TARGET={name}" for name in PRESETS}
    known = targets()
    return sorted(line for line in found | set(known) if line.split()[0] in known)


def test_help_lists_every_target() -> None:
    phony = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.M)
    assert phony
    assert sorted(targets()) == sorted(phony[1].split())


def test_documents_name_variables() -> None:
    """The reading of the documents finds what it is for."""
    assert "verilog TARGET=zcu102" in documented()
    assert {line.split()[0] for line in documented()} == set(targets())


@pytest.mark.parametrize("line", documented())
def test_documented_line_is_accepted(line: str) -> None:
    """``-n`` prints instead of running, but descends into the driver's Makefile."""
    done = make("-n", *line.split())
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("target", ["help", "setup", "verilog", "sim"])
def test_small_target_runs(target: str) -> None:
    done = make(target, "TARGET=nano")
    assert done.returncode == 0, done.stdout + done.stderr
    if target == "verilog":
        assert "module top" in (ROOT / "build" / "rtl" / "nano" / "top.v").read_text()


def test_unknown_target_of_the_driver_is_refused() -> None:
    done = make("-C", "firmware", "DRIVER_FOR=nano", "library")
    assert done.returncode != 0
    assert "DRIVER_FOR must be one of native" in done.stderr
