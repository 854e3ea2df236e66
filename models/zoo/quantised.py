"""Vision transformers of timm that ONNX Runtime has quantised: files of another flow."""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_static,
)

from moesaic.models.zoo import timm_entries
from moesaic.models.zoo.entry import Entry

CLASSES = 200
WHOLE = "vit_base_patch32_224"
"""Built at full depth."""

_Kind = tuple[str, str, dict[str, Any]]
KINDS: tuple[_Kind, ...] = (
    (WHOLE, "qdq", {}),
    ("deit_small_patch16_224", "qdq-channels", {"symmetric": True, "per_channel": True}),
    ("vit_tiny_patch16_224", "qdq-uint8", {"activations": QuantType.QUInt8}),
)
"""Architectures, and how each is quantised: by ONNX Runtime's defaults, and otherwise."""


class _Samples(CalibrationDataReader):
    def __init__(self, name: str, samples: np.ndarray) -> None:
        self._rest: Iterator[dict[str, np.ndarray]] = iter({name: s[None]} for s in samples)

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._rest, None)


def quantise_file(
    source: Path,
    target: Path,
    samples: np.ndarray,
    *,
    symmetric: bool = False,
    activations: QuantType = QuantType.QInt8,
    weights: QuantType = QuantType.QInt8,
    per_channel: bool = False,
    **options: Any,
) -> Path:
    """Write what ``quantize_static`` makes of a float file on ``samples`` [n, ...], in QDQ format;
    returns ``target``."""
    name = onnx.load(source).graph.input[0].name
    logging.disable(logging.WARNING)  # of preprocessing, which is not needed
    try:
        quantize_static(
            source,
            target,
            _Samples(name, samples),
            quant_format=QuantFormat.QDQ,
            per_channel=per_channel,
            activation_type=activations,
            weight_type=weights,
            extra_options={"ActivationSymmetric": symmetric, **options},
        )
    finally:
        logging.disable(logging.NOTSET)
    return target


def _quantise(options: dict[str, Any], path: Path, samples: np.ndarray) -> None:
    """Quantise a file in its place."""
    quantise_file(path, path.with_suffix(".qdq"), samples, **options).replace(path)


def entries() -> Iterator[Entry]:
    """Those of :data:`KINDS`."""
    for architecture, kind, options in KINDS:
        whole = architecture == WHOLE
        size = {"num_classes": CLASSES} | ({} if whole else {"depth": timm_entries.BLOCKS})
        yield Entry(
            f"{architecture}-{kind}",
            "quantised elsewhere",
            "timm",
            functools.partial(timm_entries.create, architecture, **size),
            functools.partial(timm_entries.input_shape, architecture),
            (lambda: None) if whole else functools.partial(timm_entries.blocks, architecture),
            functools.partial(timm_entries.twin, architecture),
            functools.partial(_quantise, options),
        )
