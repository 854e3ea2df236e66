"""Signatures at the boundaries between units. Each is written from its initiator's side."""

from __future__ import annotations

from amaranth import unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from moesaic.spec import isa, registers, tables
from moesaic.spec.arch import ADDRESS_BITS, ArchConfig
from moesaic.spec.formats import ACCUMULATOR_BITS, GATE_BITS, LOGIT_BITS, RESIDUAL_BITS

REGISTER_BITS = 8 * registers.REGISTER_BYTES


def instruction_layout(opcode: isa.Opcode) -> data.StructLayout:
    """Bits of one instruction as a struct; reserved bits are left out."""
    return data.StructLayout({field.name: field.width for field in isa.fields(opcode)})


RawInstruction = unsigned(8 * isa.INSTRUCTION_BYTES)


class InstructionPort(wiring.Signature):
    """Instructions and tokens of one unit, from the dispatcher's side.

    ``queue`` carries raw, checked instructions in program order. The unit accepts one (ready)
    when it likes. Tokens: the unit drives ``wait`` with an instruction's mask and keeps ``want``
    up until it has them. ``granted`` rises when one token from every unit of the mask was there
    in the cycle before: they are the unit's now. It stays until ``take``, then it is low for a
    cycle, for the next mask. A mask, once wanted, may change only with ``take``. Each
    instruction is taken once; one with a zero mask need not be asked for, and no grant. ``give``
    with ``signal`` hands out tokens, one cycle per instruction, after all its effects are visible.
    ``busy``: the unit holds an unfinished instruction, in its pipeline or after ``queue``.
    ``working``, ``wait_token``, ``stalled`` feed the performance counters.
    """

    def __init__(self) -> None:
        super().__init__(
            {
                "queue": Out(stream.Signature(RawInstruction)),
                "wait": In(isa.UNIT_COUNT),
                "want": In(1),
                "granted": Out(1),
                "take": In(1),
                "signal": In(isa.UNIT_COUNT),
                "give": In(1),
                "busy": In(1),
                "working": In(1),
                "wait_token": In(1),
                "stalled": In(1),
            }
        )


class ActivationRead(wiring.Signature):
    """Read port of the activation scratchpad, from the reader's side.

    A request is accepted with valid and ready; ``data`` is valid exactly
    ``ACTIVATION_READ_LATENCY`` cycles later, flagged by ``data_valid``, and cannot be refused.
    ``data`` keeps its value only in that cycle.
    """

    def __init__(self, arch: ArchConfig) -> None:
        super().__init__(
            {
                "address": Out(range(arch.activation_words)),
                "valid": Out(1),
                "ready": In(1),
                "data": In(8 * arch.depth),
                "data_valid": In(1),
            }
        )


ACTIVATION_READ_LATENCY = 2


class ActivationWrite(wiring.Signature):
    """Write port of the activation scratchpad: a word with byte enables, visible next cycle."""

    def __init__(self, arch: ArchConfig) -> None:
        super().__init__(
            {
                "address": Out(range(arch.activation_words)),
                "data": Out(8 * arch.depth),
                "mask": Out(arch.depth),
                "valid": Out(1),
                "ready": In(1),
            }
        )


class ResidualWrite(wiring.Signature):
    """Write port into the vector unit's residual scratchpad for the load unit."""

    def __init__(self, arch: ArchConfig) -> None:
        super().__init__(
            {
                "address": Out(range(arch.residual_words)),
                "data": Out(RESIDUAL_BITS * arch.lanes),
                "valid": Out(1),
                "ready": In(1),
            }
        )


TABLE_ENTRY_BITS = 8 * 4
"""What LOAD takes from a beat for an entry of an activation table."""


class TableWrite(wiring.Signature):
    """Write port of the activation tables: visible to chunks that are issued in the next cycle."""

    def __init__(self) -> None:
        super().__init__(
            {
                "address": Out(range(tables.ACTIVATION_TABLES * tables.ACTIVATION_ENTRIES)),
                "data": Out(TABLE_ENTRY_BITS),
                "valid": Out(1),
                "ready": In(1),
            }
        )


class AccumulatorRead(wiring.Signature):
    """The vector unit's view of the accumulators.

    Two banks are filled and drained alternately, starting with bank 0. ``full`` is high while
    the bank whose turn it is to be drained holds a finished group. ``address`` selects a row
    of that bank (row ``n * rows + r`` of a group); ``data`` and ``maximum`` follow 2 cycles
    later, whatever else happens. ``release`` (one cycle) hands the bank back and moves on to the
    other one; reads issued in or before that cycle still return their data.
    ``maximum`` is the largest valid score of *row r* (address r of the group, below ``rows``),
    read with its own address ``maximum_address``.
    """

    def __init__(self, arch: ArchConfig) -> None:
        super().__init__(
            {
                "full": In(1),
                "release": Out(1),
                "address": Out(range(arch.accumulator_rows)),
                "data": In(ACCUMULATOR_BITS * arch.width),
                "maximum_address": Out(range(arch.accumulator_rows)),
                "maximum": In(ACCUMULATOR_BITS),
            }
        )


