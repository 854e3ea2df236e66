"""What the C driver reaches its hardware through: a table of functions and a piece of memory."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any, Protocol

from moesaic.host.native import CopyMemory, CPlatform, ReadRegister, Wait, WriteRegister
from moesaic.host.transport import Transport


class Platform(Protocol):
    """One accelerator for :class:`moesaic.host.driver.Driver`."""

    table: CPlatform
    """Must stay alive as long as the driver."""
    memory_base: int
    memory_bytes: int
    """Device memory that the driver may use, as the accelerator addresses it."""

    def raise_pending(self) -> None:
        """Raise what made a function of the table fail, if it is known."""


class TransportPlatform:
    """A :class:`Transport`, written in Python, as the C driver wants it.

    An exception in the transport ends the driver's call; :meth:`raise_pending` raises it again on
    the caller's side, Ctrl-C included.
    """

    def __init__(self, transport: Transport) -> None:
        self.memory_base, self.memory_bytes = transport.memory_base, transport.memory_bytes
        self._pending: BaseException | None = None

        def guarded(action: Callable[..., None]) -> Callable[..., int]:
            def call(context: int | None, *arguments: Any) -> int:
                try:
                    action(*arguments)
                    return 0
                except BaseException as error:  # nothing may unwind through C
                    self._pending = error
                    return -1

            return call

        def read_register(offset: int, value: Any) -> None:
            value[0] = transport.read_register(offset)

        def write_register(offset: int, value: int) -> None:
            transport.write_register(offset, value)

        def read_memory(address: int, data: int, size: int) -> None:
            ctypes.memmove(data, transport.read_memory(address, size), size)

        def write_memory(address: int, data: int, size: int) -> None:
            transport.write_memory(address, ctypes.string_at(data, size))

        def wait(cycles: int, waited: Any) -> None:
            # Less than was asked for means that the interrupt came.
            waited[0] = 1 if transport.run(cycles) else cycles

        self.table = CPlatform(
            None,
            ReadRegister(guarded(read_register)),
            WriteRegister(guarded(write_register)),
            CopyMemory(guarded(read_memory)),
            CopyMemory(guarded(write_memory)),
            Wait(guarded(wait)),
        )

    def raise_pending(self) -> None:
        """Raise what the transport raised last, once."""
        error, self._pending = self._pending, None
        if error is not None:
            raise error
