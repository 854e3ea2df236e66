"""Boards: processing system, addresses, and the port to memory of each of the masters.

One place for what the block design, the device tree overlay, the scripts for the board and the
documents must agree in. Names of ports, pins and settings are those of AMD's IP (PG201 for Zynq
UltraScale+, PG082 for Zynq-7000).
"""

from __future__ import annotations

from dataclasses import dataclass

from moesaic.spec.arch import ArchConfig
from moesaic.spec.errors import UserError
from moesaic.spec.memory import Dram
from moesaic.spec.parts import family_of
from moesaic.spec.registers import OFFSET_BITS

AMD_FAMILIES = ("xcup", "xc7")
"""Families of parts that boards here may have."""
DDR4_BITS = "16", "32", "64"
"""Widths that a memory of DDR4-2400 may be given."""
REGISTER_WINDOW_BYTES = 1 << OFFSET_BITS
"""Of the processor's address space, for the registers."""


@dataclass(frozen=True)
class MemoryPort:
    """A port of the processing system that leads to memory.

    Attributes
    ----------
    name, clock
        Interface, and the pin of its clock.
    group, prefix
        Its address segments are ``<group>/<prefix>_<region>``.
    settings
        Properties of the processing system that switch it on.
    """

    name: str
    clock: str
    group: str
    prefix: str
    settings: tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class Processor:
    """A kind of processing system.

    Attributes
    ----------
    ip
        Vendor, library and name of its IP.
    arch, family
        What ``bootgen`` and Vivado's IP call it.
    register_port, register_clock
        The interface that the registers are behind, and the pin of its clock.
    clock, reset, interrupt
        Pins: clock and reset (active low) for the logic, interrupts from it.
    settings
        Properties that switch these on.
    clock_setting
        Property with the frequency of ``clock`` in MHz.
    ports
        Memory ports by name.
    places, coherent_places
        Name of a master to its memory port, for masters that pass by the caches and for such that
        snoop. There may be none of the latter.
    secure, max_burst
        What targets must say: how memory is protected, and the longest burst of the ports.
    cells, clock_provider, interrupt_controller
        In Linux's device tree: cells of an address, the clock of the logic, and the label of the
        interrupt controller.
    """

    ip: str
    arch: str
    family: str
    register_port: str
    register_clock: str
    clock: str
    reset: str
    interrupt: str
    settings: tuple[tuple[str, int], ...]
    clock_setting: str
    ports: dict[str, MemoryPort]
    places: dict[str, str]
    coherent_places: dict[str, str]
    secure: bool
    max_burst: int
    cells: int
    clock_provider: str
    interrupt_controller: str


@dataclass(frozen=True)
class Region:
    """Memory as the masters address it: the end of its segments' names, and where it is."""

    name: str
    base: int
    size: int


@dataclass(frozen=True)
class Board:
    """A board.

    Attributes
    ----------
    part, definition
        Vivado's part, and vendor and name of its board definition.
    registers
        Address of the registers for the processor.
    interrupt
        Number of the shared peripheral interrupt.
    dram
        What is behind all of the memory ports together.
    memory
        Regions that the masters reach; those behind the first one only where the design has them.
    reference_mhz
        Clock of the processing system for the logic, which a clock wizard makes the
        accelerator's from.
    clock_mhz
        The accelerator's clock unless asked otherwise. Cautious: no place and route has run.
    """

    name: str
    part: str
    definition: str
    processor: Processor
    registers: int
    interrupt: int
    dram: Dram
    memory: tuple[Region, ...]
    reference_mhz: int
    clock_mhz: int


def _zynqmp_port(name: str, group: int) -> MemoryPort:
    settings = ((f"PSU__USE__S_AXI_GP{group}", 1), (f"PSU__SAXIGP{group}__DATA_WIDTH", 128))
    clock = f"saxi{name.lower()}_fpd_aclk"
    return MemoryPort(f"S_AXI_{name}_FPD", clock, f"SAXIGP{group}", name, settings)


def _zynq7_port(number: int) -> MemoryPort:
    name = f"S_AXI_HP{number}"
    settings = ((f"PCW_USE_{name}", 1), (f"PCW_{name}_DATA_WIDTH", 64))
    return MemoryPort(name, f"{name}_ACLK", name, f"HP{number}", settings)


_ZYNQMP_PORTS = [
    _zynqmp_port(name, group)
    for group, name in enumerate(("HPC0", "HPC1", "HP0", "HP1", "HP2", "HP3"))
]

