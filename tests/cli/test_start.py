"""What it takes to begin: nothing is loaded that a command does not need."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("numpy", "torch", "onnx", "onnxruntime", "amaranth", "matplotlib", "optuna", "starlette")


def loaded(code: str) -> set[str]:
    """Top-level modules that a fresh interpreter has loaded after ``code``."""
    tail = "\nimport sys; print('loaded', *{name.partition('.')[0] for name in sys.modules})"
    done = subprocess.run(
        [sys.executable, "-c", code + tail], capture_output=True, text=True, check=True
    )
    return set(done.stdout.splitlines()[-1].split())


HELP = """
import sys
from moesaic.cli import main
sys.argv = ["moesaic", *{arguments}]
try:
    main()
except SystemExit:
    pass
"""


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["serve", "--help"]])
def test_help_loads_nothing_heavy(arguments: list[str]) -> None:
    found = loaded(HELP.format(arguments=arguments))
    assert "typer" in found and not found & set(HEAVY)


def test_import_loads_nothing_at_all() -> None:
    assert not loaded("import moesaic") & {*HEAVY, "typer", "rich"}


def test_runtime_loads_numpy_alone() -> None:
    found = loaded("import moesaic; moesaic.Session; moesaic.load; moesaic.UserError")
    assert "numpy" in found and not found & {*HEAVY, "typer", "rich"} - {"numpy"}
