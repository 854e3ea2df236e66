"""Devices by preference: opened when needed, dropped when they fail, taken back later."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from moesaic.host.failures import DeviceError, TransportError
from moesaic.host.options import bind_options, check_option_devices, near
from moesaic.spec.bundle import Bundle
from moesaic.spec.errors import UserError
from moesaic.spec.extras import explained
from moesaic.spec.hostside import quantise_input
from moesaic.spec.intgraph import InputCodes

DEVICE_GROUP = "moesaic.devices"
"""Entry point group: name -> callable(bundle, **options) -> Device."""
FAILURES = (DeviceError, TransportError, OSError)
"""What a device raises when it, and not its input, is at fault."""
_LONGEST_PAUSE_SECONDS = 60.0


@dataclass(frozen=True)
class DeviceResult:
    """Output codes [frames, codes], of all outputs one behind the other, and, from hardware, each
    frame's counters, which are those of all frames and tasks that it was computed together with."""

    codes: NDArray[np.int16]
    counters: list[dict[str, int]]


class Device(Protocol):
    """Something that runs integer graphs: all devices give the same bits.

    A device may also have :meth:`TaskDevice.run_tasks`, and ``batch_frames``: the most frames that
    it runs faster in one call than in several, a number or a function of the call's tasks. A server
    joins no more requests than that; without it, as many as it is told to.
    """

    name: str

    def run(self, task: str, patches: InputCodes) -> DeviceResult:
        """Run frames [frames, patches, inputs] of one task."""

    def close(self) -> None:
        """Give the device back."""


@runtime_checkable
class TaskDevice(Device, Protocol):
    """A device that does something better than one task after the other."""

    def run_tasks(self, tasks: Sequence[str], patches: InputCodes) -> Mapping[str, DeviceResult]:
        """Run several tasks on the same frames [frames, patches, inputs]: a result for each.

        The tasks take the same codes for the same input, and the bits are those of
        :meth:`Device.run` for one task after the other.
        """


def run_tasks(
    device: Device, tasks: Sequence[str], patches: InputCodes
) -> Mapping[str, DeviceResult]:
    """Run several tasks on the same frames, in one call if the device has one for it.

    Raises
    ------
    DeviceError
        The device failed, or left something out.
    """
    if len(tasks) > 1 and isinstance(device, TaskDevice):
        results = device.run_tasks(tasks, patches)
        if missing := sorted(set(tasks).difference(results)):
            raise DeviceError(f"{device.name} gave no answer for task {missing[0]}")
        return results
    return {task: device.run(task, patches) for task in tasks}


class DeviceUnavailable(Exception):
    """This device cannot be used here; the message says why."""


@dataclass
class Slot:
    """One device of a session, whatever state it is in.

    Attributes
    ----------
    name
        As in the session's list.
    device
        Open, or ``None``.
    reason
        Why it is not used: empty while nothing is known against it.
    failures
        Failures since it last worked: every one doubles the pause before it is tried again.
    retry_at
        Not to be tried before this time; infinite for a device that could never be opened.
    lock
        Held while the device is opened or runs: devices do one thing at a time.
    """

    name: str
    open: Callable[[], Device]
    device: Device | None = None
    reason: str = ""
    failures: int = 0
    retry_at: float = 0.0
    lock: threading.RLock = field(default_factory=threading.RLock)


def open_device(
    name: str, kind: Callable[..., Device], bundle: Bundle, options: Mapping[str, Any]
) -> Device:
    """Make a device; options that it does not have are the user's error."""
    return kind(bundle, **bind_options(name, kind, options))


def _check_options(point: EntryPoint, options: Mapping[str, Any]) -> None:
    try:
        kind = point.load()
    except ImportError:
        return  # not installed: said when it is opened
    bind_options(point.name, kind, options)


