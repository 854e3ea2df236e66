"""Plain files in place of a board's UIO device and DMA buffer, with a mock accelerator behind them.

The driver sees what Linux would show it: registers mapped from a file, memory mapped from another,
attributes, an interrupt by a socket. A thread plays the hardware: it looks for START.
"""

from __future__ import annotations

import mmap
import socket
import struct
import threading
import time
from pathlib import Path

from moesaic.host.fpga import UioPaths
from moesaic.spec import registers
from moesaic.spec.bundle import Bundle
from moesaic.spec.registers import bit, offset
from tests.host.register_mock import DONE, ERROR, Answers, RegisterMock

PHYSICAL = 0x8_7000_0000
PAGE = 4096


class UioFiles:
    """A board's files in ``folder``; ``start`` says whether frames that are started end."""

    def __init__(
        self,
        folder: Path,
        bundle: Bundle,
        memory_bytes: int = 1 << 22,
        answers: Answers | None = None,
    ) -> None:
        attributes = {
            "map/size": PAGE,
            "map/offset": 0,
            "buffer/phys_addr": PHYSICAL,
            "buffer/size": memory_bytes,
        }
        for name, value in attributes.items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text(f"0x{value:x}\n")
        for name, size in (("uio", PAGE), ("memory", memory_bytes)):
            with (folder / name).open("wb") as file:
                file.truncate(size)
        self.paths = UioPaths(
            device=str(folder / "uio"),
            map=str(folder / "map"),
            memory=str(folder / "memory"),
            memory_attributes=str(folder / "buffer"),
        )
        self.registers = self._map(folder / "uio")
        self._memory = self._map(folder / "memory")
        self.poke("ID", registers.MAGIC)
        self.poke("VERSION", registers.INTERFACE_VERSION)
        self.poke("ARCH_HASH", bundle.arch.hash)
        self.interrupt, self._line = socket.socketpair()
        self.interrupt.setblocking(False)
        self._mock = RegisterMock(bundle, memory_bytes, answers)
        self._mock.memory_base = PHYSICAL
        self.running = True
        self.hangs = False
        self._thread = threading.Thread(target=self._work)
        self._thread.start()

    @staticmethod
    def _map(path: Path) -> mmap.mmap:
        with path.open("r+b") as file:
            return mmap.mmap(file.fileno(), 0)

    def poke(self, name: str, value: int) -> None:
        struct.pack_into("<I", self.registers, offset(name), value)

    def peek(self, name: str) -> int:
        return int(struct.unpack_from("<I", self.registers, offset(name))[0])

    def _work(self) -> None:
        start, reset = bit("CONTROL", "START"), bit("CONTROL", "RESET")
        while self.running:
            control = self.peek("CONTROL")
            if control == 0:
                time.sleep(0.0005)
                continue
            self.poke("CONTROL", 0)
            # Writing ones clears causes: a file keeps them instead.
            self.poke("IRQ_STATUS", 0)
            if control == start and not self.hangs:
                self._frame()
            elif control == reset:
                self.poke("STATUS", 0)

    def _frame(self) -> None:
        mock = self._mock
        for register in registers.REGISTERS:
            if register.offset >= offset("PROGRAM_BASE_LO"):
                if register.offset < registers.COUNTER_BASE:
                    mock.write_register(register.offset, self.peek(register.name))
        mock.write_memory(PHYSICAL, self._memory[:])
        mock.write_register(offset("CONTROL"), bit("CONTROL", "START"))
        self._memory[:] = mock.read_memory(PHYSICAL, mock.memory_bytes)
        mock.run(1)
        mock.write_register(offset("IRQ_STATUS"), DONE | ERROR)
        self.poke("IRQ_STATUS", DONE)
        self._line.send(struct.pack("<I", 1))

    def close(self) -> None:
        self.running = False
        self._thread.join()
        self.interrupt.close()
        self._line.close()
