"""Runs Tcl for Vivado without Vivado: commands are recorded, and held to what AMD documents.

The Tcl is run by a Tcl interpreter, with a procedure for each command of :data:`COMMANDS` that
writes down its arguments; any other command does not exist. What was recorded is then checked:
options and numbers of arguments (UG835), pins, interfaces and settings of the IP (PG065, PG082,
PG164, PG201, PG247). These tables are written from the documents, not from what they check.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

import pytest

MANY = 99
COMMANDS: dict[str, tuple[str, str, int, int]] = {
    # flags, options with a value, least and most other arguments; -quiet and -verbose are any's
    "create_project": ("-force -in_memory -ip", "-part", 0, 2),
    "current_project": ("", "", 0, 1),
    "get_board_parts": ("-latest_file_version -latest_hw_revision -regexp", "-filter", 0, 1),
    "set_property": ("", "-dict", 1, 3),
    "get_property": ("-min -max", "", 2, 2),
    "update_ip_catalog": ("-rebuild", "", 0, 0),
    "add_files": ("-norecurse -force", "-fileset", 0, 1),
    "get_files": ("-all -regexp", "-filter -of_objects", 0, 1),
    "current_fileset": ("-constrset -simset", "", 0, 1),
    "create_bd_design": ("", "-dir", 1, 1),
    "create_bd_cell": ("", "-type -vlnv -reference", 1, 1),
    "apply_bd_automation": ("", "-rule -config", 1, 1),
    "get_bd_cells": ("-hierarchical -regexp", "-filter -of_objects", 0, 1),
    "get_bd_pins": ("-hierarchical -regexp", "-filter -of_objects", 0, 1),
    "get_bd_intf_pins": ("-hierarchical -regexp", "-filter -of_objects", 0, 1),
    "get_bd_addr_spaces": ("-hierarchical -regexp", "-filter -of_objects", 0, 1),
    "get_bd_addr_segs": ("-hierarchical -regexp", "-filter -of_objects", 0, 1),
    "connect_bd_net": ("", "-net", 2, MANY),
    "connect_bd_intf_net": ("", "-intf_net", 2, 2),
    "assign_bd_address": ("-force", "-offset -range -target_address_space", 0, 1),
    "validate_bd_design": ("-force", "", 0, 0),
    "save_bd_design": ("", "", 0, 1),
    "make_wrapper": ("-top -import -force -testbench", "-files -fileset", 0, 0),
    "generate_target": ("-force", "", 2, 2),
    "launch_runs": ("-force", "-jobs -to_step", 1, MANY),
    "wait_on_run": ("", "-timeout", 1, 1),
    "get_runs": ("-regexp", "-filter", 0, 1),
    "open_run": ("", "-name", 1, 1),
    "report_timing_summary": ("-append", "-file -max_paths", 0, 0),
    "report_utilization": ("-hierarchical -append", "-file", 0, 0),
    "report_cdc": ("-details", "-file", 0, 0),
    "get_timing_paths": ("-setup -hold", "-max_paths -nworst", 0, 0),
    "write_hw_platform": ("-fixed -include_bit -force", "-file", 0, 1),
    "create_clock": ("-add", "-name -period -waveform", 1, 1),
    "get_ports": ("-regexp", "-filter -of_objects", 0, 1),
    "get_pins": ("-hierarchical -regexp", "-filter -of_objects", 0, 1),
    "set_false_path": ("-setup -hold", "-from -to -through", 0, 0),
    "ipgui::add_param": ("", "-name -parent -widget", 1, 1),
    "ipgui::add_page": ("", "-name -parent", 1, 1),
    # Of Tcl itself, and caught.
    "exec": ("", "-arch -image -process_bitstream -w", 1, 1),
    "file": ("-force", "", 2, 3),
}  # fmt: skip
PINS: dict[str, str] = {
    "xilinx.com:ip:zynq_ultra_ps_e": "pl_clk[0-3]|pl_resetn[0-3]|pl_ps_irq[01]|maxihpm[01]_fpd_aclk"
    "|maxihpm0_lpd_aclk|saxihp[0-3]_fpd_aclk|saxihpc[01]_fpd_aclk|M_AXI_HPM[01]_FPD|M_AXI_HPM0_LPD"
    "|S_AXI_HP[0-3]_FPD|S_AXI_HPC[01]_FPD",
    "xilinx.com:ip:processing_system7": "FCLK_CLK[0-3]|FCLK_RESET[0-3]_N|IRQ_F2P|M_AXI_GP[01]"
    "|M_AXI_GP[01]_ACLK|S_AXI_HP[0-3]|S_AXI_HP[0-3]_ACLK",
    "xilinx.com:ip:clk_wiz": "clk_in1|clk_out1|resetn|locked",
    "xilinx.com:ip:proc_sys_reset": "slowest_sync_clk|ext_reset_in|aux_reset_in|dcm_locked"
    "|mb_reset|bus_struct_reset|peripheral_reset|interconnect_aresetn|peripheral_aresetn",
    "xilinx.com:ip:smartconnect": r"aclk|aresetn|S\d\d_AXI|M\d\d_AXI",
}
"""Pins and interfaces by IP."""
SETTINGS: dict[str, str] = {
    "xilinx.com:ip:zynq_ultra_ps_e": "PSU__USE__M_AXI_GP[0-2]|PSU__USE__S_AXI_GP[0-6]"
    "|PSU__MAXIGP[0-2]__DATA_WIDTH|PSU__SAXIGP[0-6]__DATA_WIDTH|PSU__USE__IRQ[01]"
    "|PSU__FPGA_PL[0-3]_ENABLE|PSU__CRL_APB__PL[0-3]_REF_CTRL__FREQMHZ",
    "xilinx.com:ip:processing_system7": "PCW_USE_M_AXI_GP[01]|PCW_USE_S_AXI_HP[0-3]"
    "|PCW_S_AXI_HP[0-3]_DATA_WIDTH|PCW_USE_FABRIC_INTERRUPT|PCW_IRQ_F2P_INTR|PCW_EN_CLK[0-3]_PORT"
    "|PCW_EN_RST[0-3]_PORT|PCW_FPGA[0-3]_PERIPHERAL_FREQMHZ",
    "xilinx.com:ip:clk_wiz": "PRIM_SOURCE|CLKOUT1_REQUESTED_OUT_FREQ|USE_RESET|RESET_TYPE"
    "|RESET_PORT|USE_LOCKED",
    "xilinx.com:ip:smartconnect": "NUM_SI|NUM_MI|NUM_CLKS",
}
"""Properties ``CONFIG.*`` by IP."""
SWITCHES = {
    **{f"S_AXI_HP{n}_FPD": f"PSU__USE__S_AXI_GP{n + 2}" for n in range(4)},
    **{f"S_AXI_HPC{n}_FPD": f"PSU__USE__S_AXI_GP{n}" for n in range(2)},
    "M_AXI_HPM0_FPD": "PSU__USE__M_AXI_GP0",
    "pl_ps_irq0": "PSU__USE__IRQ0",
    "pl_clk0": "PSU__FPGA_PL0_ENABLE",
    **{f"S_AXI_HP{n}": f"PCW_USE_S_AXI_HP{n}" for n in range(4)},
    "M_AXI_GP0": "PCW_USE_M_AXI_GP0",
    "IRQ_F2P": "PCW_USE_FABRIC_INTERRUPT",
    "FCLK_CLK0": "PCW_EN_CLK0_PORT",
}
"""What a pin or interface of the processing system is switched on by."""

_PRELUDE = r"""
set ::calls {}
rename file real_file
rename exec real_exec
proc record {name arguments} {
    lappend ::calls [linsert $arguments 0 $name]
    switch -- $name {
        get_property {
            if {[lindex $arguments 0] eq "SLACK"} { return $::slack }
            return "100%"
        }
        get_board_parts { return $::boards }
    }
    set last [lindex $arguments end]
    return [expr {$last eq "" || [string index $last 0] eq "-" ? $name : $last}]
}
proc file {name args} {
    if {$name in {copy rename mkdir}} { return [record file [linsert $args 0 $name]] }
    return [uplevel 1 [linsert $args 0 real_file $name]]
}
namespace eval ipgui {}
foreach name $::known {
    if {$name ne "file"} { proc ::$name {args} "record [list $name] \$args" }
}
set ::failure ""
set ::argv $::words
if {[catch { source $::script; uplevel #0 $::then } message]} { set ::failure $message }
set channel [open $::log w]
fconfigure $channel -encoding utf-8
foreach call $::calls { puts -nonewline $channel "[join $call \x1f]\x1e" }
puts -nonewline $channel "\x1d$::failure"
close $channel
"""


@dataclass
class Run:
    """What a script did: calls with their arguments, and the error that ended it, if one did."""

    calls: list[list[str]]
    error: str
    cells: dict[str, str] = field(default_factory=dict)

    def of(self, name: str) -> list[list[str]]:
        """Arguments of the calls of one command."""
        return [call[1:] for call in self.calls if call[0] == name]


def run_tcl(
    script: Path, work: Path, words: str = "", slack: float = 0.1, boards: str = "a:b:part0:1.0",
    then: str = "",
) -> Run:  # fmt: skip
    """Run a script, and ``then`` some more Tcl, in whatever interpreter there is."""
    log, driver = work / "calls", work / "driver.tcl"
    settings = {"known": " ".join(COMMANDS), "words": words, "slack": slack, "boards": boards,
                "script": script, "log": log, "then": then}  # fmt: skip
    lines = [f"set ::{name} {{{value}}}" for name, value in settings.items()]
    driver.write_text("\n".join([*lines, _PRELUDE]))
    if shutil.which("tclsh"):
        subprocess.run(["tclsh", str(driver)], check=True, timeout=60)
    else:
        tkinter = pytest.importorskip("tkinter", reason="neither tclsh nor tkinter")
        tkinter.Tcl().eval(f"source {{{driver}}}")
    calls, _, error = log.read_text().partition("\x1d")
    return Run([call.split("\x1f") for call in calls.split("\x1e") if call], error)


def _options(call: list[str]) -> tuple[dict[str, str], list[str]]:
    """Options with their values, and the other arguments; unknown ones fail."""
    name, *words = call
    flags, valued, least, most = COMMANDS[name]
    options, rest, waiting = dict[str, str](), list[str](), iter(words)
    for word in waiting:
        if word in (*flags.split(), "-quiet", "-verbose"):
            options[word] = ""
        elif word in valued.split():
            options[word] = next(waiting, "")
            assert options[word], f"{name}: {word} needs a value"
        else:
            known = re.fullmatch(r"-\d+|[^-].*", word, re.S)
            assert known, f"{name} has no option {word}"
            rest.append(word)
    count = len(rest) + 2 * ("-dict" in options)
    assert least <= count <= most, f"{name} takes {least} to {most} arguments, not {rest}"
    return options, rest


def check_calls(run: Run, own_pins: set[str], own_cell: str) -> None:
    """Hold what was recorded to the tables, and the design to what makes it whole."""
    assert run.error == "", run.error
    for call in run.calls:
        options, rest = _options(call)
        if call[0] == "create_bd_cell":
            run.cells[rest[0]] = options.get("-vlnv", options.get("-reference", ""))
        if call[0] == "set_property" and "-dict" in options:
            ip = run.cells[rest[0]]
            for name in options["-dict"].split()[::2]:
                assert re.fullmatch(f"CONFIG.({SETTINGS[ip]})", name), f"{ip} has no {name}"
    connected: set[str] = set()
    for command in ("connect_bd_net", "connect_bd_intf_net"):
        for call in run.of(command):
            assert len(set(call)) == len(call)
            for place in call[1:] if command == "connect_bd_net" else call:
                assert place not in connected, f"{place} is connected twice"
                connected.add(place)
            connected.add(call[0])
    for place in connected:
        cell, _, pin = place.partition("/")
        assert cell in run.cells, f"there is no cell {cell}"
        known = "|".join(own_pins) if cell == own_cell else PINS[run.cells[cell]]
        assert re.fullmatch(known, pin), f"{cell} has no pin {pin}"
    missing = {f"{own_cell}/{pin}" for pin in own_pins} - connected
    assert not missing, f"not connected: {sorted(missing)}"
    _check_processor(run, connected)


def _check_processor(run: Run, connected: set[str]) -> None:
    """What is used of the processing system is switched on, and what is on has its clock."""
    (values,) = [
        call[1] for call in run.of("set_property") if call[0] == "-dict" and call[2] == "ps"
    ]
    words = values.split()
    on = {
        name.removeprefix("CONFIG."): value
        for name, value in zip(words[::2], words[1::2], strict=True)
    }
    for place in connected:
        cell, _, pin = place.partition("/")
        if cell == "ps" and pin in SWITCHES:
            assert on.get(SWITCHES[pin]) == "1", f"ps/{pin} is not switched on"
        if cell == "ps" and "_AXI_" in pin and not pin.endswith("ACLK"):
            low = pin.lower().replace("_", "", 2)
            clocks = {f"ps/{pin}_ACLK", f"ps/{low}_aclk"}
            assert clocks & connected, f"ps/{pin} has no clock"
        if run.cells.get(cell, "").endswith("smartconnect"):
            assert {f"{cell}/aclk", f"{cell}/aresetn"} <= connected


def addresses(run: Run) -> dict[tuple[str, str], tuple[int, int]]:
    """(space, segment) to (base, size) of every assignment."""
    found = {}
    for call in run.calls:
        if call[0] == "assign_bd_address":
            options, rest = _options(call)
            place = options["-target_address_space"], rest[0]
            assert place not in found
            found[place] = int(options["-offset"], 0), int(options["-range"], 0)
    return found
