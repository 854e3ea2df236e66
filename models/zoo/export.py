"""Exports one architecture: ``python -m moesaic.models.zoo.export NAME FOLDER``.

Writes ``model.onnx``, ``calibration.npz``, ``held_out.npz`` and ``facts.json``; with ``--twin``
also those of a small model of the same structure to ``FOLDER/twin``. A process of its own:
libraries leak, and some crash.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import nn

from moesaic.models.zoo.catalogue import catalogue
from moesaic.models.zoo.entry import Entry

CALIBRATION, HELD_OUT = 4, 2
"""Samples of a trial."""
NEXT_TO_ZERO = 1e-3
NOISE = 0.02
"""As the libraries draw weights: more of it in biases would be most of an output, the same for
all samples, and its decibels."""

Rewrite = Callable[[Path, np.ndarray], None]


def enliven(module: nn.Module) -> None:
    """Add noise to parameters that begin as a constant or next to zero.

    Biases, gammas, layer scales, tables of positions: as they begin, a row would say nothing of
    what they do in a trained model, and class tokens of 1e-6 drown in a LayerNorm's epsilon.
    """
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.is_floating_point() and float(parameter.std(correction=0)) < NEXT_TO_ZERO:
                parameter += NOISE * torch.randn(parameter.shape, generator=generator)


def export(
    module: nn.Module, shape: tuple[int, ...], folder: Path, rewrite: Rewrite | None = None
) -> dict[str, Any]:
    """Write the ONNX file of a module, and samples; returns its opset and the exporter.

    Masks that are added to fused attention keep torch's newer exporter (``dynamo``) from some; the
    older one (``trace``) takes those.
    """
    torch.manual_seed(0)
    enliven(module)
    # Its notes on operators that are not needed here concern nobody.
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    folder.mkdir(parents=True, exist_ok=True)
    words: dict[str, Any] = {"input_names": ["x"], "external_data": False, "verbose": False}
    form = "dynamo"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        x = torch.randn(shape)
        try:
            torch.onnx.export(module.eval(), (x,), folder / "model.onnx", dynamo=True, **words)
        except Exception:  # its exceptions share no base class
            form = "trace"
            torch.onnx.export(module, (x,), folder / "model.onnx", dynamo=False, **words)
    rng = np.random.default_rng(0)
    for name, count in (("calibration", CALIBRATION), ("held_out", HELD_OUT)):
        samples = rng.standard_normal((count, *shape[1:])).astype(np.float32)
        np.savez(folder / f"{name}.npz", x=samples)
        if rewrite and name == "calibration":
            rewrite(folder / "model.onnx", samples)
    imports = onnx.load(folder / "model.onnx", load_external_data=False).opset_import
    opset = next(entry.version for entry in imports if entry.domain in ("", "ai.onnx"))
    return {"opset": opset, "form": form}


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m moesaic.models.zoo.export")
    parser.add_argument("name")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--twin", action="store_true", help="a small model of it, too")
    options = parser.parse_args(arguments)
    entry = catalogue()[options.name]
    torch.manual_seed(0)
    facts = export(entry.build(), entry.input_shape(), options.folder, entry.rewrite)
    facts["blocks"] = entry.blocks()
    if options.twin:
        facts["twin"] = _twin(entry, options.folder / "twin")
    (options.folder / "facts.json").write_text(json.dumps(facts), encoding="utf-8")
    return 0


def _twin(entry: Entry, folder: Path) -> str:
    """Export the small model; returns why there is none, or nothing."""
    torch.manual_seed(0)
    try:
        twin = entry.twin()
        if twin is None:
            return "no twin"
        export(*twin, folder, entry.rewrite)
    except Exception as error:  # a row says so
        return f"no export: {error}"
    return ""


if __name__ == "__main__":
    sys.exit(main())
