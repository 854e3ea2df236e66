"""Latencies of the gateware and behaviour of the memory, in cycles."""

from __future__ import annotations

from dataclasses import dataclass

from moesaic.spec.arch import ArchConfig
from moesaic.spec.memories import STORE_BURSTS
from moesaic.spec.memory import DEFAULT_MEMORY

OUTSTANDING_BURSTS = 8
"""Bursts under way, per port and direction (``hw/axi/burst.py``)."""


def _log2(value: int) -> int:
    return (value - 1).bit_length()


def _tree(terms: int) -> int:
    """Registers of an adder tree with two levels per stage (``hw/arithmetic/pipeline.py``)."""
    return -(-_log2(terms) // 2)


@dataclass(frozen=True)
class SharedBus:
    """What a memory gives whose controller all ports share (``estimate/shared.py``)."""

    weights: float
    """Beats per cycle of each weight port, all of them reading."""
    data: float
    """Of the data port, alone."""
    read_busy: float
    """Of the data port, reading while weights are read."""
    write_busy: float
    """The same, writing."""
    read_cost: float
    """Cycles that a beat of the data port takes from the weights."""
    write_cost: float
    busy_wait: float
    """Cycles that a read of the data port waits for weights."""
    credit: int
    """Beats of a port that the controller may hold."""


@dataclass(frozen=True)
class Memory:
    """External memory behind every port; the defaults are those of reported figures."""

    latency: int = DEFAULT_MEMORY.latency_cycles
    """From an accepted address to its first beat."""
    share: float = DEFAULT_MEMORY.bandwidth_share
    """Sustained beats per cycle."""
    credit: int = DEFAULT_MEMORY.burst_credit_beats
    """Beats that an idle port may then transfer above its share."""
    gap: float = DEFAULT_MEMORY.mean_gap_cycles
    """Mean pause after a beat."""
    bus: SharedBus | None = None
    """One for all ports, instead of shares, credits and pauses."""


@dataclass(frozen=True)
class Timing:
    """Pipeline latencies of one architecture; none depends on the model that runs.

    They follow from the registers between two events, and are the same in every instruction. The
    tests compare them with the gateware where it has them as constants, and the whole with
    simulations.
    """

    word_to_row: int
    """Request of a streamed word until its accumulator row, its bank or a token can be seen:
    request 1, activation read 2, array, add 1, a maximum of ``width`` columns, write 1, visible 1
    (``hw/matrix/issue.py``, ``hw/matrix/step.py``: Timing)."""
    statistics: int
    """NORM's last read of a row until the row can be normalised (``hw/vector/statistics.py``)."""
    ring: int
    """Line assembled until the matrix unit can take the word: a register if it is of several,
    ring RAM 3, skid buffer 1 (``hw/stream/unit.py``)."""
    codes: int
    """Word taken from the ring until it is written into the shadow tile, if not in the same cycle:
    a register where weights may have four bits (``hw/matrix/codes.py``)."""
    row_scale: int
    """Last chunk of a SOFTMAX until ATTENTION may start (``hw/vector/row_scale.py``)."""
    outstanding_beats: int
    """Beats requested ahead of arrival, per port (``hw/axi/read.py``)."""
    store_buffer: int
    """Beats that may wait between vector unit and bus (``hw/axi/write.py``: two bursts)."""
    burst_beats: int
    """Beats per burst; one of writes is sent when the last one is in the buffer."""
    chunk: int = 27
    """Chunk issued until offered to its destination (``VectorUnit.LATENCY``)."""
    chunk_token: int = 29
    """Last chunk issued until its tokens count: the chunk's way, give, visible."""
    chunk_slots: int = 32
    """Chunks between issue and destination (``OutputStage.DEPTH``)."""
    update: int = 26
    """Last residual update issued until NORM may read (``Lanes.WRITTEN``, and one)."""
    update_again: int = 5
    """Last residual update issued until the next RESIDUAL may issue (``Lanes.HAZARD``)."""
    drain_start: int = 3
    """Vector unit takes a DRAIN until its first chunk: set up, walker 2."""
    norm_start: int = 2
    """Vector unit takes a NORM until its first read: set up, start."""
    pass_distance: int = 4
    """Least cycles between visits of an accumulator row (``PASS_DISTANCE``)."""
    request: int = 6
    """Streamer's loop until a request can issue: four stages and a buffered queue."""
    request_slots: int = 9
    """Requests between loop and issue (``REQUEST_SLOTS``)."""
    job: int = 2
    """Job handed on until the streamer may take it: a buffered queue."""
    job_slots: int = 4
    """Instructions between loader and streamer (``JOB_SLOTS``)."""
    operand: int = 3
    """Last operand word requested until the tile can be used: a skid buffer, and
    ``ACTIVATION_READ_LATENCY``."""
    command: int = 8
    """STREAM decided until its address is with the memory, and back through the port's skew
    queue: command register, engine 5; 2 cycles."""
    outcome: int = 2
    """STREAM decided until the matrix unit knows whether its words come: a buffered queue."""
    burst: int = 2
    """Burst issued until the next one may be in its place, besides latency and beats."""
    commands: int = 3
    """Commands of the weight ports that are decided, and have not issued their last burst."""
    skew_beats: int = 65
    """Beats that a port holds in front of the ring (``SKEW_BEATS`` and one)."""
    segments: int = 16
    """STREAM instructions with data under way (``SEGMENTS``)."""
    route: int = 46
    """Last logits in the router until the routing is published and its tokens count, besides two
    cycles per choice and ``arch.rank_cycles`` (``RouterUnit``)."""
    scores: int = 32
    """More of that where experts are chosen by corrected scores (``CORRECTED_LATENCY``)."""
    fetch: int = 16
    """Frame start until the first beat of the program is dispatched, besides the memory's latency:
    first request 3, command and address registers 5, port arbiter 2, skid 1, buffer 2, check 3."""
    fetch_ahead: int = 64
    """Instructions requested and not dispatched (``BUFFER_INSTRUCTIONS``)."""
    fetch_block: int = 8
    """Instructions per request (``BLOCK_INSTRUCTIONS``)."""
    queue: int = 2
    """Dispatch until the unit sees the instruction: a buffered queue."""
    queue_register: int = 1
    """And where a unit keeps the next instruction in a register (``HalfBuffer``)."""
    grant: int = 1
    """Tokens there, and asked for, until they are granted (``hw/control/tokens.py``)."""
    load_request: int = 7
    """LOAD has its tokens until its address is with the memory: engine 5, arbiter 2."""
    load_token: int = 3
    """Last beat of a LOAD until its tokens count: skid, a register and write, give."""
    store_token: int = 12
    """Besides the memory's latency, last chunk offered until the tokens of its STORE count:
    skid 1, narrowing 1, buffer 2, issue 3, response 2, give 2, visible 1."""
    end: int = 10
    """A unit's last token until the frame is over: ``QUIET_CYCLES``, and two."""

    @classmethod
    def of(cls, arch: ArchConfig) -> Timing:
        """The latencies that depend on the array's size."""
        # The word's register, the columns' own, products, a tree.
        array = 3 + _log2(arch.depth)
        if arch.packed:  # hw/matrix/packed.py: a cycle to separate the sums of four rows
            array += 1
        lanes = max(1, _tree(arch.lanes))
        return cls(
            word_to_row=1 + 2 + array + 1 + _log2(arch.width) + 1 + 1,
            # Read 2, sums, total; products 3, variance 3, root 9, gain 2; queue 1.
            statistics=2 + lanes + 1 + 3 + 3 + 9 + 2 + 1,
            # Operands 5, requantise 6, exponential 3; sums, total, reciprocal 7; ready 1.
            row_scale=14 + max(1, _tree(arch.most_lanes)) + 1 + 7 + 1,
            ring=4 + (arch.ring_read_bytes > arch.line_bytes),
            codes=int(arch.four_bit_weights),
            outstanding_beats=OUTSTANDING_BURSTS * arch.max_burst,
            store_buffer=STORE_BURSTS * arch.max_burst,
            burst_beats=arch.max_burst,
        )
