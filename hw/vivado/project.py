"""A project folder: all its files, written beside their places and then renamed."""

from __future__ import annotations

import json
import os
from pathlib import Path

from moesaic.hw.generate import cached_verilog
from moesaic.hw.vivado.block_design import block_design
from moesaic.hw.vivado.build import bif, build_tcl, out_of_context_xdc, timing_xdc
from moesaic.hw.vivado.ip import GUI, OUT_OF_CONTEXT, VERILOG, component_xml, gui_tcl
from moesaic.hw.vivado.overlay import overlay
from moesaic.hw.vivado.readme import readme
from moesaic.spec.arch import ArchConfig
from moesaic.spec.boards import Board
from moesaic.spec.errors import UserError
from moesaic.spec.parts import PARTS, known_part
from moesaic.spec.resource_model import shares, target_resources

SLOWEST_MHZ, FASTEST_MHZ = 10, 500
"""What the clock wizard can make of the processing system's clock, and sense allows."""


def check_fits(arch: ArchConfig, board: Board) -> None:
    """Refuse a target that exceeds the board's part by the resource model.

    Raises
    ------
    UserError
        It does.
    """
    name = known_part(board.part)
    assert name is not None, board.part
    share = shares(target_resources(arch, PARTS[name].family), PARTS[name])
    worst = max(share, key=lambda kind: share[kind])
    if share[worst] > 1:
        raise UserError(
            f"target {arch.name} takes {share[worst]:.0%} of the {worst} of {name} on board"
            f" {board.name}, by the resource model; `moesaic explore --part {name}` finds one that"
            " fits"
        )


def project_files(arch: ArchConfig, board: Board, clock_mhz: int) -> dict[str, str]:
    """Path below the folder to text.

    Raises
    ------
    UserError
        The target does not go with the board, or the clock is out of range.
    """
    if not SLOWEST_MHZ <= clock_mhz <= FASTEST_MHZ:
        raise UserError(f"--clock must be {SLOWEST_MHZ} to {FASTEST_MHZ} MHz, not {clock_mhz}")
    check_fits(arch, board)
    design = block_design(arch, board, clock_mhz)
    return {
        "README.md": readme(arch, board, clock_mhz),
        "arch.json": json.dumps(arch.to_dict(), indent=2) + "\n",
        "block_design.tcl": design,
        "build.tcl": build_tcl(board),
        "timing.xdc": timing_xdc(clock_mhz),
        "moesaic.bif": bif(board),
        "moesaic.dts": overlay(arch, board),
        "ip/component.xml": component_xml(arch, board.processor.family),
        f"ip/{VERILOG}": cached_verilog(arch),
        f"ip/{OUT_OF_CONTEXT}": out_of_context_xdc(clock_mhz),
        f"ip/{GUI}": gui_tcl(),
    }


def write_project(files: dict[str, str], folder: Path) -> list[Path]:
    """Write them; return their paths.

    Raises
    ------
    UserError
        The folder cannot be written.
    """
    paths = []
    try:
        for name, text in files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            draft = path.with_name(f".{path.name}.{os.getpid()}")
            draft.write_text(text, encoding="utf-8")
            draft.replace(path)
            paths.append(path)
    except OSError as error:
        raise UserError(f"output folder {folder} cannot be written: {error.strerror}") from error
    return paths
