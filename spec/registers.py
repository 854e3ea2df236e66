"""The AXI4-Lite register map, described once for gateware, drivers and documentation."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

from moesaic.spec.isa import Unit

MAGIC = 0x4D4F4553
"""Value of ID: the letters MOES."""
INTERFACE_VERSION = 2
"""Value of VERSION: the register map; changed when a driver would notice."""
REGISTER_BYTES = 4
OFFSET_BITS = 12
"""Of a byte offset in the map, which takes a page of 4 KiB."""
MAX_WEIGHT_PORTS = 8
MAX_OUTPUT_PORTS = 8
WINDOW_STRIDE = 0x10
"""Bytes between the registers of one window and those of the next port's."""


class Access(enum.Enum):
    """How software may use a register."""

    RO = "read-only"
    RW = "read-write"
    W1C = "write 1 to clear"
    WO = "write-only"


class ErrorCode(enum.IntEnum):
    """Values of the ERROR register; ``ERROR_DOCS`` says what they mean."""

    NONE = 0
    BAD_INSTRUCTION = 1
    PROGRAM_OVERRUN = 2
    WINDOW = 3
    BUS = 4
    WATCHDOG = 5
    BAD_CONFIGURATION = 6
    TOKEN_OVERFLOW = 7


ERROR_DOCS: dict[ErrorCode, str] = {
    ErrorCode.NONE: "no error",
    ErrorCode.BAD_INSTRUCTION: "check byte, opcode, reserved bit, undefined value, a count of zero,"
    " or a byte offset off the data port's beat",
    ErrorCode.PROGRAM_OVERRUN: "the program window ended before END",
    ErrorCode.WINDOW: "an access outside its address window was refused",
    ErrorCode.BUS: "a master got an AXI error response",
    ErrorCode.WATCHDOG: "the frame took more cycles than WATCHDOG allows",
    ErrorCode.BAD_CONFIGURATION: "START with a window whose base breaks the alignment rule, or"
    " that ends beyond the address space",
    ErrorCode.TOKEN_OVERFLOW: "a unit gave another more tokens than can be held",
}

FETCH_MASTER = len(Unit)
"""Number of the instruction fetch in ERROR_INFO; the other masters go by their unit."""

ABORT_LIMIT_CYCLES = 1 << 16
"""After an error, IRQ_STATUS.ERROR is set when all bus masters have finished what is outstanding,
but at the latest after this many cycles: a bus that never answers must not keep the error secret.
STATUS.BUSY then stays 1 for as long as the bus owes an answer."""


@dataclass(frozen=True)
class BitField:
    """Bits of a register."""

    name: str
    bit: int
    width: int
    doc: str


@dataclass(frozen=True)
class Register:
    """One 32-bit register at byte ``offset``."""

    name: str
    offset: int
    access: Access
    doc: str
    fields: tuple[BitField, ...] = field(default=())


def _window(name: str, offset: int, doc: str) -> list[Register]:
    return [
        Register(f"{name}_BASE_LO", offset, Access.RW, f"{doc}: byte address, bits 31..0"),
        Register(f"{name}_BASE_HI", offset + 4, Access.RW, f"{doc}: byte address, bits 39..32"),
        Register(f"{name}_SIZE", offset + 8, Access.RW, f"{doc}: bytes"),
    ]


COUNTERS: tuple[tuple[str, str], ...] = (
    ("CYCLES", "cycles from START to the end of the frame"),
    *(
        counter
        for unit in Unit
        for counter in (
            (f"{unit.name}_BUSY", f"cycles in which the {unit.name.lower()} unit did work"),
            (
                f"{unit.name}_WAIT_TOKEN",
                f"cycles in which the {unit.name.lower()} unit held an instruction and lacked a"
                " token",
            ),
            (
                f"{unit.name}_STALL",
                f"cycles in which the {unit.name.lower()} unit had started and could not go on",
            ),
        )
    ),
    ("INSTRUCTIONS", "instructions dispatched"),
    ("WEIGHT_READ_BYTES", "bytes that crossed the weight ports"),
    ("WEIGHT_UNUSED_BYTES", "of these, bytes of experts that turned out to have no tokens"),
    ("DATA_READ_BYTES", "bytes read by the data master (program, constants, inputs)"),
    ("DATA_WRITE_BYTES", "bytes written (outputs), by all ports"),
    ("MATRIX_STREAM_WORDS", "streamed words that entered the array"),
    ("MATRIX_RING_TILES", "stationary tiles loaded from the weight ring"),
    ("MATRIX_OPERAND_LOADS", "activation words loaded as stationary operand (keys and values)"),
    (
        "ATTENTION_STREAM_WORDS",
        "streamed words of products whose stationary operand is activations",
    ),
    ("MATRIX_WAIT_TILE", "cycles in which streaming waited for a stationary tile"),
    ("MATRIX_WAIT_BANK", "cycles in which streaming waited for an accumulator bank"),
    ("VECTOR_CHUNKS", "accumulator chunks drained, or pairs of them at a time"),
    ("SCORE_WORDS", "score chunks, or pairs of them, produced for softmax"),
    ("SCORE_READS", "score chunks, or pairs of them, read from the accumulators by softmax"),
    ("ACTIVATION_LOOKUPS", "values that went through a table of activations"),
    ("NORM_ROWS", "rows normalised"),
    ("EXPERTS_FETCHED", "predicated weight segments fetched"),
    ("EXPERTS_SKIPPED", "predicated weight segments never fetched"),
    ("ROUTED_TOKENS", "tokens routed"),
    # Reasons of stalls; what is left of <UNIT>_STALL has no counter of its own.
    ("STREAM_WAIT_RING", "of STREAM_STALL: the ring had no room for a line that was there"),
    ("STREAM_WAIT_ROUTING", "of STREAM_STALL: the next expert's routing was not known yet"),
    ("VECTOR_WAIT_BANK", "of VECTOR_STALL: no accumulator bank was full"),
    ("VECTOR_WAIT_PARAMETERS", "of VECTOR_STALL: the parameter block was not there"),
    ("VECTOR_WAIT_SCALE", "of VECTOR_STALL: the softmax's row sums were not there"),
    ("VECTOR_WAIT_OUTPUT", "of VECTOR_STALL: the destination took no more"),
)
"""Performance counters: (name, what it counts). 48 bits, two registers each, cleared by START."""

