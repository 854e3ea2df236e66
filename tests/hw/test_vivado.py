"""Projects for Vivado, as far as they can be checked without it. NOT RUN THROUGH VIVADO."""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
from pathlib import Path

import pytest

from moesaic.hw.bus import interfaces
from moesaic.hw.vivado import __main__ as command
from moesaic.hw.vivado import project
from moesaic.hw.vivado.block_design import CELL
from moesaic.spec.arch import ArchConfig
from moesaic.spec.boards import BOARDS, board_of, place_masters
from moesaic.spec.errors import UserError
from moesaic.spec.presets import PRESETS
from tests.hw.vivado_tcl import Run, addresses, check_calls, run_tcl

ROOT = Path(__file__).resolve().parents[2]
COHERENT = dataclasses.replace(PRESETS["zcu102"], name="snooping", coherent=True)
TARGETS = [PRESETS[name] for name in BOARDS] + [PRESETS["zcu102-lite"], COHERENT]


@pytest.fixture(autouse=True)
def no_verilog(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its generation takes seconds, and other tests look at it."""
    monkeypatch.setattr(project, "cached_verilog", lambda arch: "module top();\nendmodule\n")


def written(arch: ArchConfig, folder: Path, clock_mhz: int | None = None) -> Path:
    """A project on disk."""
    board = board_of(arch)
    files = project.project_files(arch, board, clock_mhz or board.clock_mhz)
    project.write_project(files, folder)
    return folder


def own_pins(arch: ArchConfig) -> set[str]:
    return {interface.name for interface in interfaces(arch)}


def built(arch: ArchConfig, folder: Path, words: str = "", **answers: object) -> Run:
    """A project whose script has been run."""
    where = written(arch, folder / "project")
    return run_tcl(where / "build.tcl", folder, words, **answers)  # type: ignore[arg-type]


@pytest.mark.parametrize("words", ["", "module", "project jobs=2"])
@pytest.mark.parametrize("arch", TARGETS, ids=lambda arch: arch.name)
def test_script_runs_and_knows_its_commands(arch: ArchConfig, words: str, tmp_path: Path) -> None:
    run = built(arch, tmp_path, words)
    check_calls(run, own_pins(arch), CELL)
    assert run.cells[CELL] == ("top" if words == "module" else "moesaic:ip:moesaic:1.0")
    board = board_of(arch)
    assert run.of("create_project")[0][-3:] == ["-part", board.part, "-force"]
    left = {call[-1].rpartition("/")[2] for call in run.of("file") if call[0] != "mkdir"}
    expected = {"moesaic.bit", "moesaic.hwh", "moesaic.bin"}
    assert left == (set() if "project" in words else expected)
    if "project" not in words:
        assert run.of("exec") == [
            ["bootgen", "-arch", board.processor.arch, "-image", "moesaic.bif",
             "-process_bitstream", "bin", "-w", "on"]
        ]  # fmt: skip


@pytest.mark.parametrize("arch", TARGETS, ids=lambda arch: arch.name)
def test_addresses_are_those_of_the_specification(arch: ArchConfig, tmp_path: Path) -> None:
    found = addresses(built(arch, tmp_path, "project"))
    board, places = board_of(arch), place_masters(arch, board_of(arch))
    assert found.pop(("ps/Data", f"{CELL}/s_axil/reg0")) == (board.registers, 4096)
    expected = {
        (f"{CELL}/m_axi_{name}", f"ps/{port.group}/{port.prefix}_{region.name}"): (
            region.base,
            region.size,
        )
        for name, port in places.items()
        for region in board.memory
    }
    assert found == expected and len({space for space, _ in found}) == arch.weight_ports + 1


def test_every_master_of_zcu102_has_a_port_of_its_own() -> None:
    places = place_masters(PRESETS["zcu102"], BOARDS["zcu102"])
    assert list(places) == ["w0", "w1", "w2", "w3", "d"]
    assert len({port.name for port in places.values()}) == 5
    snooping = place_masters(COHERENT, BOARDS["zcu102"])
    assert {port.name for port in snooping.values()} == {"S_AXI_HPC0_FPD", "S_AXI_HPC1_FPD"}


FAULTS = [
    # file, what stands there, what is put there, what the check says
    ("block_design.tcl", "connect_bd_net", "connect_bd_nets", "invalid command name"),
    ("block_design.tcl", "-vlnv", "-vnlv", "create_bd_cell has no option -vnlv"),
    ("block_design.tcl", "pl_resetn0", "pl_reset0", "ps has no pin pl_reset0"),
    ("block_design.tcl", "clock/clk_out1", "clok/clk_out1", "there is no cell clok"),
    ("block_design.tcl", "PSU__SAXIGP2__DATA_WIDTH", "PSU__SAXIGP2_DATA_WIDTH", "has no CONFIG"),
    ("block_design.tcl", "PSU__USE__S_AXI_GP4 {1}", "PSU__USE__S_AXI_GP4 {0}", "not switched on"),
    ("block_design.tcl", "[get_bd_pins ps/saxihp3_fpd_aclk] \\\n", "", "HP3_FPD has no clock"),
    ("block_design.tcl", f"{CELL}/m_axi_d", f"{CELL}/m_axi_w0", "is connected twice"),
    ("block_design.tcl", "    validate_bd_design", "    validate_bd_design now", "takes 0 to 0"),
    ("build.tcl", "-to_step", "-to_steps", "launch_runs has no option -to_steps"),
    ("build.tcl", "}\n\n# What a build", "\n\n# What a build", "missing close-brace"),
]  # fmt: skip


@pytest.mark.parametrize("file, good, bad, message", FAULTS, ids=[fault[3] for fault in FAULTS])
def test_a_fault_in_the_tcl_is_found(
    file: str, good: str, bad: str, message: str, tmp_path: Path
) -> None:
    arch = PRESETS["zcu102"]
    where = written(arch, tmp_path / "project")
    text = (where / file).read_text()
    assert good in text
    (where / file).write_text(text.replace(good, bad, 1))
    with pytest.raises(AssertionError, match=re.escape(message)):
        check_calls(run_tcl(where / "build.tcl", tmp_path), own_pins(arch), CELL)


@pytest.mark.parametrize(
    "words, answers, message",
    [
        ("", {"slack": -0.25}, "the setup slack is -0.25 ns: build again with a slower clock"),
        ("", {"boards": ""}, "Vivado has no board files tul.com.tw:pynq-z2"),
        ("fast", {}, "build.tcl takes project, module and jobs=N, not fast"),
        ("jobs=0", {}, "not jobs=0"),
    ],
)
def test_script_ends_with_an_error(
    words: str, answers: dict[str, object], message: str, tmp_path: Path
) -> None:
    run = built(PRESETS["pynq-z2"], tmp_path, words, **answers)
    assert message in run.error
    assert not [call for call in run.of("file") if call[0] != "mkdir"] and not run.of("exec")


def test_constraints_and_page_of_the_ip_are_tcl(tmp_path: Path) -> None:
    where = written(PRESETS["kv260"], tmp_path / "project", clock_mhz=125)
    run = run_tcl(where / "timing.xdc", tmp_path)
    assert run.error == "" and run.of("get_pins") == [["system_i/moesaic/irq"]]
    run = run_tcl(where / "ip" / "out_of_context.xdc", tmp_path)
    assert run.of("create_clock") == [["-name", "clk", "-period", "8.000", "clk"]]
    page = where / "ip" / "xgui" / "moesaic_v1_0.tcl"
    run = run_tcl(page, tmp_path, then="init_gui ip")
    assert run.error == "" and run.of("ipgui::add_param") == [["ip", "-name", "Component_Name"]]


@pytest.mark.parametrize("arch", TARGETS, ids=lambda arch: arch.name)
def test_overlay_is_the_one_that_the_board_makes(arch: ArchConfig, tmp_path: Path) -> None:
    where = written(arch, tmp_path)
    board = board_of(arch)
    bitstream = tmp_path / "moesaic.bin"
    bitstream.write_bytes(b"")
    options = [f"board={board.name}", f"coherent={int(arch.coherent)}", str(bitstream)]
    script = ROOT / "firmware" / "board" / "load.sh"
    done = subprocess.run(
        ["sh", str(script), "--dry-run", *options], capture_output=True, text=True, check=True
    )
    text = (where / "moesaic.dts").read_text()
    assert text in done.stdout
    assert f"moesaic@{board.registers:08x} {{" in text
    assert f"interrupts = <0 {board.interrupt} 4>" in text
    assert ("dma-coherent;" in text) == arch.coherent
    assert not re.search(r"@[A-Z]\w*@", text.split("/dts-v1/;")[1])


@pytest.mark.parametrize("name", BOARDS)
def test_readme_says_what_was_not_run(name: str, tmp_path: Path) -> None:
    where = written(PRESETS[name], tmp_path)
    for path in where.rglob("*.tcl"):
        assert "NOT RUN THROUGH VIVADO" in path.read_text() or path.parent.name == "xgui"
    text = (where / "README.md").read_text()
    assert "**NOT RUN THROUGH VIVADO.**" in text and f"{BOARDS[name].registers:08X}" in text
    assert ArchConfig.from_dict(json.loads((where / "arch.json").read_text())) == PRESETS[name]


def refusal(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The one sentence with which the command ends; 2 is its exit code."""
    assert command.main([*words]) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.startswith("error: ") and len(said.err.splitlines()) == 1
    return said.err


@pytest.mark.parametrize(
    "words, message",
    [
        (["--target", "zcu103"], "unknown target 'zcu103'"),
        (["--target", "nano"], "target nano has no board: its device 'tests and small parts'"),
        (["--target", "zcu102", "--board", "nexys"], "unknown board 'nexys'; use one of zcu102"),
        (["--target", "zcu102", "--board", "kv260"], "takes 475% of the bram36 of xck26"),
        (["--target", "ecp5-85"], "give the top.v of `make verilog TARGET=ecp5-85` to its maker's"),
        (["--target", "ecp5-85", "--board", "zcu102"], "Vivado is for AMD's parts"),
        (["--target", "kv260", "--clock", "1000"], "--clock must be 10 to 500 MHz, not 1000"),
        (["--target", "pynq-z2", "--board", "zcu102"], "must have secure false on board zcu102"),
    ],
)
def test_what_does_not_go_together_is_refused(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in refusal(capsys, *words, "-o", str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "fields, board, message",
    [
        ({"coherent": True}, "pynq-z2", "no place for masters that snoop; set coherent to false"),
        ({"max_burst": 64}, "pynq-z2", "has max_burst 64, and ports of board pynq-z2 take 16"),
        ({"weight_ports": 8, "ring_read_bytes": 64}, "pynq-z2", "no place for master w4; use 4"),
        ({"secure": False}, "pynq-z2", "must have secure true"),
    ],
)
def test_masters_without_a_place_are_refused(
    fields: dict[str, int], board: str, message: str
) -> None:
    arch = dataclasses.replace(PRESETS[board], **fields)
    with pytest.raises(UserError, match=message):
        place_masters(arch, BOARDS[board])


def test_command_writes_a_project(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert command.main(["--target", "kv260", "-o", str(out)]) == 0
    *paths, last = capsys.readouterr().out.splitlines()
    assert sorted(map(Path, paths)) == sorted(p for p in out.rglob("*") if p.is_file())
    assert "NOT RUN THROUGH VIVADO" in last
    (tmp_path / "file").write_text("")
    assert "cannot be written" in refusal(capsys, "--target", "kv260", "-o", str(tmp_path / "file"))


@pytest.mark.parametrize(("words", "warned"), [(["--clock", "400"], True), ([], False)])
def test_clock_above_the_models_is_warned_of(
    words: list[str], warned: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main(["--target", "kv260", "-o", str(tmp_path / "out"), *words]) == 0
    warning = capsys.readouterr().err
    assert warning.startswith("warning: 400 MHz are more than the ") if warned else not warning


@pytest.mark.parametrize("page", ["board.md", "vivado.md"])
def test_documents_name_the_addresses(page: str) -> None:
    """Of each board that a document speaks of, where it is."""
    text = (ROOT / "docs" / page).read_text()
    for board in BOARDS.values():
        high, low = f"{board.registers:08X}"[:4], f"{board.registers:08X}"[4:]
        assert f"0x{high}_{low}" in text and f"interrupt {board.interrupt}" in text, board.name


def test_document_has_the_place_of_every_master() -> None:
    text = (ROOT / "docs" / "vivado.md").read_text()
    rows = dict(re.findall(r"^\| `m_axi_(\w+)` \| (.*) \|$", text, re.M))
    for master, row in rows.items():
        systems = [board.processor for board in BOARDS.values()]
        expected = [system.places[master] for system in systems]
        expected.append(systems[0].coherent_places[master])
        assert re.findall(r"`(\w+)`", row) == expected
    assert all(set(rows) == set(board.processor.places) for board in BOARDS.values())
    assert BOARDS["zcu102"].processor is BOARDS["kv260"].processor
