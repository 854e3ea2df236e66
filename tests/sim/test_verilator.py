"""The tool driver: lint verdicts, compile errors, grouping of sources."""

from __future__ import annotations

from pathlib import Path

import pytest

from moesaic.sim.library import build_library
from moesaic.sim.registered import register_inputs
from moesaic.sim.verilator import BuildError, lint, lump
from tests.sim.dummy_top import dummy_verilog

_CLEAN = """
module top(input clk, input rst, input [3:0] a, output reg [3:0] y);
  always @(posedge clk) y <= rst ? 4'd0 : y + a;
endmodule
"""


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [("y + a", "y + missing", "missing"), ("4'd0", "9'd0", "WIDTHTRUNC")],
)
def test_lint_accepts_clean_and_names_the_fault(
    old: str, new: str, complaint: str, tmp_path: Path
) -> None:
    path = tmp_path / "top.v"
    path.write_text(_CLEAN)
    lint(path)
    path.write_text(_CLEAN.replace(old, new))
    with pytest.raises(BuildError, match=complaint):
        lint(path)


def test_lint_accepts_the_registered_wrapper(tmp_path: Path) -> None:
    text, toplevel = register_inputs(_CLEAN, "top")
    path = tmp_path / f"{toplevel}.v"
    path.write_text(text)
    lint(path, toplevel)


def test_broken_verilog_fails_with_its_error_and_is_not_cached(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MOESAIC_CACHE", str(tmp_path))
    broken = dummy_verilog(1, 32).replace("assign word = memory[2]", "assign word = nowhere")
    with pytest.raises(BuildError, match="nowhere"):
        build_library(broken)
    assert not [path for path in (tmp_path / "verilator").iterdir() if path.is_dir()]


def test_lump_keeps_every_file_once_and_slow_code_apart(tmp_path: Path) -> None:
    sources = []
    for index, size in enumerate([400_000, 90_000, 10_000, 300_000, 2_000_000]):
        path = tmp_path / f"Vtop{index}{'__Slow' if index % 2 else ''}.cpp"
        path.write_text("x" * size)
        sources.append(path)
    lumps = lump(sources, tmp_path)
    included = [line for path in lumps for line in path.read_text().splitlines()]
    assert sorted(included) == sorted(f'#include "{path}"' for path in sources)
    for path in lumps:
        assert ("__Slow" in path.read_text()) == ("Slow" in path.stem)
