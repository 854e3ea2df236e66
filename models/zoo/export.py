"""Exports one architecture: ``python -m moesaic.models.zoo.export NAME FOLDER``.

Writes ``model.onnx`` and ``samples.npz``. A process of its own: libraries leak, and some crash.
"""

from __future__ import annotations

import argparse
import logging
import sys
import warnings
from pathlib import Path

import numpy as np
import torch

from moesaic.models.zoo import timm_entries
from moesaic.models.zoo.catalogue import catalogue

SAMPLES = 4


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m moesaic.models.zoo.export")
    parser.add_argument("name")
    parser.add_argument("folder", type=Path)
    options = parser.parse_args(arguments)
    entry = catalogue()[options.name]
    shape = entry.shape or timm_entries.input_shape(entry.name)
    torch.manual_seed(0)
    # Its notes on operators that are not needed here concern nobody.
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    options.folder.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            entry.build().eval(),
            (torch.randn(shape),),
            options.folder / "model.onnx",
            dynamo=True,
            input_names=["x"],
            external_data=False,
            verbose=False,
        )
    samples = np.random.default_rng(0).standard_normal((SAMPLES, *shape[1:]))
    np.savez(options.folder / "samples.npz", x=samples.astype(np.float32))
    return 0


if __name__ == "__main__":
    sys.exit(main())
