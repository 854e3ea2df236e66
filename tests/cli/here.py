"""The command line in this process: a new one needs seconds for its imports alone."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from moesaic.cli import main
from tests.e2e.conftest import Done


def moesaic_here(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *words: str | Path
) -> Done:
    """Run the ``moesaic`` command; ``capsys`` is emptied."""
    monkeypatch.setattr(sys, "argv", ["moesaic", *map(str, words)])
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        main()
    code = end.value.code if isinstance(end.value.code, int) else 0
    return Done(code, *capsys.readouterr())