class DevicePool:
    """The devices of a session, the preferred one first.

    Parameters
    ----------
    bundle
        What they run.
    names
        Entry points of :data:`DEVICE_GROUP`, by preference.
    options
        Arguments by device name.
    pause_seconds
        Time before a device that failed is tried again; doubled by every further failure.
    clock
        Seconds.

    strict
        Use the first name only.

    Raises
    ------
    UserError
        A name is no device, or options are none of a device's.
    """

    def __init__(
        self,
        bundle: Bundle,
        names: Sequence[str],
        options: Mapping[str, Mapping[str, Any]],
        pause_seconds: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
        *,
        strict: bool = False,
    ) -> None:
        known = {point.name: point for point in entry_points(group=DEVICE_GROUP)}
        for name in names:
            if name not in known:
                raise UserError(
                    f"unknown device {name!r}; devices are {', '.join(sorted(known))}"
                    f"{near(name, known)}"
                )
        check_option_devices(options, names, known)
        names = names[:1] if strict else names
        for name in names:
            if options.get(name):  # now, for a stand-in may be opened hours later
                _check_options(known[name], options[name])

        def opener(name: str) -> Callable[[], Device]:
            def open() -> Device:
                with explained():
                    return open_device(name, known[name].load(), bundle, options.get(name, {}))

            return open

        self.slots = [Slot(name, opener(name)) for name in names]
        self._bundle, self._pause, self._clock = bundle, pause_seconds, clock

    def ready(self, slot: Slot) -> Device | None:
        """The slot's device, opened if it is time to; the caller holds the slot's lock."""
        if slot.device is None and self._clock() >= slot.retry_at:
            self._open(slot)
        return slot.device

    def first(self) -> Device | None:
        """The device that the next frame goes to first."""
        for slot in self.slots:
            with slot.lock:
                if (device := self.ready(slot)) is not None:
                    return device
        return None

    def batch_frames(self, tasks: Sequence[str]) -> int | None:
        """Most frames of ``tasks`` that the preferred one of the open devices has a use for in one
        call.

        ``None`` if it does not say. It is a hint, so that nobody waits for a device that runs.
        """
        for slot in self.slots:
            if (device := slot.device) is not None:
                most = getattr(device, "batch_frames", None)
                most = most(tasks) if callable(most) else most
                return max(most, 1) if isinstance(most, int) else None
        return None

    def _open(self, slot: Slot) -> None:
        try:
            device = slot.open()
        except (DeviceUnavailable, UserError) as error:
            # Not a fault that passes: no driver, no board, a bundle for another architecture.
            slot.reason, slot.retry_at = str(error), float("inf")
            return
        except FAILURES as error:
            self.fail(slot, str(error))
            return
        slot.device = device
        if slot.failures:
            self._check(slot, device)
        if slot.device is not None:
            slot.reason = ""

    def _check(self, slot: Slot, device: Device) -> None:
        """A device that failed must give a stored answer before it gets frames again."""
        for task, graph in self._bundle.graphs.items():
            sample = self._bundle.samples.get(f"{task}.input")
            if sample is None:
                continue
            try:
                codes = device.run(task, quantise_input(graph, sample[:1])).codes
            except FAILURES as error:
                self.fail(slot, str(error))
                return
            if not np.array_equal(codes, self._bundle.samples[f"{task}.codes"][:1]):
                self.fail(slot, f"self-check of task {task}: wrong output")
                return

    def fail(self, slot: Slot, reason: str) -> None:
        """Close a device that failed; it is tried again after a pause."""
        slot.failures += 1
        slot.reason = reason
        pause = min(self._pause * 2 ** (slot.failures - 1), _LONGEST_PAUSE_SECONDS)
        slot.retry_at = self._clock() + pause
        device, slot.device = slot.device, None
        if device is not None:
            try:
                device.close()
            except FAILURES:
                pass  # it is lost anyway

    def worked(self, slot: Slot) -> None:
        """A frame came back: earlier failures are forgotten."""
        slot.failures = 0

    def close(self) -> None:
        """Close all devices; none is opened again."""
        for slot in self.slots:
            with slot.lock:
                slot.retry_at = float("inf")
                device, slot.device = slot.device, None
                if device is not None:
                    device.close()
