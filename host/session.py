"""A session: one bundle, several tasks, devices that stand in for each other."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import astuple, dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from moesaic.host.failures import DeviceError
from moesaic.host.joint import JointWork
from moesaic.host.options import device_names
from moesaic.host.outputs import DeviceCall, Inputs, Outputs
from moesaic.host.pool import FAILURES, Device, DevicePool
from moesaic.host.sides import HostSides
from moesaic.host.waiting import Call, CallQueue
from moesaic.spec.bundle import Bundle, load_bundle
from moesaic.spec.errors import UserError
from moesaic.spec.notebook import html_table

if TYPE_CHECKING:
    from typing import Self  # Python 3.11; boards have 3.10


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
    batch_frames
        Most frames of several calls of :meth:`submit`, for the same tasks, that a device gets in
        one go; with 1 each call goes alone.
    batch_wait_seconds
        Longest time that they wait for each other while the device has nothing to do.

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
        batch_frames: int = 1,
        batch_wait_seconds: float = 0.0,
    ) -> None:
        frames = queue_frames, batch_frames
        if not all(isinstance(count, int | np.integer) and count >= 1 for count in frames) or not (
            isinstance(batch_wait_seconds, int | float | np.number)
            and 0 <= batch_wait_seconds < float("inf")
        ):
            raise UserError(
                "queue_frames and batch_frames must be at least 1, and batch_wait_seconds at"
                " least 0"
            )
        self.bundle = bundle if isinstance(bundle, Bundle) else load_bundle(bundle)
        names = device_names(devices)
        self._process, self._closed = os.getpid(), False
        self._sides = HostSides(self.bundle)
        self._pool = DevicePool(self.bundle, names, options or {}, pause_seconds, strict=strict)
        self._free = threading.BoundedSemaphore(queue_frames)
        self._batch_frames = batch_frames
        self._calls = CallQueue(
            self._serve, self._most_frames, batch_wait_seconds, most_calls=queue_frames
        )
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
            raise self._is_closed()
        if os.getpid() != self._process:
            raise UserError(
                f"the session of {self.bundle.path} was opened before this process was forked:"
                " open one in each process"
            )

    def _is_closed(self) -> UserError:
        return UserError(f"the session of {self.bundle.path} is closed: open another one")

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
        return self._run_now((name,), inputs)[name]

    def run_many(self, inputs: Inputs, tasks: Sequence[str] | None = None) -> dict[str, Outputs]:
        """Run several tasks: ``run_many({"image": x}, ["seg", "depth"])["seg"]["logits"]``.

        The bits are those of :meth:`run` for each of them. All run on one device, which gets
        those whose input has the same codes in one call; if it fails, the next one gets them all.

        Parameters
        ----------
        inputs
            Input name to array, of all these tasks, with a batch axis of any length.
        tasks
            Which tasks, each once; all of the bundle without it.

        Returns
        -------
        dict
            Outputs by task, in the order of ``tasks``.

        Raises
        ------
        UserError, DeviceError
            As :meth:`run`; there are all answers or none.
        """
        self._check_usable()
        return self._run_now(self._names(tasks), _mapping(inputs))

    def _names(self, tasks: Sequence[str] | None) -> tuple[str, ...]:
        if tasks is None:
            return tuple(self.bundle.tasks)
        given = tuple(tasks) if isinstance(tasks, Iterable) else (None,)
        if isinstance(tasks, str) or not all(isinstance(name, str) for name in given):
            raise UserError(f"tasks must be a list of names, not {tasks!r}")
        names = tuple(self.bundle.task(name) for name in given)
        if not names or len(set(names)) < len(names):
            raise UserError(f"tasks must be names, each once, not {list(given)!r}")
        return names

    def _run_now(self, tasks: tuple[str, ...], inputs: Inputs) -> dict[str, Outputs]:
        (answer,) = self._answers(tasks, [inputs])
        if isinstance(answer, Exception):
            raise answer
        return answer

    def _answers(
        self, tasks: tuple[str, ...], requests: Sequence[Inputs]
    ) -> Iterator[dict[str, Outputs] | Exception]:
        """Run the same tasks for several requests in one go.

        Gives outputs by task for each request in turn, or what is wrong with it alone.
        """
        started = time.perf_counter()
        work = JointWork(self._sides, tasks, requests)
        if work.frames:
            device = self._run_on_first(work)
            call = DeviceCall(work.requests, work.frames)
        for part in work.parts:
            if isinstance(part, Exception):
                yield part
                continue
            try:
                results = work.results(part)
                arrays = {task: self._sides.finish(task, results[task].codes) for task in tasks}
            except Exception as error:
                yield error
                continue
            seconds = time.perf_counter() - started
            yield {
                task: Outputs(arrays[task], device, seconds, results[task], call) for task in tasks
            }

    def _run_on_first(self, work: JointWork) -> str:
        """Name of the first device that does all of the work."""
        for slot in self._pool.slots:
            with slot.lock:
                device = self._pool.ready(slot)
                if device is None:
                    continue
                try:
                    work.run(device)
                except FAILURES as error:
                    self._pool.fail(slot, str(error))
                    continue
                self._pool.worked(slot)
            return slot.name
        raise DeviceError(f"no device could run {work}: {self._reasons()}")

    def submit(self, inputs: Inputs, task: str | None = None) -> Future[Outputs]:
        """Like ``run(inputs, task)``, in the background and in the order of the calls.

        With ``batch_frames`` above 1, calls overtake those for other tasks to be joined with
        earlier ones; the bits, and what is wrong with a call, are those of each alone.

        Raises
        ------
        UserError
            The session is closed, or another process's.
        QueueFull
            As many calls wait as the session's queue holds.
        """
        return self._put(lambda: (self.bundle.task(task),), inputs, True)

    def submit_many(
        self, inputs: Inputs, tasks: Sequence[str] | None = None
    ) -> Future[dict[str, Outputs]]:
        """Like ``run_many(inputs, tasks)``, in the background; otherwise as :meth:`submit`."""
        return self._put(lambda: self._names(tasks), inputs, False)

    def _put(
        self, names: Callable[[], tuple[str, ...]], inputs: Inputs, single: bool
    ) -> Future[Any]:
        self._check_usable()
        try:
            tasks, inputs = names(), _mapping(inputs)
        except UserError as error:  # told where all that is wrong with a call is told
            refused = Future[Any]()
            refused.set_exception(error)
            return refused
        if not self._free.acquire(blocking=False):
            raise QueueFull("the session's queue is full: wait for a result before the next frame")
        call = Call(tasks, inputs, self._sides.count(tasks, inputs), single)
        call.future.add_done_callback(lambda _: self._free.release())
        if not self._calls.put(call):
            call.future.cancel()
            raise self._is_closed()
        return call.future

    def _most_frames(self, tasks: Sequence[str]) -> int:
        """Of a batch, by what the session was told and what the device has a use for."""
        most = self._pool.batch_frames(tasks)
        return self._batch_frames if most is None else min(self._batch_frames, most)

    def _serve(self, calls: Sequence[Call]) -> None:
        """Answer calls for the same tasks, together."""
        left = list(calls)
        try:
            for answer in self._answers(calls[0].tasks, [call.inputs for call in calls]):
                left.pop(0).answer(answer)
        except DeviceError as error:
            for call in left:
                call.answer(error)
        except BaseException as error:
            # A fault, maybe by what one of them holds: the others have nothing to do with it.
            for call in left:
                if len(calls) == 1:
                    call.answer(error)
                else:
                    self._serve([call])

    def hurry(self) -> None:
        """Let no call of :meth:`submit` wait for others any more: they will not come."""
        self._calls.hurry()

    def close(self) -> None:
        """Finish what was submitted, and close the devices; again, or in a fork, does nothing."""
        if self._closed or os.getpid() != self._process:
            return
        self._calls.close()
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


def _mapping(inputs: Inputs) -> Inputs:
    """Refuse an array where arrays by name are asked for."""
    if not isinstance(inputs, Mapping):
        raise UserError(
            f"inputs must be a mapping of input names to arrays, not {type(inputs).__name__}"
        )
    return inputs
