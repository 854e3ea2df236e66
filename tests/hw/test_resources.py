"""Resource counts: blocks partition the design, cells have known costs, yosys agrees."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from moesaic.hw.generate import cached_verilog
from moesaic.hw.matrix.columns import ColumnPair
from moesaic.hw.memory.ram import Ram
from moesaic.hw.resources.__main__ import main
from moesaic.hw.resources.hierarchy import Block, Module, cut, read_modules
from moesaic.hw.resources.report import target_blocks
from moesaic.hw.resources.synthesis import SynthesisError, count_cells, leaf_cells, synthesise
from moesaic.hw.verilog import to_verilog
from moesaic.spec import memories
from moesaic.spec.memories import block_rams
from moesaic.spec.parts import find_part
from moesaic.spec.presets import PRESETS

SMALL = dataclasses.replace(
    PRESETS["zcu102"], name="pair", depth=8, width=8, lanes=4, ring_read_bytes=64,
    four_bit_weights=False, data_port_bytes=8, weight_port_bytes=8, output_ports=1,
)  # fmt: skip
DESIGN = """\
module top(a, y);
  input a;
  output y;
  \\top.left  left (
    .a(a)
  );
  \\top.left$1  again (
    .a(a)
  );
  \\top.right  right (
    .a(a)
  );
endmodule
module \\top.left (a);
  input a;
endmodule
module \\top.left$1 (a);
  input a;
endmodule
module \\top.right (a);
  input a;
  \\top.right.leaf  leaf (
    .a(a)
  );
endmodule
module \\top.right.leaf (a);
  input a;
endmodule
"""


def test_modules_and_their_children() -> None:
    modules = read_modules(DESIGN)
    assert modules["top"].children == ("top.left", "top.left$1", "top.right")
    assert modules["top.right"].children == ("top.right.leaf",)


def test_blocks_partition_the_design() -> None:
    blocks = {block.name: block for block in cut(DESIGN, "top", ["left", r"right\.leaf"])}
    assert set(blocks) == {"left", "right.leaf", "top"}
    assert blocks["left"].count == 2
    top = blocks["top"]
    assert top.boxes == ("top.left", "top.left$1", "top.right.leaf")
    assert "module \\top.right (" in top.verilog and top.verilog.count("blackbox") == 3


def test_pattern_without_module_is_refused() -> None:
    with pytest.raises(ValueError, match="nowhere"):
        cut(DESIGN, "top", ["nowhere"])


def test_cells_of_black_boxes_count_elsewhere() -> None:
    modules = {"top": {"box": 2, "part": 3, "LUT6": 1}, "part": {"FDRE": 4}, "box": {"LUT6": 9}}
    assert leaf_cells(modules, "top", {"box"}) == {"FDRE": 12, "LUT6": 1}
    assert leaf_cells(modules, "top", set()) == {"LUT6": 19, "FDRE": 12}


def test_costs_of_cells() -> None:
    cells = {"LUT6": 3, "RAM64M8": 1, "RAMB18E2": 3, "RAMB36E2": 1, "DSP48E2": 2, "CARRY4": 9}
    total = {"lut": 11, "ff": 0, "dsp": 2, "bram36": 2.5, "uram": 0}
    assert count_cells("xcup", cells) == total
    with pytest.raises(SynthesisError, match="RIDDLE"):
        count_cells("xcup", {"RIDDLE": 1})


def test_parts_are_found_by_their_number() -> None:
    assert find_part("XCZU9EG-ffvb1156-2-e", "xcup") == "xczu9eg"
    assert find_part("tests and small parts", "ecp5") == "lfe5u-85"


def instances(modules: dict[str, Module], top: str, boxes: tuple[str, ...] = ()) -> int:
    """Modules in ``top``, itself included, ``boxes`` and what is in them left out."""
    inside = (child for child in modules[top].children if child not in boxes)
    return 1 + sum(instances(modules, child, boxes) for child in inside)


def test_every_instance_is_in_one_block() -> None:
    arch = PRESETS["nano"]
    blocks = target_blocks(arch)
    assert {block.count for block in blocks} == {1, arch.width // 2}
    counted = [
        block.count * instances(read_modules(block.verilog), block.top, block.boxes)
        for block in blocks
    ]
    assert sum(counted) == instances(read_modules(cached_verilog(arch)), "top")


def _pair(packed: bool) -> Block:
    arch = dataclasses.replace(SMALL, packed=packed)
    return Block("pair", "pair", to_verilog(ColumnPair(arch), "pair"), ())


def test_two_packed_products_take_one_multiplier() -> None:
    plain, packed = (synthesise(_pair(packed), "xcup") for packed in (False, True))
    assert packed["dsp"] == SMALL.depth
    assert plain["dsp"] in (0, 2 * SMALL.depth)  # small products may go to LUTs
    # Two weights of 17 bits at most, shadow and active, in every row.
    assert packed["ff"] > 2 * 17 * SMALL.depth


def test_seven_series_takes_no_more_than_ultrascale() -> None:
    """Whose counts the resource model takes for both."""
    ultrascale, seven = (synthesise(_pair(False), family) for family in ("xcup", "xc7"))
    assert seven["dsp"] == ultrascale["dsp"] > 0
    assert 0 < seven["lut"] <= ultrascale["lut"] and 0 < seven["ff"] <= ultrascale["ff"]


def test_ultra_ram_is_counted_and_block_ram_where_there_is_none() -> None:
    """As many as the resource model says: nine bytes with write enables in one, and of what is left
    two words."""
    sizes = {"bits": 152, "words": 8192, "lanes": 19}
    ram = Ram(sizes["bits"], sizes["words"], sizes["lanes"], ultra=True)
    block = Block("ram", "ram", to_verilog(ram, "ram"), ())
    for family, kind in (("xcup", "uram"), ("xc7", "bram36")):
        counted = synthesise(block, family)
        assert counted[kind] == block_rams(memories.Ram("", **sizes), kind) > 0
        assert family != "xcup" or counted["uram"] == 5
        assert counted.get("bram36", 0) == (0 if family == "xcup" else counted[kind])
        assert counted["lut"] < 1000 > counted["ff"]  # it is no heap of flip-flops


def test_unknown_target_is_a_sentence(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["--target", "mars", "-o", str(tmp_path)]) == 2
    assert "unknown target 'mars'" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