COUNTER_BASE = 0x200
COUNTER_STRIDE = 8
COUNTER_BITS = 48

REGISTERS: tuple[Register, ...] = (
    Register("ID", 0x000, Access.RO, f"always 0x{MAGIC:08X}"),
    Register("VERSION", 0x004, Access.RO, "version of this register map"),
    Register("ARCH_HASH", 0x008, Access.RO, "identity of the architecture; a bundle must match it"),
    Register(
        "CONTROL",
        0x010,
        Access.WO,
        "commands, self-clearing",
        (
            BitField("START", 0, 1, "run the program from PROGRAM_BASE; ignored while busy"),
            BitField(
                "RESET",
                1,
                1,
                "abandon the frame and clear every unit; outstanding bus"
                " transfers are completed first, STATUS.BUSY stays 1 until then",
            ),
        ),
    ),
    Register(
        "STATUS",
        0x014,
        Access.RO,
        "state",
        (
            BitField("BUSY", 0, 1, "a frame or a reset is under way"),
            BitField("DONE", 1, 1, "the last frame ended without error"),
            BitField("ERROR", 2, 1, "the last frame ended with the code in ERROR"),
        ),
    ),
    Register("ERROR", 0x018, Access.RO, "error code of the last frame, 0 for none"),
    Register(
        "ERROR_INFO",
        0x01C,
        Access.RO,
        "BAD_INSTRUCTION, PROGRAM_OVERRUN: byte offset in the"
        " program; WINDOW, BUS: unit number of the master (weight stream"
        f" {Unit.STREAM}, load {Unit.LOAD}, store {Unit.STORE}, instruction fetch {FETCH_MASTER})",
    ),
    Register(
        "IRQ_STATUS",
        0x020,
        Access.W1C,
        "interrupt causes",
        (
            BitField("DONE", 0, 1, "a frame ended without error"),
            BitField("ERROR", 1, 1, "a frame ended with an error"),
        ),
    ),
    Register("IRQ_ENABLE", 0x024, Access.RW, "interrupt causes that raise irq, same bits"),
    Register("WATCHDOG", 0x028, Access.RW, "cycles a frame may take, 0 for no limit"),
    *_window("PROGRAM", 0x040, "program window"),
    *_window("CONSTANT", 0x050, "constant window"),
    *_window("INPUT", 0x060, "input window"),
    *_window("OUTPUT", 0x070, "output window"),
    *(
        register
        for port in range(1, MAX_OUTPUT_PORTS)
        for register in _window(
            f"OUTPUT{port}", 0x070 + WINDOW_STRIDE * port, f"output window on weight port {port}"
        )
    ),
    *(
        register
        for port in range(MAX_WEIGHT_PORTS)
        for register in _window(
            f"WEIGHT{port}", 0x100 + WINDOW_STRIDE * port, f"weight port {port} window"
        )
    ),
    *(
        register
        for index, (name, doc) in enumerate(COUNTERS)
        for register in (
            Register(
                f"{name}_LO", COUNTER_BASE + COUNTER_STRIDE * index, Access.RO, f"{doc}, bits 31..0"
            ),
            Register(
                f"{name}_HI",
                COUNTER_BASE + COUNTER_STRIDE * index + 4,
                Access.RO,
                f"{doc}, bits 47..32",
            ),
        )
    ),
)
"""All registers, by ascending offset. Windows beyond the built ports read as zero."""

WINDOW_ALIGNMENT = 4096
"""Every window base must be a multiple of this: bursts then never cross a 4 KiB boundary."""
WEIGHT_ROUND_BYTES = 64 << 10
"""The driver lays the weights of a port a step behind those of the last one, modulo a round.

All ports read at one pace. Of a DDR4 of 64 bits 16 KiB are an open row of both bank groups, and
64 KiB a round of the banks; on narrower buses both are shorter, and divide these.
"""
TWO_PORTS_STEP_BYTES, WEIGHT_STEP_BYTES = 24 << 10, 16 << 10
"""With up to two ports, and with more. Four ports then have banks of their own all the time, on 64
bits, and two on any of 16, 32 and 64 bits, instead of closing each other's rows."""


def weight_step(ports: int) -> int:
    """Bytes of the step, modulo a round."""
    return TWO_PORTS_STEP_BYTES if ports <= 2 else WEIGHT_STEP_BYTES


_BY_NAME = {register.name: register for register in REGISTERS}


def offset(name: str) -> int:
    """Byte offset of the register called ``name``."""
    return _BY_NAME[name].offset


def used_bits(register: str) -> int:
    """Bits up to the last field of a register that has fields."""
    return max(f.bit + f.width for f in _BY_NAME[register].fields)


def bit(register: str, name: str) -> int:
    """Mask of a one-bit field."""
    return next(1 << f.bit for f in _BY_NAME[register].fields if f.name == name)
