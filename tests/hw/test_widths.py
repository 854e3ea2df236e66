"""Widths of the gateware hold what instructions can ask for, on every architecture."""

from __future__ import annotations

import dataclasses
import importlib
import itertools

import pytest
from amaranth import Elaboratable

from moesaic.hw.interfaces import EXPERT_BITS, QueueRead, instruction_layout
from moesaic.hw.transfer.load import LoadUnit
from moesaic.hw.transfer.store import StoreUnit
from moesaic.hw.vector import operation
from moesaic.hw.vector.lanes import Lanes
from moesaic.hw.vector.operands import Operands
from moesaic.hw.vector.output import CHUNK_BITS
from moesaic.spec import isa, registers, tables
from moesaic.spec.arch import MAX_TOKENS, ArchConfig
from moesaic.spec.isa import Drain, Opcode
from moesaic.spec.presets import PRESETS

NANO = PRESETS["nano"]
MEMORY = {"ring_read_bytes": 128, "residual_bytes": 1 << 16, "activation_bytes": 1 << 16}


def archs() -> list[ArchConfig]:
    """Every word of a scratchpad with every port."""
    found = []
    for depth, lanes, beat in itertools.product((8, 32, 128), (4, 8, 32, 128), (4, 16, 32)):
        if lanes <= depth and beat <= min(depth, 2 * lanes):
            sizes = {"depth": depth, "width": depth, "lanes": lanes, "data_port_bytes": beat}
            ring = {"ring_read_bytes": max(depth, 32)}
            found.append(dataclasses.replace(NANO, **{**MEMORY, **sizes, **ring}))
    return found


@pytest.mark.parametrize("arch", archs(), ids=lambda a: f"{a.depth}-{a.lanes}-{a.data_port_bytes}")
def test_the_longest_transfer_fits_its_command(arch: ArchConfig) -> None:
    """Otherwise a LOAD would be cut short, and what waits for its words would wait for ever."""
    engine = LoadUnit(arch).elaborate(None).submodules.engine
    beats = max(arch.depth, 2 * arch.lanes) // arch.data_port_bytes
    words = (1 << isa.width(Opcode.LOAD, "words")) - 1
    assert words * beats < 1 << engine.beats_bits <= 2 * (words + 1) * beats
    assert engine.offset_bits == isa.width(Opcode.LOAD, "offset")

    engine = StoreUnit(arch).elaborate(None).submodules.engine0
    beats = 2 * arch.lanes // arch.output_line_bytes
    words = (1 << isa.width(Opcode.STORE, "words")) - 1
    assert words * beats < 1 << engine.beats_bits <= 2 * (words + 1) * beats
    assert engine.offset_bits == isa.width(Opcode.STORE, "offset")


def test_operations_fit_beside_the_kinds_of_drains() -> None:
    assert operation.NORM not in set(Drain)
    assert operation.NORM < 1 << operation.OPERATION_BITS
    assert set(operation.LIMIT_BITS) == set(operation.DESTINATION) == {*Drain, operation.NORM}
    assert set(operation.LIMIT_BITS.values()) <= set(operation.LIMITS)
    assert max(operation.LIMITS) <= CHUNK_BITS
    assert operation.LIMIT_BITS[Drain.SOFTMAX] == tables.EXPONENT_BITS + 1
    bits = isa.width(Opcode.DRAIN, "kind")
    assert len(Drain) < 1 << bits, "no value is left that control could refuse"


@pytest.mark.parametrize(
    ("unit", "known"), [(Lanes, "lanes.FUNCTIONS"), (Operands, "operands.OPERANDS")]
)
@pytest.mark.parametrize("lacking", [0, 1, 2])
def test_a_drain_that_nobody_implements_is_no_hardware(
    unit: type[Elaboratable], known: str, lacking: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even with the behaviour of another one."""
    unit(NANO).elaborate(None)
    path = f"moesaic.hw.vector.{known}"
    module, _, name = path.rpartition(".")
    all_of_it = getattr(importlib.import_module(module), name)
    monkeypatch.setattr(path, all_of_it[:lacking] + all_of_it[lacking + 1 :])
    with pytest.raises(NotImplementedError, match=f"must implement {all_of_it[lacking]}"):
        unit(NANO).elaborate(None)


def test_statistics_hold_the_extreme_row() -> None:
    channels = (1 << isa.width(Opcode.NORM, "channels")) - 1
    epsilon = (1 << isa.width(Opcode.NORM, "epsilon")) - 1
    assert -(1 << operation.TOTAL_BITS - 1) <= channels * -32768
    assert channels * 32768**2 < 1 << operation.SQUARE_BITS
    assert channels * channels * 32768**2 + epsilon < 1 << operation.VARIANCE_BITS
    assert operation.VARIANCE_BITS % 2 == 0


def test_rows_and_columns_hold_the_extreme_drain() -> None:
    assert MAX_TOKENS < 1 << operation.ROW_BITS
    assert (1 << isa.width(Opcode.DRAIN, "rows")) - 1 < 1 << operation.ROW_BITS
    columns, width = (1 << isa.width(Opcode.DRAIN, "columns")) - 1, 1024
    assert columns + width - 1 < 1 << operation.COLUMN_BITS


def test_a_queue_never_holds_more_rows_than_its_readers_count() -> None:
    """ROUTE empties the queues, so what it can count bounds them: ``rows`` of MATMUL suffices."""
    most = (1 << isa.width(Opcode.ROUTE, "rows")) - 1
    assert most < 1 << isa.width(Opcode.MATMUL, "rows")
    queue = QueueRead(dataclasses.replace(NANO, max_tokens=MAX_TOKENS))
    assert most < 1 << queue.members["count"].shape.stop.bit_length()


def test_expert_numbers_are_as_wide_everywhere() -> None:
    for opcode in Opcode:
        layout = instruction_layout(opcode)
        assert layout.size == isa.used_bits(opcode)
        if "expert" in layout.members:
            assert layout["expert"].width == EXPERT_BITS
    assert registers.FETCH_MASTER < 1 << 3