ZYNQMP = Processor(
    ip="xilinx.com:ip:zynq_ultra_ps_e",
    arch="zynqmp",
    family="zynquplus",
    register_port="M_AXI_HPM0_FPD",
    register_clock="maxihpm0_fpd_aclk",
    clock="pl_clk0",
    reset="pl_resetn0",
    interrupt="pl_ps_irq0",
    settings=(
        ("PSU__USE__M_AXI_GP0", 1),
        ("PSU__USE__M_AXI_GP1", 0),
        ("PSU__USE__M_AXI_GP2", 0),
        # As after a reset: the system that loads the bitstream need not set another width.
        ("PSU__MAXIGP0__DATA_WIDTH", 128),
        ("PSU__USE__IRQ0", 1),
        ("PSU__FPGA_PL0_ENABLE", 1),
    ),
    clock_setting="PSU__CRL_APB__PL0_REF_CTRL__FREQMHZ",
    ports={port.name: port for port in _ZYNQMP_PORTS},
    # A port for each of five masters: the data port, which moves the least, on one of those that
    # can snoop. It does not: AxCACHE says so.
    places={
        "w0": "S_AXI_HP0_FPD",
        "w1": "S_AXI_HP1_FPD",
        "w2": "S_AXI_HP2_FPD",
        "w3": "S_AXI_HP3_FPD",
        "d": "S_AXI_HPC0_FPD",
    },
    # Two ports snoop: the masters share them, and have half of what four ports sustain.
    coherent_places={
        "w0": "S_AXI_HPC0_FPD",
        "w1": "S_AXI_HPC1_FPD",
        "w2": "S_AXI_HPC0_FPD",
        "w3": "S_AXI_HPC1_FPD",
        "d": "S_AXI_HPC0_FPD",
    },
    secure=False,
    max_burst=256,
    cells=2,
    clock_provider="zynqmp_clk 71",
    interrupt_controller="gic",
)

ZYNQ7 = Processor(
    ip="xilinx.com:ip:processing_system7",
    arch="zynq",
    family="zynq",
    register_port="M_AXI_GP0",
    register_clock="M_AXI_GP0_ACLK",
    clock="FCLK_CLK0",
    reset="FCLK_RESET0_N",
    interrupt="IRQ_F2P",
    settings=(
        ("PCW_USE_M_AXI_GP0", 1),
        ("PCW_USE_FABRIC_INTERRUPT", 1),
        ("PCW_IRQ_F2P_INTR", 1),
        ("PCW_EN_CLK0_PORT", 1),
        ("PCW_EN_RST0_PORT", 1),
    ),
    clock_setting="PCW_FPGA0_PERIPHERAL_FREQMHZ",
    ports={port.name: port for port in map(_zynq7_port, range(4))},
    # Pairs of ports share a port of the memory controller: two weight ports go to two pairs.
    places={
        "w0": "S_AXI_HP0",
        "w1": "S_AXI_HP2",
        "w2": "S_AXI_HP1",
        "w3": "S_AXI_HP3",
        "d": "S_AXI_HP3",
    },
    coherent_places={},
    secure=True,
    max_burst=16,  # AXI3
    cells=1,
    clock_provider="clkc 15",
    interrupt_controller="intc",
)

_GIB = 1 << 30
_ZYNQMP_MEMORY = (Region("DDR_LOW", 0, 2 * _GIB), Region("DDR_HIGH", 0x8_0000_0000, 2 * _GIB))

