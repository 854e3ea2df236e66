"""The block design as Tcl: processing system, clock, reset, ways to memory, addresses."""

from __future__ import annotations

from collections.abc import Iterable

from moesaic.hw.bus import CLOCK_PORT, INTERRUPT_PORT, REGISTERS, RESET_PORT
from moesaic.hw.vivado.ip import REGISTER_BLOCK
from moesaic.hw.vivado.tcl import NOTICE, interface, net, properties
from moesaic.spec.arch import ArchConfig
from moesaic.spec.boards import REGISTER_WINDOW_BYTES, ZYNQ7, Board, MemoryPort, place_masters

DESIGN = "system"
CELL = "moesaic"
"""The accelerator in the design, as in the device tree; PYNQ finds it by this name."""


def block_design(arch: ArchConfig, board: Board, clock_mhz: int) -> str:
    """Tcl that defines ``moesaic_block_design``, which takes the way to make the accelerator's
    cell: the arguments of ``create_bd_cell`` but its name.

    Raises
    ------
    UserError
        A master has no place on the board.
    """
    places = place_masters(arch, board)
    used = {port.name: port for port in places.values()}
    lines = [f"# {NOTICE}", "", "proc moesaic_block_design {accelerator} {"]
    lines += [f"    create_bd_design {DESIGN}", ""]
    lines += _processing_system(board, used.values())
    lines += ["", "    # The accelerator."]
    lines += [f"    create_bd_cell {{*}}$accelerator {CELL}", ""]
    lines += _clock(clock_mhz)
    lines += ["", "    # Ways to memory, and of the processor to the registers."]
    crossbars = ["to_registers"]
    lines += _crossbar("to_registers", 1)
    lines += [interface(f"ps/{board.processor.register_port}", "to_registers/S00_AXI")]
    lines += [interface("to_registers/M00_AXI", f"{CELL}/{REGISTERS}")]
    for number, port in enumerate(used.values()):
        masters = [name for name, place in places.items() if place is port]
        crossbars.append(crossbar := f"to_memory_{number}")
        lines += _crossbar(crossbar, len(masters))
        for way, name in enumerate(masters):
            lines.append(interface(f"{CELL}/m_axi_{name}", f"{crossbar}/S{way:02}_AXI"))
        lines.append(interface(f"{crossbar}/M00_AXI", f"ps/{port.name}"))
    lines += ["", "    # One clock for all of it, and a reset synchronous to it."]
    lines += _nets(board, used.values(), crossbars)
    lines += ["", "    # Addresses: those of the device tree, and of the processor's memory."]
    lines += _addresses(board, places)
    lines += ["", "    validate_bd_design", "    save_bd_design", "}", ""]
    return "\n".join(lines)


def _processing_system(board: Board, used: Iterable[MemoryPort]) -> list[str]:
    system = board.processor
    rule = system.ip.replace(":ip:", ":bd_rule:")
    more = 'make_external "FIXED_IO, DDR" Master "Disable" Slave "Disable" '
    config = f'{more if system is ZYNQ7 else ""}apply_board_preset "1"'
    settings = {**dict(system.settings), system.clock_setting: board.reference_mhz}
    for port in used:
        settings |= dict(port.settings)
    return [
        "    # Processing system: memory and pins as the board definition has them.",
        f"    create_bd_cell -type ip -vlnv {system.ip} ps",
        f"    apply_bd_automation -rule {rule} -config {{{config}}} [get_bd_cells ps]",
        *properties(settings, "[get_bd_cells ps]"),
    ]


def _clock(clock_mhz: int) -> list[str]:
    wizard = {
        "PRIM_SOURCE": "No_buffer",
        "CLKOUT1_REQUESTED_OUT_FREQ": clock_mhz,
        "USE_RESET": "true",
        "RESET_TYPE": "ACTIVE_LOW",
        "RESET_PORT": "resetn",
        "USE_LOCKED": "true",
    }
    return [
        "    # The accelerator's clock, and its reset.",
        "    create_bd_cell -type ip -vlnv xilinx.com:ip:clk_wiz clock",
        *properties(wizard, "[get_bd_cells clock]"),
        "    create_bd_cell -type ip -vlnv xilinx.com:ip:proc_sys_reset reset",
    ]


def _crossbar(name: str, masters: int) -> list[str]:
    sizes = {"NUM_SI": masters, "NUM_MI": 1, "NUM_CLKS": 1}
    return [
        f"    create_bd_cell -type ip -vlnv xilinx.com:ip:smartconnect {name}",
        *properties(sizes, f"[get_bd_cells {name}]"),
    ]


def _nets(board: Board, used: Iterable[MemoryPort], crossbars: list[str]) -> list[str]:
    system = board.processor
    clocked = [f"{CELL}/{CLOCK_PORT}", "reset/slowest_sync_clk", f"ps/{system.register_clock}"]
    clocked += [f"ps/{port.clock}" for port in used]
    clocked += [f"{name}/aclk" for name in crossbars]
    return [
        *net([f"ps/{system.clock}", "clock/clk_in1"]),
        *net([f"ps/{system.reset}", "clock/resetn", "reset/ext_reset_in"]),
        *net(["clock/locked", "reset/dcm_locked"]),
        *net(["clock/clk_out1", *clocked]),
        *net(["reset/peripheral_reset", f"{CELL}/{RESET_PORT}"]),
        *net(["reset/peripheral_aresetn", *(f"{name}/aresetn" for name in crossbars)]),
        *net([f"{CELL}/{INTERRUPT_PORT}", f"ps/{system.interrupt}"]),
    ]


def _addresses(board: Board, places: dict[str, MemoryPort]) -> list[str]:
    def assign(base: int, size: int, space: str, segment: str, indent: str = "    ") -> list[str]:
        return [
            f"{indent}assign_bd_address -offset 0x{base:X} -range 0x{size:X} -force \\",
            f"{indent}    -target_address_space [get_bd_addr_spaces {space}] \\",
            f"{indent}    [get_bd_addr_segs {segment}]",
        ]

    segment = f"{CELL}/{REGISTERS}/{REGISTER_BLOCK}"
    lines = assign(board.registers, REGISTER_WINDOW_BYTES, "ps/Data", segment)
    for name, port in places.items():
        for number, region in enumerate(board.memory):
            segment = f"ps/{port.group}/{port.prefix}_{region.name}"
            where = (region.base, region.size, f"{CELL}/m_axi_{name}", segment)
            if number:
                lines.append(f"    if {{[llength [get_bd_addr_segs -quiet {segment}]]}} {{")
                lines += [*assign(*where, indent=" " * 8), "    }"]
            else:
                lines += assign(*where)
    return lines
