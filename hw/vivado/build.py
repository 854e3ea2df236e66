"""What drives Vivado: the build script, timing constraints, and the list for ``bootgen``."""

from __future__ import annotations

from moesaic.hw.bus import CLOCK_PORT, INTERRUPT_PORT
from moesaic.hw.vivado.block_design import CELL, DESIGN
from moesaic.hw.vivado.ip import VERILOG, VLNV
from moesaic.hw.vivado.tcl import NOTICE
from moesaic.spec.boards import Board

_BUILD = """\
# {notice}
#
#   vivado -mode batch -source build.tcl [-tclargs OPTION...]
#
#   project     end with the validated block design
#   module      take {verilog} as it is, by its attributes, not the packaged IP
#   jobs=4      processes of synthesis and implementation
#
# Leaves {name}.bit, {name}.bin, {name}.hwh and {name}.xsa here, and reports in reports/. A design
# that misses its timing is an error, and leaves none of the four.

set here [file normalize [file dirname [info script]]]
set accelerator [list -type ip -vlnv {vlnv}]
set only_project 0
set jobs 4
foreach word $argv {{
    switch -regexp -- $word {{
        ^project$ {{ set only_project 1 }}
        ^module$ {{ set accelerator [list -type module -reference top] }}
        {{^jobs=[1-9][0-9]*$}} {{ set jobs [string range $word 5 end] }}
        default {{ error "build.tcl takes project, module and jobs=N, not $word" }}
    }}
}}

# What a build before has left is not what this one will.
foreach kind {{bit bin hwh xsa}} {{
    file delete -force $here/{name}.$kind
}}
create_project {name} $here/project -part {part} -force
set boards [get_board_parts -quiet -latest_file_version {{{definition}:*}}]
if {{[llength $boards] == 0}} {{
    error "Vivado has no board files {definition}: install them from its board store"
}}
set_property board_part [lindex $boards 0] [current_project]
if {{[lindex $accelerator 1] eq "ip"}} {{
    set_property ip_repo_paths $here/ip [current_project]
    update_ip_catalog
}} else {{
    add_files -norecurse $here/ip/{verilog}
}}
add_files -fileset constrs_1 -norecurse $here/timing.xdc
set_property used_in_synthesis false [get_files timing.xdc]

source $here/block_design.tcl
moesaic_block_design $accelerator
make_wrapper -files [get_files {design}.bd] -top -import
set_property top {design}_wrapper [current_fileset]
if {{$only_project}} {{
    return
}}

proc run {{name arguments}} {{
    launch_runs $name {{*}}$arguments
    wait_on_run $name
    if {{[get_property PROGRESS [get_runs $name]] ne "100%"}} {{
        error "$name has failed: see project/{name}.runs/$name/runme.log"
    }}
}}
generate_target all [get_files {design}.bd]
run synth_1 [list -jobs $jobs]
run impl_1 [list -to_step write_bitstream -jobs $jobs]

open_run impl_1
file mkdir $here/reports
report_timing_summary -file $here/reports/timing.txt
report_utilization -hierarchical -file $here/reports/utilization.txt
report_cdc -file $here/reports/crossings.txt
foreach check {{setup hold}} {{
    set slack [get_property SLACK [get_timing_paths -max_paths 1 -$check]]
    if {{$slack < 0}} {{
        error "the $check slack is $slack ns: build again with a slower clock (--clock)"
    }}
}}

file copy -force $here/project/{name}.runs/impl_1/{design}_wrapper.bit $here/{name}.bit
file copy -force $here/project/{name}.gen/sources_1/bd/{design}/hw_handoff/{design}.hwh \\
    $here/{name}.hwh
write_hw_platform -fixed -include_bit -force -file $here/{name}.xsa
cd $here
exec bootgen -arch {arch} -image {name}.bif -process_bitstream bin -w on
file rename -force {name}.bit.bin {name}.bin
"""

_TIMING = """\
# {notice}
#
# The clock itself comes with the clock wizard: {clock_mhz} MHz, {period:.3f} ns. The reset is
# synchronous to it, from a register of proc_sys_reset, and is timed as any other path.

# A level that the interrupt controller takes by its own clock.
set_false_path -through [get_pins {design}_i/{cell}/{interrupt}]
"""

_OUT_OF_CONTEXT = """\
# {notice}
#
# The clock when the IP is synthesised by itself.
create_clock -name {clock} -period {period:.3f} [get_ports {clock}]
"""


def build_tcl(board: Board) -> str:
    """The script that Vivado runs, from nothing to the bitstream."""
    return _BUILD.format(
        notice=NOTICE,
        name=CELL,
        design=DESIGN,
        verilog=VERILOG,
        vlnv=VLNV,
        part=board.part,
        definition=board.definition,
        arch=board.processor.arch,
    )


def timing_xdc(clock_mhz: int) -> str:
    """Constraints of the whole design."""
    return _TIMING.format(
        notice=NOTICE,
        clock_mhz=clock_mhz,
        period=1e3 / clock_mhz,
        design=DESIGN,
        cell=CELL,
        interrupt=INTERRUPT_PORT,
    )


def out_of_context_xdc(clock_mhz: int) -> str:
    """Constraints of the IP alone."""
    return _OUT_OF_CONTEXT.format(notice=NOTICE, clock=CLOCK_PORT, period=1e3 / clock_mhz)


def bif(board: Board) -> str:
    """What ``bootgen`` makes a file for Linux's FPGA manager of."""
    device = "[destination_device = pl] " if board.processor.arch == "zynqmp" else ""
    return f"all:\n{{\n    {device}{CELL}.bit\n}}\n"
