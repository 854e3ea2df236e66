"""ONNX Runtime's ``InferenceSession``, with an accelerator behind it."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from moesaic.host.session import Session
from moesaic.spec.arch import ArchConfig
from moesaic.spec.arrays import open_arrays
from moesaic.spec.bundle import load_bundle
from moesaic.spec.cache import cached, content_key, sources
from moesaic.spec.errors import UserError
from moesaic.spec.presets import load_arch

PROVIDERS = {
    "FPGAExecutionProvider": "fpga",
    "SimulationExecutionProvider": "sim",
    "CUDAExecutionProvider": "cuda",
    "CPUExecutionProvider": "cpu",
}
"""Names in ONNX Runtime's manner to devices; devices go by their own names, too."""

Calibration = str | Path | NDArray[Any] | Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class NodeArg:
    """An input or output as ONNX Runtime describes it."""

    name: str
    shape: list[int | str]
    type: str = "tensor(float)"


class InferenceSession:
    """Takes a model and runs it, with the calls of ``onnxruntime.InferenceSession``.

    A model is compiled at first and kept in the cache; a bundle is taken as it is.

    Parameters
    ----------
    path_or_bytes
        ONNX file, its contents, or a bundle's directory.
    sess_options
        Not used; there for ONNX Runtime's order of arguments.
    providers
        Devices by preference: ``cpu``, ``CPUExecutionProvider``, or pairs of one and its options.
    provider_options
        Options of each provider, in the same order.
    target
        What a model is compiled for: a preset, a JSON file, a configuration.
    calibration
        Samples that a model is quantised with: an .npz file, arrays by input name, or the array
        of its only input.
    task
        Which task of a bundle; not needed if it has only one.

    Raises
    ------
    UserError
        The model, the samples or a provider cannot be used.
    """

    def __init__(
        self,
        path_or_bytes: str | os.PathLike[str] | bytes,
        sess_options: object = None,
        providers: Sequence[str | tuple[str, Mapping[str, Any]]] | None = None,
        provider_options: Sequence[Mapping[str, Any]] | None = None,
        *,
        target: str | ArchConfig | None = None,
        calibration: Calibration | None = None,
        task: str | None = None,
    ) -> None:
        names, options = _devices(providers or ["cpu"], provider_options)
        bundle = load_bundle(_bundle_of(path_or_bytes, target, calibration))
        self._task = bundle.task(task)
        self._session = Session(bundle, names, options)

    @property
    def session(self) -> Session:
        """The session behind it, with all tasks of the bundle."""
        return self._session

    def run(
        self,
        output_names: Sequence[str] | None,
        input_feed: Mapping[str, NDArray[Any]],
        run_options: object = None,
    ) -> list[NDArray[np.float32]]:
        """Run frames, any number of them, and return the outputs in the order of their names.

        Raises
        ------
        UserError
            An input or output is unknown, or a shape or value is wrong.
        DeviceError
            Every device failed.
        """
        answer = self._session.run(output_names or None, input_feed, self._task)
        return [answer[name] for name in output_names or list(answer)]

    def get_inputs(self) -> list[NodeArg]:
        """The model's input; its first axis may have any length."""
        inputs = self._session.bundle.inputs(self._task)
        return [NodeArg(name, ["batch", *shape[1:]]) for name, shape in inputs.items()]

    def get_outputs(self) -> list[NodeArg]:
        """The outputs, in the order of :meth:`run`."""
        outputs = self._session.bundle.outputs(self._task)
        return [NodeArg(name, ["batch", *shape[1:]]) for name, shape in outputs.items()]

    def get_providers(self) -> list[str]:
        """The devices, by preference."""
        return [place.device for place in self._session.placement()]

    def run_with_iobinding(self, iobinding: object, run_options: object = None) -> NoReturn:
        """Refused: frames are quantised on the host, so there is no tensor to bind."""
        raise UserError(
            "run_with_iobinding is not there: frames are quantised on the host; call run instead"
        )

    def io_binding(self) -> NoReturn:
        """Refused as :meth:`run_with_iobinding`."""
        self.run_with_iobinding(None)

    def close(self) -> None:
        """Give the devices back."""
        self._session.close()

    def __enter__(self) -> InferenceSession:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def _devices(
    providers: Sequence[str | tuple[str, Mapping[str, Any]]],
    provider_options: Sequence[Mapping[str, Any]] | None,
) -> tuple[list[str], dict[str, Mapping[str, Any]]]:
    """Names of devices by preference, and their options."""
    if isinstance(providers, str):
        raise UserError(f"providers must be a list of names, not {providers!r}")
    given = [{}] * len(providers) if provider_options is None else list(provider_options)
    if len(given) != len(providers):
        raise UserError(
            f"provider_options must have an entry for each of {len(providers)} providers,"
            f" not {len(given)}"
        )
    names, options = [], {}
    for provider, more in zip(providers, given, strict=True):
        name, own = (provider, more) if isinstance(provider, str) else provider
        device = PROVIDERS.get(name, name)
        if name.endswith("ExecutionProvider") and name not in PROVIDERS:
            raise UserError(
                f"there is no provider {name!r}, only {', '.join(PROVIDERS)} and devices by name"
            )
        names.append(device)
        if own:
            options[device] = own
    return names, options


def _bundle_of(
    model: str | os.PathLike[str] | bytes,
    target: str | ArchConfig | None,
    calibration: Calibration | None,
) -> Path:
    """The bundle's directory, compiled if it is not there yet."""
    if not isinstance(model, bytes):
        path = Path(model)
        if path.is_dir():
            return path
        try:
            model = path.read_bytes()
        except OSError as error:
            raise UserError(f"{path} cannot be read: {error.strerror}") from error
    if target is None or calibration is None:
        raise UserError(
            "a model is compiled before it runs: give target= and calibration=, or a bundle"
        )
    arch = target if isinstance(target, ArchConfig) else load_arch(target)
    samples = calibration
    if isinstance(samples, (str, Path)):
        samples = open_arrays(samples)
    parts = [json.dumps(arch.to_dict()), *sources("moesaic.compiler", "moesaic.spec"), model]
    for name, value in ({"": samples} if isinstance(samples, np.ndarray) else samples).items():
        parts += [name, str(value.dtype), str(value.shape), np.ascontiguousarray(value).tobytes()]

    def build(folder: Path) -> None:
        from moesaic.compiler.driver import compile

        with tempfile.TemporaryDirectory() as scratch:
            file = Path(scratch) / "model.onnx"
            file.write_bytes(model)
            compile({"default": file}, arch, samples, folder / "bundle")

    return cached("sessions", content_key(parts), build) / "bundle"
