"""One architecture through the compiler: what becomes of it."""

from __future__ import annotations

import json
import subprocess
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from moesaic.models.commands import module, moesaic
from moesaic.models.zoo.entry import Entry
from moesaic.models.zoo.keys import row_key

STATES = ("whole", "partitioned", "refused", "wrong", "crash", "no export", "too slow")
"""``wrong``: recognised as something else, which the comparison with ONNX Runtime has found, or its
twin differs on the RTL. ``no export``: torch writes no ONNX of it."""
_MISREAD = "was not recognised for what it is"
_REFUSED = 2
TWIN_TARGET = "nano"
WITHOUT = ("ranges", "feedback")
"""Of quantisation: what takes most of a trial's time, and brings a decibel or two."""
SECONDS = 900
"""A trial whose step takes longer is ended."""

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
    key
        Of :func:`~moesaic.models.zoo.keys.row_key`.
    form, opset
        Of the exported file: by torch's newer exporter, ``dynamo``, or the older one, ``trace``.
    tokens, sqnr_db
        Of the accelerator's part; the latter of the whole task, on samples held out.
    macs, host_macs
        Multiply-accumulates of the accelerator's part of what was built, and of the host's if they
        can be counted.
    blocks, full_macs, cycles
        Of the whole architecture: its blocks where fewer were built, the accelerator's part of its
        multiply-accumulates, and cycles by preset, of those that hold it. None and {} where the
        graph is not one block several times.
    rtl, rtl_cycles
        What became of a small twin on the RTL: ``exact``, or why there is none.
    seconds
        That the trial took.
    """

    name: str
    family: str
    source: str
    state: str
    why: str = ""
    key: str = ""
    form: str = ""
    opset: int | None = None
    tokens: int | None = None
    sqnr_db: float | None = None
    macs: int | None = None
    host_macs: int | None = None
    blocks: int | None = None
    full_macs: int | None = None
    cycles: dict[str, int] = field(default_factory=dict)
    rtl: str = ""
    rtl_cycles: int | None = None
    seconds: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def run_trial(entry: Entry, rtl: bool = False) -> Row:
    """Export, compile and estimate it; with ``rtl`` also run a small twin on the RTL."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="zoo-") as folder:
        found = _run(entry, Path(folder), rtl)
    seconds = round(time.monotonic() - began, 1)
    key = row_key(entry, rtl)
    return Row(entry.name, entry.family, entry.source, **found, key=key, seconds=seconds)


def _run(entry: Entry, folder: Path, rtl: bool) -> dict[str, Any]:
    target = folder / "zoo.json"
    target.write_text(json.dumps(ROOMY))
    try:
        twin = ["--twin"] if rtl else []
        done = _command(module("models.zoo.export", entry.name, folder, *twin))
        if done.returncode:
            return {"state": "no export", "why": _last_line(done.stderr)}
        facts = json.loads((folder / "facts.json").read_text(encoding="utf-8"))
        found = {"opset": facts["opset"], "form": facts["form"]}
        done = _command(_compile(folder, str(target)))
        if done.returncode:
            return found | _refusal(done, folder)
        report = json.loads(_command(moesaic("inspect", folder / "bundle", "--json")).stdout)
        task = report["tasks"]["default"]
        host = [part["macs"] for part in (task.get("front"), task.get("host")) if part]
        found |= {
            "state": "partitioned" if host else "whole",
            "macs": task["macs"],
            "host_macs": None if None in host else sum(host),
            "tokens": task["tokens"],
            "sqnr_db": task["sqnr_db"],
        }
        found |= _full_depth(folder, facts["blocks"])
        return found | (_twin(facts["twin"], folder / "twin") if rtl else {})
    except subprocess.TimeoutExpired:
        return {"state": "too slow", "why": f"more than {SECONDS} s"}


def _compile(folder: Path, target: str) -> list[str]:
    return moesaic(
        *("compile", folder / "model.onnx", "--target", target, "--partition"),
        *("--calibrate", folder / "calibration.npz", "--held-out", folder / "held_out.npz"),
        *("--without", ",".join(WITHOUT), "-o", folder / "bundle"),
    )


def _full_depth(folder: Path, blocks: tuple[int, int] | None) -> dict[str, Any]:
    """Of the whole architecture: multiply-accumulates, and cycles by preset that holds it."""
    words: list[str | Path] = [
        "estimate",
        folder / "model.onnx",
        "--targets",
        "all",
        "--partition",
        "--json",
    ]
    if blocks:
        words += ["--blocks", f"{blocks[0]}:{blocks[1]}"]
    try:
        targets = json.loads(_command(moesaic(*words)).stdout)["targets"]
    except (ValueError, KeyError):  # blocks that differ
        return {}
    held = {found["target"]: found["tasks"]["default"] for found in targets if found["fits"]}
    return {
        "blocks": blocks[1] if blocks else None,
        "full_macs": next((found["macs"] for found in held.values()), None),
        "cycles": {name: found["cycles"] for name, found in held.items()},
    }


def _twin(missing: str, folder: Path) -> dict[str, Any]:
    """A small model of the same structure on the RTL, bit for bit: what became of it. ``missing``
    says why there is none, if so."""
    if missing:
        return {"rtl": _last_line(missing)}
    done = _command(_compile(folder, TWIN_TARGET))
    if done.returncode:
        found = _refusal(done, folder)
        return found if found["state"] == "crash" else {"rtl": f"refused: {found['why']}"}
    done = _command(moesaic("verify", folder / "bundle", "--samples", "1", "--json"))
    try:
        verdict = json.loads(done.stdout)["tasks"]["default"]
    except (ValueError, KeyError):
        return {"state": "crash", "why": f"twin: {_last_line(done.stderr)}"}
    if done.returncode or not verdict["bit_exact"]:
        return {"state": "wrong", "why": f"RTL: {verdict['first_difference']}", "rtl": "differs"}
    return {"rtl": "exact", "rtl_cycles": verdict["cycles"][0]}


def _command(words: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(words, capture_output=True, text=True, check=False, timeout=SECONDS)


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "no message"


def _refusal(done: subprocess.CompletedProcess[str], folder: Path) -> dict[str, Any]:
    why = _last_line(done.stderr).replace(f"{folder}/", "").removeprefix("moesaic: ")
    if done.returncode != _REFUSED or "Traceback" in done.stderr:
        places = [line for line in done.stderr.splitlines() if line.strip().startswith("File ")]
        where = f" ({places[-1].strip()})" if places else ""
        return {"state": "crash", "why": f"{why}{where}, exit code {done.returncode}"}
    return {"state": "wrong" if _MISREAD in why else "refused", "why": why}
