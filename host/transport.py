"""How Python reaches an accelerator: registers, memory and an interrupt.

The simulator implements :class:`Transport`, and so may anything else that is written in Python; it
need not know what the registers mean. :mod:`moesaic.host.platform` makes it a platform of the C
driver. A board's platform is in C itself.
"""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from typing import Self  # Python 3.11; boards have 3.10


@runtime_checkable
class Transport(Protocol):
    """One accelerator and the memory it shares with the host.

    Usable as a context manager, which closes it.
    """

    @property
    def memory_base(self) -> int:
        """First address that :meth:`read_memory` and :meth:`write_memory` accept, in bytes.

        It is the address that the accelerator's masters use too.
        """

    @property
    def memory_bytes(self) -> int:
        """Size of that memory in bytes."""

    def read_register(self, offset: int) -> int:
        """Read the 32-bit register at byte ``offset`` (a multiple of 4).

        Raises TransportError on an error response or when none comes.
        """

    def write_register(self, offset: int, value: int) -> None:
        """Write ``value`` (0 to 2**32 - 1) to the 32-bit register at byte ``offset``.

        Raises TransportError on an error response or when none comes.
        """

    def read_memory(self, address: int, size_bytes: int) -> bytes:
        """Copy ``size_bytes`` bytes out of the shared memory. Raises ValueError outside of it."""

    def write_memory(self, address: int, data: bytes | bytearray | memoryview) -> None:
        """Copy ``data`` into the shared memory. Raises ValueError outside of it."""

    def run(self, max_cycles: int) -> bool:
        """Wait for the interrupt, at most ``max_cycles`` accelerator cycles.

        Returns whether the interrupt is asserted; it stays so until a register write clears it.
        A board turns cycles into time. Raises TransportError when the hardware cannot go on.
        """

    def close(self) -> None:
        """Release the accelerator. Calling it again does nothing."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...
