"""The hooks of .pre-commit-config.yaml: local ones only, of programs that are there."""

from __future__ import annotations

import importlib.util
import re
from typing import Any

import yaml

from moesaic.spec.generate import OUTPUTS
from tests.documents import ROOT


def hooks() -> dict[str, dict[str, Any]]:
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    assert [repository["repo"] for repository in config["repos"]] == ["local"]
    return {hook["id"]: hook for hook in config["repos"][0]["hooks"]}


def test_hooks_run_what_lint_runs() -> None:
    makefile = (ROOT / "Makefile").read_text()
    (recipe,) = re.findall(r"^lint:.*\n((?:\t.*\n)+)", makefile, re.M)
    for hook in hooks().values():
        assert hook["language"] == "system", "nothing is fetched"
        program, *rest = hook["entry"].split()
        words = rest[:2] if rest[0] == "-m" else rest[:1]
        if program == "make":
            assert rest == ["-s", "lint"]
            continue
        name = program.removeprefix(".venv/bin/")
        assert name != program
        assert f"$(BIN)/{name} {' '.join(words)}" in recipe
        assert name != "python" or importlib.util.find_spec(words[1])


def test_the_hook_of_generated_files_sees_all_of_them() -> None:
    pattern = re.compile(hooks()["generated"]["files"])
    assert all(pattern.search(name) for name in OUTPUTS)
    assert pattern.search("spec/isa.py") and not pattern.search("hw/core.py")
