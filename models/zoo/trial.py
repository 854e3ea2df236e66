"""One architecture through the project's commands: what becomes of it."""

from __future__ import annotations

import json
import subprocess
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from moesaic.models.commands import module, moesaic
from moesaic.models.zoo.entry import Entry

STATES = ("whole", "partitioned", "refused", "misread", "crash", "no export", "too slow")
"""``misread``: recognised as something else, which the comparison with ONNX Runtime has found.
``no export``: torch writes no ONNX of it."""
_MISREAD = "was not recognised for what it is"
_REFUSED = 2
SECONDS = 900
"""A trial that takes longer is ended."""

# Memories for whatever a row needs: the zoo asks what is understood, not what fits a part.
ROOMY = {
    "name": "zoo",
    "depth": 64,
    "width": 64,
    "packed": True,
    "lanes": 32,
    "accumulator_rows": 4096,
    "activation_bytes": 8 << 20,
    "residual_bytes": 4 << 20,
    "weight_ports": 4,
    "ring_read_bytes": 256,
    "ring_bytes": 2 << 20,
    "output_ports": 4,
    "max_tokens": 2048,
    "max_experts": 64,
}


@dataclass(frozen=True)
class Row:
    """What was found of an architecture.

    Attributes
    ----------
    state
        One of :data:`STATES`.
    why
        The refusal's sentence, or the last line of an error.
    macs, host_macs
        Multiply-accumulates of the accelerator's part, and of the host's if they can be counted.
    tokens, cycles, sqnr_db
        Of the accelerator's part; cycles by the cost model on :data:`ROOMY`.
    targets
        Presets that hold it.
    seconds
        That the trial took.
    """

    name: str
    family: str
    source: str
    state: str
    why: str = ""
    macs: int | None = None
    host_macs: int | None = None
    tokens: int | None = None
    cycles: int | None = None
    sqnr_db: float | None = None
    targets: tuple[str, ...] = ()
    seconds: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "no message"


def run_trial(entry: Entry) -> Row:
    """Export, compile and estimate it."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="zoo-") as folder:
        found = _run(entry, Path(folder))
    seconds = round(time.monotonic() - began, 1)
    return Row(entry.name, entry.family, entry.source, **found, seconds=seconds)


def _run(entry: Entry, folder: Path) -> dict[str, Any]:
    target = folder / "zoo.json"
    target.write_text(json.dumps(ROOMY))
    try:
        done = _command(module("models.zoo.export", entry.name, folder))
        if done.returncode:
            return {"state": "no export", "why": _last_line(done.stderr)}
        model, bundle = folder / "model.onnx", folder / "bundle"
        samples = ("--calibrate", folder / "samples.npz", "--partition")
        done = _command(moesaic("compile", model, "--target", target, *samples, "-o", bundle))
        if done.returncode:
            return _refusal(done, folder)
        report = json.loads(_command(moesaic("inspect", bundle, "--json")).stdout)
        fits = _command(moesaic("estimate", model, "--targets", "all", "--partition", "--json"))
    except subprocess.TimeoutExpired:
        return {"state": "too slow", "why": f"more than {SECONDS} s"}
    task = report["tasks"]["default"]
    host = task.get("host")
    return {
        "state": "partitioned" if host else "whole",
        "macs": task["macs"],
        "host_macs": host["macs"] if host else 0,
        "tokens": task["tokens"],
        "cycles": task["cycles"],
        "sqnr_db": task["sqnr_db"],
        "targets": _holders(fits.stdout),
    }


def _command(words: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(words, capture_output=True, text=True, check=False, timeout=SECONDS)


def _refusal(done: subprocess.CompletedProcess[str], folder: Path) -> dict[str, Any]:
    why = _last_line(done.stderr).replace(f"{folder}/", "")
    if done.returncode != _REFUSED or "Traceback" in done.stderr:
        return {"state": "crash", "why": why}
    return {"state": "misread" if _MISREAD in why else "refused", "why": why}


def _holders(text: str) -> tuple[str, ...]:
    """Presets that an estimate says a model fits on; none where no estimate was made."""
    try:
        targets = json.loads(text)["targets"]
    except (ValueError, KeyError):
        return ()
    return tuple(found["target"] for found in targets if found["fits"])
