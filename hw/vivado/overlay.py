"""The device tree overlay of a board, from the template that ``load.sh`` fills in on the board."""

from __future__ import annotations

from pathlib import Path

from moesaic.spec.arch import ArchConfig
from moesaic.spec.boards import REGISTER_WINDOW_BYTES, Board

TEMPLATE = Path(__file__).resolve().parents[2] / "firmware" / "board" / "moesaic.dtsi"
BUFFER, BUFFER_BYTES = "udmabuf0", 0x4000000
"""Name and size of the DMA buffer: those of ``load.sh``."""


def overlay(arch: ArchConfig, board: Board) -> str:
    """Source of the overlay, for ``dtc -@``."""
    system = board.processor
    values = {
        "CELLS": str(system.cells),
        "PROVIDER": system.clock_provider,
        "CONTROLLER": system.interrupt_controller,
        "HIGH": "0x0 " if system.cells == 2 else "",
        "REGISTERS": f"{board.registers:08x}",
        "REGISTER_BYTES": f"{REGISTER_WINDOW_BYTES:x}",
        "INTERRUPT": str(board.interrupt),
        "CLOCK_HZ": str(board.reference_mhz * 1_000_000),
        "BUFFER": BUFFER,
        "BUFFER_BYTES": f"{BUFFER_BYTES:x}",
        "COHERENT": " dma-coherent;" if arch.coherent else "",
    }
    text = TEMPLATE.read_text(encoding="utf-8")
    for name, value in values.items():
        text = text.replace(f"@{name}@", value)
    return text