EXPERT_BITS = isa.width(isa.Opcode.MATMUL, "expert")
"""An expert's number, as instructions name it."""


class QueueRead(wiring.Signature):
    """Read port of the router's expert queues, from the reader's side.

    ``count`` is the number of entries of ``expert``, one cycle after ``expert`` is driven (and
    held). ``token`` and ``weight`` (Q15) of entry ``index`` follow one cycle after both are
    driven.
    """

    def __init__(self, arch: ArchConfig) -> None:
        super().__init__(
            {
                "expert": Out(EXPERT_BITS),
                "index": Out(range(arch.max_tokens)),
                "count": In(range(arch.max_tokens + 1)),
                "token": In(range(arch.max_tokens)),
                "weight": In(GATE_BITS),
            }
        )


class RouterState(wiring.Signature):
    """What the weight stream may know, from the router's side: combinational look-up.

    ``sequence`` is the number of the last finished routing (0 after reset). ``hit`` has bit e
    set when the queue of expert e is not empty; it belongs to that routing.
    """

    def __init__(self, arch: ArchConfig) -> None:
        sequence = isa.width(isa.Opcode.ROUTE, "sequence")
        super().__init__({"sequence": Out(sequence), "hit": Out(arch.max_experts)})


def logit_layout(arch: ArchConfig) -> data.StructLayout:
    """One chunk of a token's logits on its way to the router; chunks come in column order."""
    return data.StructLayout(
        {"logits": data.ArrayLayout(LOGIT_BITS, arch.lanes), "last": 1}  # last chunk of the token
    )


class WindowSettings(wiring.Signature):
    """An address window, from the registers' side; stable while a frame runs."""

    def __init__(self) -> None:
        super().__init__({"base": Out(ADDRESS_BITS), "size": Out(REGISTER_BITS)})


class FaultPort(wiring.Signature):
    """A fault, from the reporting unit's side: ``raised`` for one cycle or longer."""

    def __init__(self) -> None:
        super().__init__({"window": Out(1), "bus": Out(1)})


class AxiRead(wiring.Signature):
    """AXI4 read channels, from the master's side; names become ``m_axi_*`` ports.

    What is the same in every transfer of every master, AxCACHE and AxPROT, only the ports have.
    """

    def __init__(self, data_bytes: int) -> None:
        super().__init__(
            {
                "araddr": Out(ADDRESS_BITS),
                "arlen": Out(8),
                "arsize": Out(3),
                "arburst": Out(2),
                "arvalid": Out(1),
                "arready": In(1),
                "rdata": In(8 * data_bytes),
                "rresp": In(2),
                "rlast": In(1),
                "rvalid": In(1),
                "rready": Out(1),
            }
        )


class AxiWrite(wiring.Signature):
    """AXI4 write channels, from the master's side; as for :class:`AxiRead`."""

    def __init__(self, data_bytes: int) -> None:
        super().__init__(
            {
                "awaddr": Out(ADDRESS_BITS),
                "awlen": Out(8),
                "awsize": Out(3),
                "awburst": Out(2),
                "awvalid": Out(1),
                "awready": In(1),
                "wdata": Out(8 * data_bytes),
                "wstrb": Out(data_bytes),
                "wlast": Out(1),
                "wvalid": Out(1),
                "wready": In(1),
                "bresp": In(2),
                "bvalid": In(1),
                "bready": Out(1),
            }
        )


class AxiLite(wiring.Signature):
    """AXI4-Lite of the register map, from the master's side (the block is a subordinate)."""

    def __init__(self) -> None:
        super().__init__(
            {
                "awaddr": Out(registers.OFFSET_BITS),
                "awprot": Out(3),
                "awvalid": Out(1),
                "awready": In(1),
                "wdata": Out(REGISTER_BITS),
                "wstrb": Out(registers.REGISTER_BYTES),
                "wvalid": Out(1),
                "wready": In(1),
                "bresp": In(2),
                "bvalid": In(1),
                "bready": Out(1),
                "araddr": Out(registers.OFFSET_BITS),
                "arprot": Out(3),
                "arvalid": Out(1),
                "arready": In(1),
                "rdata": In(REGISTER_BITS),
                "rresp": In(2),
                "rvalid": In(1),
                "rready": Out(1),
            }
        )
