"""What a row's figures hang on, as one text: a rerun tries what it has changed for."""

from __future__ import annotations

import functools
import hashlib
import inspect
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from moesaic.models.zoo.entry import Entry

ROOT = Path(__file__).resolve().parents[2]
COMPILER = ("compiler", "spec", "models/zoo/export.py", "models/zoo/trial.py")
"""Of the project: what makes figures."""
GATEWARE = ("hw", "sim", "host")
"""And what computes a twin."""
MIXTURES = tuple(
    str(file.relative_to(ROOT)) for file in sorted((ROOT / "models" / "zoo").glob("mixture*.py"))
)
"""What writes the entries from here."""
LIBRARIES = ("torch", "onnx", "onnxscript", "onnxruntime", "numpy")


@cache
def _sources(*places: str) -> str:
    state = hashlib.sha256()
    for place in places:
        top = ROOT / place
        for file in sorted(top.rglob("*.py")) if top.is_dir() else [top]:
            state.update(f"{file.relative_to(ROOT)}\0".encode() + file.read_bytes())
    return state.hexdigest()


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


@cache
def _libraries(*names: str) -> str:
    return " ".join(f"{name}=={_version(name)}" for name in names)


def row_key(entry: Entry, rtl: bool) -> str:
    """Equal for trials that find the same: the entry, libraries and the project's own sources."""
    parts = [entry.name, _sources(*COMPILER), _libraries(*LIBRARIES)]
    if entry.source == "here":
        parts.append(_sources(*MIXTURES))
    else:
        parts.append(_libraries(entry.source))
        for part in (entry.build, entry.blocks, entry.small, entry.rewrite):
            if isinstance(part, functools.partial):
                parts += [inspect.getsource(part.func), repr(part.args)]
                parts += [repr(part.keywords)] if part.keywords else []
    if rtl:
        parts.append(_sources(*GATEWARE))
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
