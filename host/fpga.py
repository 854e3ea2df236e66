"""The device ``fpga``: an accelerator on this machine's bus, through Linux's UIO and u-dma-buf.

The platform is ``firmware/platforms/linux_uio.c``; numpy is all that this needs of Python.
"""

from __future__ import annotations

import ctypes
import os
from dataclasses import dataclass

from moesaic.host import native
from moesaic.host.accelerator import Accelerator
from moesaic.host.driver import Driver
from moesaic.host.failures import DeviceError
from moesaic.host.pool import DeviceUnavailable
from moesaic.spec.bundle import Bundle
from moesaic.spec.errors import UserError
from moesaic.spec.results import RESULT_DOCS, Result

MODES = ("uncached", "cached", "coherent")
"""How processor and accelerator see the same memory: see ``moesaic_uio_mode``."""


@dataclass(frozen=True, kw_only=True)
class UioPaths:
    """Where Linux shows the accelerator: see ``moesaic_uio_config``."""

    device: str
    map: str
    memory: str
    memory_attributes: str

    @classmethod
    def find(cls, name: str, buffer: str) -> UioPaths:
        """The usual places of the UIO device called ``name`` and of a u-dma-buf.

        Raises
        ------
        DeviceUnavailable
            There is no such UIO device.
        """
        number = ctypes.c_uint()
        if native.library().moesaic_uio_find(None, name.encode(), 0, ctypes.byref(number)):
            raise DeviceUnavailable(f"no UIO device is called {name!r}: is the overlay loaded?")
        return cls(
            device=f"/dev/uio{number.value}",
            map=f"/sys/class/uio/uio{number.value}/maps/map0",
            memory=f"/dev/{buffer}",
            memory_attributes=f"/sys/class/u-dma-buf/{buffer}",
        )


class UioPlatform:
    """An open UIO accelerator; implements :class:`moesaic.host.platform.Platform`.

    Raises
    ------
    DeviceUnavailable
        One of the files does not exist.
    DeviceError
        Another process has the accelerator, or a file cannot be used.
    """

    def __init__(self, paths: UioPaths, clock_hz: int, mode: str, interrupt: int | None) -> None:
        if mode not in MODES:
            raise UserError(f"fpga mode must be one of {', '.join(MODES)}, not {mode!r}")
        if clock_hz < 1:
            raise UserError(f"fpga clock_hz must be at least 1, not {clock_hz!r}")
        self._library = native.library()
        self._handle = ctypes.create_string_buffer(self._library.moesaic_uio_bytes())
        config = native.CUioConfig(
            *(os.fsencode(path) for path in vars(paths).values()),
            clock_hz,
            MODES.index(mode),
            None if interrupt is None else ctypes.pointer(ctypes.c_int(interrupt)),
        )
        self.table = native.CPlatform()
        code = self._library.moesaic_uio_open(
            self._handle, ctypes.byref(config), ctypes.byref(self.table)
        )
        seen = native.CUioHead.from_buffer(self._handle)
        if code != Result.OK:
            where = seen.failed.decode() if seen.failed else paths.device
            why = f": {os.strerror(seen.error)}" if seen.error else ""
            kind = DeviceUnavailable if code == Result.NO_DEVICE else DeviceError
            raise kind(f"{where}{why} ({RESULT_DOCS[Result(code)]})")
        self.memory_base, self.memory_bytes = seen.memory_base, seen.memory_bytes

    def raise_pending(self) -> None:
        """Raise what the operating system said of the last failure, if it was one of its."""
        seen = native.CUioHead.from_buffer(self._handle)
        if seen.failed:
            raise DeviceError(f"{seen.failed.decode()}: {os.strerror(seen.error)}")

    def close(self) -> None:
        """Let go of the accelerator; calling it again does nothing."""
        self._library.moesaic_uio_close(self._handle)


class FpgaDevice(Accelerator):
    """The accelerator in this machine's programmable logic.

    Parameters
    ----------
    bundle
        What to run; compiled for the bitstream that is loaded.
    name, buffer
        Names of the UIO device and of the u-dma-buf, as in the device tree.
    clock_hz
        The accelerator's clock. Waits are bounded by it: too low waits longer, never shorter.
    mode
        One of :data:`MODES`; ``coherent`` with a target that is (``ArchConfig.coherent``).
    watchdog_cycles
        A frame that takes longer ends in an error.
    paths
        Files instead of those that ``name`` and ``buffer`` stand for.
    interrupt
        A descriptor to take interrupts from instead of the UIO device.

    Raises
    ------
    DeviceUnavailable
        There is no such device here.
    DeviceError
        It is in use, or there is no accelerator behind it.
    UserError
        The bundle is for another architecture, or its data exceed the memory; the mode is
        ``coherent`` and the architecture is not.
    """

    name = "fpga"

    def __init__(
        self,
        bundle: Bundle,
        *,
        name: str = "moesaic",
        buffer: str = "udmabuf0",
        clock_hz: int = 100_000_000,
        mode: str = "uncached",
        watchdog_cycles: int = 100_000_000,
        paths: UioPaths | None = None,
        interrupt: int | None = None,
    ) -> None:
        if mode == "coherent" and not bundle.arch.coherent:
            raise UserError(
                f"fpga mode coherent needs a target whose masters snoop: that of the bundle,"
                f" {bundle.arch.name}, is not coherent; use mode uncached or cached"
            )
        self.platform = UioPlatform(paths or UioPaths.find(name, buffer), clock_hz, mode, interrupt)
        try:
            super().__init__(Driver(self.platform, bundle, watchdog_cycles))
        except BaseException:
            self.platform.close()
            raise

    def close(self) -> None:
        """Stop what runs and let go of the accelerator."""
        super().close()
        self.platform.close()