BOARDS: dict[str, Board] = {
    board.name: board
    for board in (
        Board(
            name="zcu102",
            part="xczu9eg-ffvb1156-2-e",
            definition="xilinx.com:zcu102",
            processor=ZYNQMP,
            registers=0xA000_0000,
            interrupt=89,  # pl_ps_irq0[0]
            dram=Dram("DDR4-2400", 2400, 64),  # its SODIMM, at 1200 MHz
            memory=_ZYNQMP_MEMORY,
            reference_mhz=100,
            clock_mhz=100,
        ),
        Board(
            name="zcu104",
            part="xczu7ev-ffvc1156-2-e",
            definition="xilinx.com:zcu104",
            processor=ZYNQMP,
            registers=0xA000_0000,
            interrupt=89,
            dram=Dram("DDR4-2400", 2400, 64),  # four MT40A256M16 (UG1267) at what DS925 has for -2
            memory=_ZYNQMP_MEMORY[:1],
            reference_mhz=100,
            clock_mhz=100,
        ),
        Board(
            name="kv260",
            part="xck26-sfvc784-2LV-c",
            definition="xilinx.com:kv260_som",
            processor=ZYNQMP,
            registers=0xA000_0000,
            interrupt=89,
            dram=Dram("DDR4-2400", 2400, 64),  # "64-bit wide, 2400 Mb/s", DS987
            memory=_ZYNQMP_MEMORY,
            reference_mhz=100,
            clock_mhz=100,
        ),
        Board(
            name="pynq-z2",
            part="xc7z020clg400-1",
            definition="tul.com.tw:pynq-z2",
            processor=ZYNQ7,
            registers=0x43C0_0000,
            interrupt=29,  # IRQ_F2P[0]
            dram=Dram("DDR3-1050", 1050, 16),  # 525 MHz, as the PYNQ-Z1's manual has it
            memory=(Region("DDR_LOWOCM", 0, _GIB // 2),),
            reference_mhz=100,
            clock_mhz=50,
        ),
    )
}
"""By name."""

CARD_DRAM: dict[str, Dram] = {
    # Of 32 pseudo-channels of 64 bits, at 900 MHz (DS963, PG276), one for each of five masters.
    "xcu280-fsvh2892-2L-e": Dram("HBM2-1800", 1800, 5 * 64),
}
"""By part, the memory behind the masters on cards that have no processing system: none of
:data:`BOARDS`, for whose host there is no project here."""


def board_of(arch: ArchConfig, name: str | None = None) -> Board:
    """The board called ``name``, or the one whose part the target is for.

    Raises
    ------
    UserError
        There is no such board, or the target's device is the part of none, or another maker's.
    """
    names = ", ".join(BOARDS)
    if family_of(arch.device) not in AMD_FAMILIES:
        raise UserError(
            f"target {arch.name} is for {arch.device}, and Vivado is for AMD's parts: give the"
            f" top.v of `make verilog TARGET={arch.name}` to its maker's tools, or name a part of"
            " AMD's in the target's field device"
        )
    if name is not None:
        if name not in BOARDS:
            raise UserError(f"unknown board {name!r}; use one of {names}")
        return BOARDS[name]
    for board in BOARDS.values():
        if board.part == arch.device:
            return board
    raise UserError(
        f"target {arch.name} has no board: its device {arch.device!r} is the part of none of"
        f" {names}; name one with --board"
    )


def dram_of(arch: ArchConfig) -> Dram | None:
    """The memory of the board or card whose part the target is for; None where there is none."""
    found = next((board.dram for board in BOARDS.values() if board.part == arch.device), None)
    return found or CARD_DRAM.get(arch.device)


def read_dram(text: str, arch: ArchConfig) -> Dram | None:
    """The memory of ``ddr4`` or ``ddr4:BITS`` behind a target's ports; None for ``share``.

    Raises
    ------
    UserError
        It is something else, or the target's board has no such memory and no width is given.
    """
    if text == "share":
        return None
    name, _, bits = text.partition(":")
    if name != "ddr4" or (bits and bits not in DDR4_BITS) or text.endswith(":"):
        raise UserError(
            f"--dram takes share, ddr4, or ddr4:BITS with {', '.join(DDR4_BITS)} bits, not {text!r}"
        )
    if bits:
        return Dram("DDR4-2400", 2400, int(bits))
    found = dram_of(arch)
    if found is None or found.kind != "DDR4-2400":
        what = "is for no board" if found is None else f"is for a board with {found.kind}"
        raise UserError(
            f"target {arch.name} {what}: give --dram the bits of a DDR4-2400 to put there, as"
            " ddr4:32"
        )
    return found


def place_masters(arch: ArchConfig, board: Board) -> dict[str, MemoryPort]:
    """Name of each AXI4 master (``w0``, ..., ``d``) to its memory port.

    Raises
    ------
    UserError
        There is no place for one of them, or the masters and the memory disagree on security or
        burst length.
    """
    processor = board.processor
    places = processor.coherent_places if arch.coherent else processor.places
    if not places:
        raise UserError(
            f"target {arch.name} is coherent, and board {board.name} has no place for masters that"
            " snoop; set coherent to false"
        )
    masters = [*(f"w{port}" for port in range(arch.weight_ports)), "d"]
    if missing := [name for name in masters if name not in places]:
        raise UserError(
            f"target {arch.name} has {arch.weight_ports} weight_ports, and board {board.name} has"
            f" no place for master {missing[0]}; use {len(places) - 1} or fewer"
        )
    if arch.secure != processor.secure:
        raise UserError(
            f"target {arch.name} must have secure {str(processor.secure).lower()} on board"
            f" {board.name}: see ArchConfig.axi_prot"
        )
    if arch.max_burst > processor.max_burst:
        raise UserError(
            f"target {arch.name} has max_burst {arch.max_burst}, and ports of board {board.name}"
            f" take {processor.max_burst} beats at most; set max_burst to that"
        )
    return {name: processor.ports[places[name]] for name in masters}
