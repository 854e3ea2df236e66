"""A session: one bundle, several tasks, devices that stand in for each other."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import astuple, dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, overload

import numpy as np
from numpy.typing import NDArray

from moesaic.host.failures import DeviceError
from moesaic.host.options import device_names
from moesaic.host.pool import FAILURES, Device, DevicePool, DeviceResult
from moesaic.spec.bundle import Bundle, load_bundle
from moesaic.spec.errors import UserError
from moesaic.spec.hostpart import front_frames, task_outputs
from moesaic.spec.hostside import quantise_input, task_frames
from moesaic.spec.notebook import html_table, shape_text

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
        From the first attempt to the answer, other devices' failures and the host's parts included.
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

    def __repr__(self) -> str:
        arrays = ", ".join(f"{k} {shape_text(v.shape)} {v.dtype}" for k, v in self.items())
        return f"<Outputs of {self.device} in {1000 * self.latency_seconds:.1f} ms: {arrays}>"


@dataclass(frozen=True)
class Placement:
    """What a session would do with a device now.

    ``state`` is ``first choice``, ``stand-in`` (used when those before it fail), ``unopened`` (not
    needed so far), or ``passed over`` with a ``reason``.
    """

    device: str
    state: str
    reason: str

    def _repr_html_(self) -> str:
        return html_table("placement", ("device", "state", "reason"), [astuple(self)])


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
        Names by preference: a sequence, or a text with commas between, as ``--device`` takes it.
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
        A device or an option is unknown, or none can be opened; the message says why of each.

    Notes
    -----
    A session belongs to the process that opened it: threads and connections to hardware do not
    survive a fork, so a forked child is refused and opens its own.
    """

    def __init__(
        self,
        bundle: Bundle | str | Path,
        devices: str | Sequence[str] = ("cpu",),
        options: Mapping[str, Mapping[str, Any]] | None = None,
        *,
        strict: bool = False,
        queue_frames: int = 16,
        pause_seconds: float = 1.0,
    ) -> None:
        self.bundle = bundle if isinstance(bundle, Bundle) else load_bundle(bundle)
        names = device_names(devices)
        self._process, self._closed = os.getpid(), False
        self._fronts = {task: self.bundle.front(task) for task in self.bundle.tasks}
        self._inputs = {task: self.bundle.inputs(task) for task in self.bundle.tasks}
        self._host_parts = {task: self.bundle.host_part(task) for task in self.bundle.tasks}
        self._pool = DevicePool(self.bundle, names, options or {}, pause_seconds, strict=strict)
        self._free = threading.BoundedSemaphore(queue_frames)
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="moesaic")
        if self._pool.first() is None:
            raise UserError(f"no device can run {self.bundle.path}: {self._reasons()}")

    def _reasons(self) -> str:
        return "; ".join(f"{slot.name}: {slot.reason}" for slot in self._pool.slots if slot.reason)

    def __repr__(self) -> str:
        devices = ", ".join(slot.name for slot in self._pool.slots)
        closed = ", closed" if self._closed else ""
        return f"<Session of {str(self.bundle.path)!r} on {devices}{closed}>"

    def _repr_html_(self) -> str:
        """A row of each device, for notebooks."""
        rows = [astuple(place) for place in self.placement()]
        return html_table(repr(self)[1:-1], ("device", "state", "reason"), rows)

    def _check_usable(self) -> None:
        if self._closed:
            raise UserError(f"the session of {self.bundle.path} is closed: open another one")
        if os.getpid() != self._process:
            raise UserError(
                f"the session of {self.bundle.path} was opened before this process was forked:"
                " open one in each process"
            )

    @property
    def device(self) -> Device:
        """The device that the next frame goes to first.

        Raises
        ------
        DeviceError
            None works at the moment.
        UserError
            The session is closed, or another process's.
        """
        self._check_usable()
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
        self._check_usable()
        name = self.bundle.task(task)
        graph, host_part = self.bundle.graphs[name], self._host_parts[name]
        if host_part is not None:
            host_part.open()  # whatever is wrong with it shows before a device runs
        frames = task_frames(self._inputs, name, inputs)
        started = time.perf_counter()
        (source,) = self._inputs[name]
        patches = quantise_input(graph, front_frames(self._fronts[name], source, frames))
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
        UserError
            The session is closed, or another process's.
        QueueFull
            As many calls wait as the session's queue holds.
        """
        self._check_usable()
        if not self._free.acquire(blocking=False):
            raise QueueFull("the session's queue is full: wait for a result before the next frame")
        future = self._worker.submit(self._run, inputs, task)
        future.add_done_callback(lambda _: self._free.release())
        return future

    def close(self) -> None:
        """Finish what was submitted, and close the devices; again, or in a fork, does nothing."""
        if self._closed or os.getpid() != self._process:
            return
        self._worker.shutdown()
        self._closed = True
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
