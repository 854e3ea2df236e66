"""A session: one bundle, several tasks, devices that stand in for each other."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, overload

import numpy as np
from numpy.typing import NDArray

from moesaic.host.failures import DeviceError
from moesaic.host.pool import FAILURES, Device, DevicePool, DeviceResult
from moesaic.spec.bundle import Bundle, load_bundle
from moesaic.spec.errors import UserError
from moesaic.spec.hostpart import task_outputs
from moesaic.spec.hostside import check_frames, quantise_input

if TYPE_CHECKING:
    from typing import Self  # Python 3.11; boards have 3.10

Inputs = Mapping[str, NDArray[Any]]
"""Input name to array, the batch axis first."""


class Outputs(dict[str, NDArray[np.float32]]):
    """Output arrays by name, and where they come from.

    Attributes
    ----------
    device
        Name of the device that ran the frames.
    latency_seconds
        From the first attempt to the answer, other devices' failures and the host's part included.
    result
        The integer codes and the counters behind the outputs.
    """

    def __init__(
        self,
        arrays: Mapping[str, NDArray[np.float32]],
        device: str,
        latency_seconds: float,
        result: DeviceResult,
    ) -> None:
        super().__init__(arrays)
        self.device, self.latency_seconds, self.result = device, latency_seconds, result


@dataclass(frozen=True)
class Placement:
    """What a session would do with a device now.

    ``state`` is ``first choice``, ``stand-in`` (used when those before it fail), ``unopened`` (not
    needed so far), or ``passed over`` with a ``reason``.
    """

    device: str
    state: str
    reason: str


class QueueFull(Exception):
    """So many frames wait that :meth:`Session.submit` takes no more; try again later."""


class Session:
    """Runs the tasks of a bundle, on the first device of a list that works.

    A device that fails while it runs, or gives no answer in time, loses the frame to the next one,
    with the same bits; it is opened again after a pause, and gets frames when it has given a stored
    answer right. May be used by several threads: a device does one thing at a time.

    Parameters
    ----------
    bundle
        A directory or a loaded bundle.
    devices
        Names by preference.
    options
        Options for devices by name, e.g. ``{"sim": {"dram": DramConfig()}}``.
    strict
        Use the first device only.
    queue_frames
        Most calls of :meth:`submit` that wait.
    pause_seconds
        Before a device that failed is tried again, doubled by every further failure.

    Raises
    ------
    UserError
        A device is unknown, or none can be opened; the message says why of each.
    """

    def __init__(
        self,
        bundle: Bundle | str | Path,
        devices: Sequence[str] = ("cpu",),
        options: Mapping[str, Mapping[str, Any]] | None = None,
        *,
        strict: bool = False,
        queue_frames: int = 16,
        pause_seconds: float = 1.0,
    ) -> None:
        self.bundle = bundle if isinstance(bundle, Bundle) else load_bundle(bundle)
        names = list(devices[:1] if strict else devices)
        self._host_parts = {task: self.bundle.host_part(task) for task in self.bundle.tasks}
        self._pool = DevicePool(self.bundle, names, options or {}, pause_seconds)
        self._free = threading.BoundedSemaphore(queue_frames)
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="moesaic")
        if self._pool.first() is None:
            raise UserError(f"no device can run {self.bundle.path}: {self._reasons()}")

    def _reasons(self) -> str:
        return "; ".join(f"{slot.name}: {slot.reason}" for slot in self._pool.slots if slot.reason)

    @property
    def device(self) -> Device:
        """The device that the next frame goes to first.

        Raises
        ------
        DeviceError
            None works at the moment.
        """
        device = self._pool.first()
        if device is None:
            raise DeviceError(f"no device works: {self._reasons()}")
        return device

    def placement(self) -> list[Placement]:
        """State of every device, in order of preference."""
        result: list[Placement] = []
        for slot in self._pool.slots:
            if slot.reason:
                state = "passed over"
            elif slot.device is None:
                state = "unopened"
            else:
                first = all(place.state != "first choice" for place in result)
                state = "first choice" if first else "stand-in"
            result.append(Placement(slot.name, state, slot.reason))
        return result

    @overload
    def run(self, inputs: Inputs, /, *, task: str | None = None) -> Outputs: ...

    @overload
    def run(self, inputs: Inputs, task: str | None, /) -> Outputs: ...

    @overload
    def run(
        self, outputs: Sequence[str] | None, inputs: Inputs, task: str | None = None
    ) -> Outputs: ...

    def run(
        self,
        outputs: Sequence[str] | Inputs | None,
        inputs: Inputs | str | None = None,
        task: str | None = None,
    ) -> Outputs:
        """Run frames: ``run({"image": x}, task="seg")`` or ``run(["seg"], {"image": x}, "seg")``.

        Parameters
        ----------
        outputs
            Names of the outputs that are wanted, as in ONNX Runtime; all without it.
        inputs
            Input name to array, as the ONNX model has it, with a batch axis of any length.
        task
            Which task; not needed if the bundle has only one.

        Raises
        ------
        UserError
            Unknown task or output, wrong input name or shape, values that are not finite, or a
            part on the host that cannot run.
        DeviceError
            Every device failed.
        """
        if isinstance(outputs, Mapping):
            if inputs is not None and not isinstance(inputs, str):
                raise UserError("Session.run takes output names or None before the inputs")
            return self._run(outputs, inputs if task is None else task)
        if not isinstance(inputs, Mapping):
            raise UserError("Session.run needs the inputs: a mapping of input names to arrays")
        if isinstance(outputs, str):
            raise UserError(f"Session.run takes a list of output names, not {outputs!r}")
        name = self.bundle.task(task)
        known = self.bundle.outputs(name)
        for wanted in outputs or ():
            if wanted not in known:
                only = ", ".join(repr(output) for output in known)
                raise UserError(f"task {name} has no output {wanted!r}, only {only}")
        answer = self._run(inputs, name)
        for output in set(answer).difference(outputs or answer):
            del answer[output]
        return answer

    def _run(self, inputs: Inputs, task: str | None) -> Outputs:
        name = self.bundle.task(task)
        graph, host_part = self.bundle.graphs[name], self._host_parts[name]
        if host_part is not None:
            host_part.open()  # whatever is wrong with it shows before a device runs
        frames = check_frames(
            inputs, graph.input_name, graph.input_shape, task=name, holder="the input"
        )
        patches = quantise_input(graph, frames)
        started = time.perf_counter()
        for slot in self._pool.slots:
            with slot.lock:
                device = self._pool.ready(slot)
                if device is None:
                    continue
                try:
                    result = device.run(name, patches)
                except FAILURES as error:
                    self._pool.fail(slot, str(error))
                    continue
                self._pool.worked(slot)
            arrays = task_outputs(graph, result.codes, host_part)
            return Outputs(arrays, slot.name, time.perf_counter() - started, result)
        raise DeviceError(f"no device could run task {name}: {self._reasons()}")

    def submit(self, inputs: Inputs, task: str | None = None) -> Future[Outputs]:
        """Like ``run(inputs, task)``, in the background and in the order of the calls.

        Raises
        ------
        QueueFull
            As many calls wait as the session's queue holds.
        """
        if not self._free.acquire(blocking=False):
            raise QueueFull("the session's queue is full: wait for a result before the next frame")
        future = self._worker.submit(self._run, inputs, task)
        future.add_done_callback(lambda _: self._free.release())
        return future

    def close(self) -> None:
        """Finish what was submitted, and close the devices."""
        self._worker.shutdown()
        self._pool.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
