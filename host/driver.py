"""One bundle on one accelerator, through the C driver.

The driver itself is ``firmware/core``: the same object code runs on a board, on the simulator and
in the unit tests. This module gives it numpy arrays and turns its results into exceptions.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from moesaic.host import native
from moesaic.host.failures import DeviceError
from moesaic.host.platform import Platform
from moesaic.spec import layout, registers
from moesaic.spec.bundle import Bundle
from moesaic.spec.errors import UserError
from moesaic.spec.intgraph import InputCodes
from moesaic.spec.registers import ERROR_DOCS, ErrorCode
from moesaic.spec.results import RESULT_DOCS, Result

_WAYS_OUT = {
    Result.WRONG_ARCH: "compile for the accelerator that is there",
    Result.NO_MEMORY: "give the device more memory",
    Result.BAD_IMAGE: "compile it again",
    Result.CORRUPT_IMAGE: "compile it again",
}
"""Results that are the bundle's fault, not the device's."""
_POLL_CYCLES = 1_000_000  # a lost interrupt costs at most this: 3 ms at 300 MHz


@dataclass(frozen=True)
class FrameResult:
    """Output codes of one frame and the performance counters it left."""

    codes: NDArray[np.int16]
    """[codes], of all outputs, one behind the other"""
    counters: dict[str, int]


class Driver:
    """One bundle loaded into one accelerator. For one thread at a time.

    Parameters
    ----------
    platform
        The accelerator. Its memory is laid out by this driver, from its base upwards.
    bundle
        What to run; its architecture must be the accelerator's.
    watchdog_cycles
        A frame that takes longer ends in an error.

    Raises
    ------
    DeviceError
        There is no accelerator behind the platform.
    UserError
        The bundle is for another architecture, or its data exceed the memory.
    """

    def __init__(
        self, platform: Platform, bundle: Bundle, watchdog_cycles: int = 100_000_000
    ) -> None:
        self.platform, self.bundle = platform, bundle
        self.watchdog_cycles = watchdog_cycles
        self._library = native.library()
        self._handle = ctypes.create_string_buffer(self._library.moesaic_device_bytes())
        config = native.CConfig(
            platform.memory_base, platform.memory_bytes, watchdog_cycles, _POLL_CYCLES
        )
        self._submitted = ""
        """Program of the frame that runs, or ran last."""
        self._call("open", ctypes.byref(platform.table), config)
        image = bundle.image
        self._call("load", image, len(image))
        self._tasks = {name: self._find(name) for name in bundle.programs}

    def _call(self, function: str, *arguments: object) -> None:
        """Call ``moesaic_<function>`` and raise what its result means."""
        code = getattr(self._library, f"moesaic_{function}")(self._handle, *arguments)
        if code == Result.OK:
            return
        self.platform.raise_pending()
        text = RESULT_DOCS[Result(code)]
        if code in _WAYS_OUT:
            arch = self.bundle.arch
            raise UserError(
                f"bundle {self.bundle.path} for {arch.name} (architecture 0x{arch.hash:08x}):"
                f" {text}; {_WAYS_OUT[Result(code)]}"
            )
        if code == Result.FRAME_ERROR:
            fault = native.CFault()
            self._library.moesaic_get_fault(self._handle, ctypes.byref(fault))
            kind = ErrorCode(fault.code)
            raise DeviceError(
                f"{kind.name} (info 0x{fault.info:x}) in program {self._submitted} of bundle"
                f" {self.bundle.path}: {ERROR_DOCS[kind]}"
            )
        raise DeviceError(text)

    def _find(self, name: str) -> tuple[int, native.CTask]:
        number, task = ctypes.c_uint32(), native.CTask()
        self._call("find_task", name.encode(), ctypes.byref(number))
        self._call("get_task", number, ctypes.byref(task))
        return number.value, task

    def run(self, task: str, patches: InputCodes) -> FrameResult:
        """Run one frame, or the frames of a joint program one behind the other: input codes
        [patches, inputs] to int16 codes.

        Raises
        ------
        DeviceError
            The frame ended in an error, or not at all, or the accelerator is gone. An accelerator
            that still answers has been reset.
        """
        self.write_input(task, patches)
        self.submit(task)
        self.wait()
        return FrameResult(self.read_output(task), self.counters())

    def write_input(self, task: str, patches: InputCodes) -> None:
        """Place the codes [patches, inputs] of the task's next frame; another task may run."""
        if patches.dtype == np.int16:  # the driver is given the residual stream in its words
            raw = layout.pack_residual(self.bundle.arch, patches.astype(np.int16))
            plain = np.frombuffer(raw, np.int8)
        else:
            plain = np.ascontiguousarray(patches, np.int8)
        self._call("write_input", self._tasks[task][0], plain.ctypes.data, plain.size)

    def submit(self, task: str) -> None:
        """Start a frame of the task on the input that was written last."""
        self._submitted = task
        self._call("submit", self._tasks[task][0])

    def wait(self, timeout_cycles: int | None = None) -> None:
        """Wait until the frame has ended, by default as long as the watchdog may take."""
        self._call("wait", timeout_cycles or self._library.moesaic_frame_timeout(self._handle))

    def read_output(self, task: str) -> NDArray[np.int16]:
        """Codes [codes] of the task's last frame; another task may run."""
        number, shape = self._tasks[task]
        codes = np.empty(native.output_codes(shape.info), np.int16)
        self._call("read_output", number, codes.ctypes.data, codes.size)
        return codes

    def reset(self) -> None:
        """Abandon whatever runs and wait until the accelerator is idle."""
        self._call("reset")

    def counters(self) -> dict[str, int]:
        """Performance counters of the last frame by name."""
        values = (ctypes.c_uint64 * len(registers.COUNTERS))()
        self._call("read_counters", values, len(values))
        return {name: value for (name, _), value in zip(registers.COUNTERS, values, strict=True)}

    @property
    def lost_interrupts(self) -> int:
        """Frames that were found done although no interrupt had come."""
        return int(self._library.moesaic_lost_interrupts(self._handle))

    def windows(self, task: str) -> dict[str, tuple[int, int]]:
        """(address, bytes) of what a task uses in device memory: ``weight0``, ``program``, ..."""
        arch, shape = self.bundle.arch, self._tasks[task][1]
        found = {name: getattr(shape, name) for name in ("program", "constant", "input")}
        for port in range(arch.output_ports):
            found[f"output{port}"] = shape.output[port]
        for port in range(arch.weight_ports):
            found[f"weight{port}"] = window = native.CWindow()
            self._call("get_weight_window", port, ctypes.byref(window))
        return {name: (window.address, window.bytes) for name, window in found.items()}

    def close(self) -> None:
        """Stop what runs and switch interrupts off; a device that is gone is left as it is."""
        self._library.moesaic_close(self._handle)
