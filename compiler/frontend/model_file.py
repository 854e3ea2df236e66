"""Models that are no files yet, as files: all that follows reads a file, more than once."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray

from moesaic.spec.errors import UserError

Model = Any
"""What a task may be given as: a path, an onnx.ModelProto, or a torch.nn.Module."""
_OPSET = 20
_EXPORT_IT = "export it with torch.onnx.export and give the file"


def is_proto(model: Any) -> bool:
    """Whether it is a model in memory."""
    return isinstance(model, onnx.ModelProto)


def is_module(model: Any) -> bool:
    """Whether it is a module of torch."""
    return isinstance(model, torch.nn.Module)


def write_proto(model: onnx.ModelProto, path: Path) -> None:
    """Write a model that is in memory.

    Raises
    ------
    UserError
        It is larger than ONNX can hold in one piece.
    """
    try:
        path.write_bytes(model.SerializeToString())
    except Exception as error:  # protobuf's own, for more than 2 GiB
        raise UserError(
            f"model {path.stem!r} must be smaller than 2 GiB with its weights: save it with"
            " external data and give the file"
        ) from error


def export_module(
    module: torch.nn.Module, input_name: str, frame: NDArray[np.float32], path: Path
) -> None:
    """Export a torch module of one input, for one frame, in evaluation mode.

    Parameters
    ----------
    module
        Called with the frame; left as it was.
    input_name, frame
        Its input, [1, ...] float32.
    path
        File to write; its stem names the output.

    Raises
    ------
    UserError
        torch cannot export it.
    """
    # The exporter reports operators of packages that are not needed here, and its own deprecations.
    logging.getLogger("torch.onnx._internal.exporter._registration").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), _evaluating(module), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                module,
                (torch.from_numpy(frame).to(_device(module)),),
                dynamo=True,
                opset_version=_OPSET,
                input_names=[input_name],
                output_names=[path.stem],
                verbose=False,
            )
        write_proto(program.model_proto, path)
    except UserError:
        raise
    except Exception as error:  # whatever the module, the tracer or the exporter raises
        reason = next(iter(str(error.__cause__ or error).strip().splitlines()), "")
        raise UserError(
            f"torch cannot export the module of task {path.stem!r}"
            f" ({reason or type(error).__name__}): {_EXPORT_IT}"
        ) from error


def _device(module: torch.nn.Module) -> torch.device:
    return next((p.device for p in module.parameters()), torch.device("cpu"))


def run_module(module: torch.nn.Module, frames: NDArray[np.float32]) -> NDArray[np.float32]:
    """What a module gives for frames [n, ...], one by one, in evaluation mode."""
    with torch.no_grad(), _evaluating(module):
        given = torch.from_numpy(frames).to(_device(module))
        return np.stack([module(frame[None])[0].float().cpu().numpy() for frame in given])


@contextmanager
def _evaluating(module: torch.nn.Module) -> Iterator[None]:
    modes = {part: part.training for part in module.modules()}
    try:
        module.eval()
        yield
    finally:
        for part, training in modes.items():
            part.training = training
