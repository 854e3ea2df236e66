"""A session: one bundle, several tasks, one of several devices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from moesaic.spec.bundle import Bundle, load_bundle
from moesaic.spec.errors import UserError
from moesaic.spec.hostside import dequantise_output, quantise_input

DEVICE_GROUP = "moesaic.devices"
"""Entry point group: name -> callable(bundle, **options) -> Device."""


@dataclass(frozen=True)
class DeviceResult:
    """Output codes [frames, rows, outputs] and, from hardware, each frame's counters."""

    codes: NDArray[np.int16]
    counters: list[dict[str, int]]


class Device(Protocol):
    """Something that runs integer graphs: all devices give the same bits."""

    name: str

    def run(self, task: str, patches: NDArray[np.int8]) -> DeviceResult:
        """Run frames [frames, patches, inputs] of one task."""

    def close(self) -> None:
        """Give the device back."""


class Session:
    """Runs the tasks of a bundle.

    Parameters
    ----------
    bundle
        A directory or a loaded bundle.
    devices
        Names by preference; the first one that can be opened is used.
    options
        Options for devices by name, e.g. ``{"sim": {"dram": DramConfig()}}``.

    Attributes
    ----------
    device
        The device in use.
    refusals
        Why the devices before it were passed over.
    """

    def __init__(
        self,
        bundle: Bundle | str | Path,
        devices: Sequence[str] = ("cpu",),
        options: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        self.bundle = bundle if isinstance(bundle, Bundle) else load_bundle(bundle)
        self.refusals: dict[str, str] = {}
        self.device = self._open(devices, options or {})

    def _open(self, devices: Sequence[str], options: Mapping[str, Mapping[str, Any]]) -> Device:
        known = {point.name: point for point in entry_points(group=DEVICE_GROUP)}
        for name in devices:
            if name not in known:
                raise UserError(f"unknown device {name!r}; devices are {', '.join(sorted(known))}")
        for name in devices:
            try:
                device: Device = known[name].load()(self.bundle, **options.get(name, {}))
                return device
            except DeviceUnavailable as error:
                self.refusals[name] = str(error)
        reasons = "; ".join(f"{name}: {reason}" for name, reason in self.refusals.items())
        raise UserError(f"no device can run {self.bundle.path}: {reasons}")

    def run(
        self, inputs: Mapping[str, NDArray[Any]], task: str | None = None
    ) -> dict[str, NDArray[np.float32]]:
        """Run frames: {input name: array as the ONNX model has it, any batch} to outputs.

        Raises
        ------
        UserError
            Unknown task, wrong input name or shape, or values that are not finite.
        """
        return self.run_frames(inputs, task)[0]

    def run_frames(
        self, inputs: Mapping[str, NDArray[Any]], task: str | None = None
    ) -> tuple[dict[str, NDArray[np.float32]], DeviceResult]:
        """Like :meth:`run`, with the integer codes and counters behind it."""
        name = self.bundle.task(task)
        graph = self.bundle.graphs[name]
        result = self.device.run(
            name, quantise_input(graph, check_input(self.bundle, name, inputs))
        )
        return {graph.output_name: dequantise_output(graph, result.codes)}, result

    def close(self) -> None:
        """Close the device."""
        self.device.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


class DeviceUnavailable(Exception):
    """This device cannot be used here; the message says why."""


def check_input(
    bundle: Bundle, task: str, inputs: Mapping[str, NDArray[Any]]
) -> NDArray[np.float32]:
    """Return the task's input as float32 [frames, ...] or refuse it.

    Raises
    ------
    UserError
        The input is missing, has another shape or type, or holds NaN or infinity.
    """
    graph = bundle.graphs[task]
    if graph.input_name not in inputs:
        have = ", ".join(sorted(inputs)) or "nothing"
        raise UserError(f"task {task} needs the input {graph.input_name!r}; the file has {have}")
    array = np.asarray(inputs[graph.input_name])
    if array.dtype.kind not in "fiu":
        raise UserError(f"input {graph.input_name!r} must be float32, not {array.dtype}")
    if array.shape[1:] != tuple(graph.input_shape[1:]) or not len(array):
        want = "x".join(map(str, graph.input_shape[1:]))
        raise UserError(
            f"input {graph.input_name!r} must have the shape Nx{want},"
            f" not {'x'.join(map(str, array.shape))}"
        )
    if not np.isfinite(array).all():
        raise UserError(f"input {graph.input_name!r} holds NaN or infinity; clean the samples")
    return array.astype(np.float32)
