"""The instruction set: 256-bit macro-instructions for six concurrent units.

Every instruction starts with the same 32-bit header (opcode, token masks, layer label, check
byte). A unit executes its own instructions in program order; order between units comes only from
tokens: an instruction starts once it has taken one token from every unit named in ``wait`` and
gives one token to every unit named in ``signal`` when all its effects are visible.

There are no branches. An instruction with ``predicated`` set names an expert: it takes its row
count and row indices from that expert's queue and does nothing when the queue is empty.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce
from operator import xor

from moesaic.spec.errors import UserError
from moesaic.spec.formats import MULTIPLIER_BITS, SHIFT_BITS, UINT8_BITS

ISA_VERSION = 7
INSTRUCTION_BYTES = 32
CHECK_VALUE = 0x5A
"""XOR of all 32 bytes of a well-formed instruction."""


class Unit(enum.IntEnum):
    """Concurrent units. The value is the bit position in the token masks."""

    STREAM = 0
    MATRIX = 1
    VECTOR = 2
    ROUTER = 3
    LOAD = 4
    STORE = 5


UNIT_COUNT = len(Unit)


class Opcode(enum.IntEnum):
    """Values of the header's ``opcode``; 0 and unlisted values are errors."""

    STREAM = 1
    MATMUL = 2
    DRAIN = 3
    NORM = 4
    ROUTE = 5
    LOAD = 6
    STORE = 7
    END = 15


UNIT_OF: dict[Opcode, Unit | None] = {
    Opcode.STREAM: Unit.STREAM,
    Opcode.MATMUL: Unit.MATRIX,
    Opcode.DRAIN: Unit.VECTOR,
    Opcode.NORM: Unit.VECTOR,
    Opcode.ROUTE: Unit.ROUTER,
    Opcode.LOAD: Unit.LOAD,
    Opcode.STORE: Unit.STORE,
    Opcode.END: None,
}


class Stationary(enum.IntEnum):
    """Where MATMUL's stationary operand comes from."""

    RING = 0
    """Weights, a ring word at a time: tile row d, then d+1, ... (``width`` bytes each)."""
    COLUMNS = 1
    """Activation words as array columns: column w of tile (n, k) is word
    ``stationary_base + (n * width + w) * stationary_stride + k`` (keys of Q*K^T)."""
    ROWS = 2
    """Activation words as array rows: row d of tile (n, k) starts at word
    ``stationary_base + (k * depth + d) * stationary_stride + n * (width / depth)``
    (values of P*V)."""
    RING4 = 3
    """Weights of four bits: a ring word of a tile is two words of codes, the first one in the low,
    the second one in the high halves of its bytes. Parameter blocks are as with RING. Malformed
    where the target has no `four_bit_weights`."""


FROM_RING = (Stationary.RING, Stationary.RING4)
"""Sources that take tiles from the ring."""


class Streamed(enum.IntEnum):
    """How MATMUL reads the bytes of the streamed operand."""

    SIGNED8 = 0
    UNSIGNED8 = 1
    SIGNED16 = 2
    """Two planes: high bytes (signed, product shifted left by 8) at ``stream_base``, low bytes
    (unsigned) ``plane_stride`` words behind. Each k-tile up to ``last_wide`` streams the high, then
    the low plane; those behind it have the low one alone."""


class Drain(enum.IntEnum):
    """What DRAIN does with an accumulator row."""

    INT8 = 0
    """requantise to int8, write activations; with `wide` to int16, in two planes; with `rotary`
    rotate pairs of columns on the way."""
    ACTIVATION = 1
    """requantise to 18 bits, apply the function of the loaded tables, requantise with (multiplier,
    shift), write activations: add `offset` and clamp to uint8, or with `wide` saturate to int16 and
    write two planes."""
    RESIDUAL = 2
    """requantise to 24 bits, weight (gate or 1.0), add to the int16 residual stream."""
    LOGITS = 3
    """requantise to 24 bits, send to the router."""
    OUTPUT = 4
    """requantise to int16, send to the store unit."""
    SOFTMAX = 5
    """un-normalised uint8 probabilities to activations, 1/sum to the row-scale memory."""
    ATTENTION = 6
    """scale by the row's 1/sum and (multiplier, shift), write int8 activations; with `wide` int16,
    in two planes."""


class Space(enum.IntEnum):
    """Destination of LOAD."""

    ACTIVATION = 0
    RESIDUAL = 1
    TABLE = 2
    """The vector unit's tables: entry ``i`` of table ``t`` is word ``t * 256 + i``, a beat each; in
    its lowest 32 bits the value, and from bit 18 on the slope."""


class Window(enum.IntEnum):
    """Address windows of the data master, set by the driver."""

    PROGRAM = 0
    CONSTANT = 1
    INPUT = 2
    OUTPUT = 3


@dataclass(frozen=True)
class Field:
    """One bit field.

    A ``nonzero`` field with value 0 makes the instruction malformed; so does one with
    ``nonzero_unless`` while the field of that name is 0.
    """

    name: str
    width: int
    doc: str
    nonzero: bool = False
    nonzero_unless: str = ""


HEADER: tuple[Field, ...] = (
    Field("opcode", 4, "which instruction"),
    Field("wait", 6, "take one token from each unit of this mask before starting"),
    Field("signal", 6, "give one token to each unit of this mask when done"),
    Field("layer", 8, "label of the layer for profiles; no effect"),
    Field("check", 8, f"makes the XOR of all 32 bytes equal 0x{CHECK_VALUE:02X}"),
)

_EXPERT = (
    Field("predicated", 1, "row count and indices come from the queue of `expert`"),
    Field("expert", 6, "expert number"),
)

FIELDS: dict[Opcode, tuple[Field, ...]] = {
    Opcode.STREAM: (
        *_EXPERT,
        Field("sequence", 8, "routing that decides `predicated`: compared with ROUTE's"),
        Field("speculate", 1, "fetch before the routing is known instead of waiting for it"),
        Field("offset", 32, "first ring word in the weight image"),
        Field("words", 24, "ring words to fetch", nonzero=True),
    ),
    Opcode.MATMUL: (
        *_EXPERT,
        Field("gather", 1, "stream the rows whose indices are in the expert's queue"),
        Field("stationary", 2, "source of the stationary operand"),
        Field("streamed", 2, "type of the streamed operand"),
        Field("parameters", 1, "a parameter block precedes the tiles of every n-tile in the ring"),
        Field("track_maximum", 1, "keep each row's maximum over the valid columns of a group"),
        Field("rows", 12, "rows to stream", nonzero_unless="predicated"),
        Field("k_tiles", 10, "tiles along the reduction", nonzero=True),
        Field("n_tiles", 10, "column tiles per group", nonzero=True),
        Field("groups", 10, "groups; one accumulator bank is handed over per group", nonzero=True),
        Field("ring_words", 24, "ring words this instruction consumes (0 without the ring)"),
        Field("stream_base", 20, "word of row 0, k-tile 0"),
        Field("stream_stride", 12, "words between rows"),
        Field("plane_stride", 20, "words from the high to the low plane (SIGNED16)"),
        Field("last_wide", 10, "last k-tile with a high plane (SIGNED16)"),
        Field("stationary_base", 20, "word of tile (0, 0) (COLUMNS, ROWS)"),
        Field("stationary_stride", 12, "words between columns (COLUMNS) or rows (ROWS)"),
        Field("stationary_rows", 13, "words that exist along tokens (COLUMNS, ROWS)"),
    ),
    Opcode.DRAIN: (
        *_EXPERT,
        Field("scatter", 1, "write rows at the queue's indices, weighted by its gate weights"),
        Field("kind", 3, "what to do with an accumulator row"),
        Field("rows", 12, "accumulator rows per n-tile", nonzero_unless="predicated"),
        Field("n_tiles", 10, "column tiles per group", nonzero=True),
        Field("groups", 10, "groups", nonzero=True),
        Field("columns", 16, "valid columns over all groups and n-tiles", nonzero=True),
        Field("base", 20, "destination word of row 0, column 0"),
        Field("stride", 12, "destination words between rows"),
        Field(
            "multiplier",
            MULTIPLIER_BITS,
            "second requantisation (ACTIVATION), exponent scale (SOFTMAX), scale",
        ),
        Field("shift", SHIFT_BITS, "right shift that belongs to `multiplier`"),
        Field("offset", UINT8_BITS, "code of zero (ACTIVATION, not `wide`)"),
        Field(
            "wide",
            1,
            "write the high and the low plane of 16-bit results (INT8, ACTIVATION, ATTENTION)",
        ),
        Field("plane_stride", 20, "words from the high to the low plane (`wide`)"),
        Field("table", 1, "table for values from 0 on (ACTIVATION)"),
        Field("negative_table", 1, "table for values below 0 (ACTIVATION)"),
        Field("linear", 1, "values from 0 on count themselves (ACTIVATION)"),
        Field(
            "paired",
            1,
            "chunks come in pairs: the second one's activation times the first one, as int16, and"
            " (`shift`); a row of all column tiles before the next one, one group (ACTIVATION)",
        ),
        Field(
            "rotary",
            1,
            "chunks come in pairs that are rotated, both requantised to 18 bits and the products by"
            " (`shift`); a row of all column tiles before the next one, one group (INT8)",
        ),
        Field("angles", 20, "residual word of the cosines of row 0, pair 0 (`rotary`)"),
        Field(
            "angle_words",
            10,
            "residual words between rows of angles; pairs of chunks behind the last of them have"
            " the first ones again (`rotary`)",
        ),
    ),
    Opcode.NORM: (
        Field("wide", 1, "also write the high and the low plane of the 16-bit result"),
        Field("rows", 12, "rows to normalise", nonzero=True),
        Field("words", 10, "residual words per row", nonzero=True),
        Field("channels", 13, "true channels per row", nonzero=True),
        Field("source_base", 20, "residual word of row 0"),
        Field("source_stride", 12, "residual words between rows"),
        Field("epsilon", 48, "channels^2 * eps in squared residual steps"),
        Field("multiplier", MULTIPLIER_BITS, "1 / output step, mantissa"),
        Field("shift", SHIFT_BITS, "1 / output step, right shift"),
        Field("base", 20, "activation word of row 0"),
        Field("stride", 12, "activation words between rows"),
        Field(
            "plane_stride", 20, "words from the int8 result to the high, and on to the low plane"
        ),
        Field("plain", 1, "rows as they are: no mean subtracted, no division by the deviation"),
        Field(
            "store",
            1,
            "rows to the store unit, as int16 chunks in the order of the residual words;"
            " `base`, `stride`, `wide` and `plane_stride` mean nothing",
        ),
    ),
    Opcode.ROUTE: (
        Field("rows", 12, "tokens", nonzero=True),
        Field("first_row", 12, "row index that the first token gets in the queues"),
        Field("experts", 7, "experts", nonzero=True),
        Field("top_k", 4, "experts chosen per token", nonzero=True),
        Field("renormalise", 1, "gate weights sum to one over the chosen experts"),
        Field("sigmoid", 1, "gate weights are sigmoids instead of a softmax"),
        Field("multiplier", MULTIPLIER_BITS, "logit to 2^-7 octaves, mantissa"),
        Field("shift", SHIFT_BITS, "logit to 2^-7 octaves, right shift"),
        Field("sequence", 8, "number of this routing, not 0", nonzero=True),
        Field(
            "corrected",
            1,
            "experts are chosen by their sigmoids plus corrections, in 2^-16 steps: one more row of"
            " logits, in front of the tokens (`sigmoid`)",
        ),
    ),
    Opcode.LOAD: (
        Field("window", 2, "CONSTANT, INPUT, or OUTPUT: what a `single` STORE has written"),
        Field("space", 2, "ACTIVATION, RESIDUAL or TABLE"),
        Field("offset", 32, "first byte in the window, a multiple of the data port's beat"),
        Field("words", 20, "scratchpad words to load", nonzero=True),
        Field("base", 20, "first scratchpad word"),
    ),
    Opcode.STORE: (
        Field(
            "offset",
            32,
            "first byte in the OUTPUT window, a multiple of the beats of all output ports",
        ),
        Field("words", 24, "chunks of `lanes` int16 to store", nonzero=True),
        Field(
            "single",
            1,
            "whole chunks to port 0's OUTPUT window, instead of a part of each to every port's",
        ),
    ),
    Opcode.END: (),
}

ENUMS: dict[tuple[Opcode, str], type[enum.IntEnum]] = {
    (Opcode.MATMUL, "stationary"): Stationary,
    (Opcode.MATMUL, "streamed"): Streamed,
    (Opcode.DRAIN, "kind"): Drain,
    (Opcode.LOAD, "window"): Window,
    (Opcode.LOAD, "space"): Space,
}
"""Fields whose values are listed; an unlisted value makes the instruction malformed."""


def listed(opcode: Opcode, name: str, four_bit_weights: bool) -> list[int]:
    """Values that a field may have on a target with ``four_bit_weights``, or without; none if it is
    any."""
    kind = ENUMS.get((opcode, name), ())
    return [int(v) for v in kind if four_bit_weights or v is not Stationary.RING4]


TOKEN_BITS = 6
"""Tokens that one unit has given another and that are not taken yet: below ``1 << TOKEN_BITS``."""


def fields(opcode: Opcode) -> tuple[Field, ...]:
    """All fields of an instruction, header first, in order from bit 0 upwards."""
    return HEADER + FIELDS[opcode]


def positions(opcode: Opcode) -> dict[str, tuple[int, int]]:
    """Map each field name to (first bit, width)."""
    result, bit = {}, 0
    for field in fields(opcode):
        result[field.name] = (bit, field.width)
        bit += field.width
    if bit > 8 * INSTRUCTION_BYTES:
        raise AssertionError(f"{opcode.name} takes {bit} bits")
    return result


def width(opcode: Opcode, name: str) -> int:
    """Bits of a field: the gateware's ports and registers that hold it are as wide."""
    return positions(opcode)[name][1]


def used_bits(opcode: Opcode) -> int:
    """Bits with a meaning; the bits above are reserved and must be zero."""
    return sum(field.width for field in fields(opcode))


def _forbidden_zero(opcode: Opcode, values: Mapping[str, int]) -> str | None:
    """Name of the first field that is 0 (or absent) and must not be."""
    for field in fields(opcode):
        required = field.nonzero or (field.nonzero_unless and not values.get(field.nonzero_unless))
        if required and not values.get(field.name):
            return field.name
    return None


def encode(opcode: Opcode, **values: int) -> bytes:
    """Pack one instruction, little endian, check byte included. Absent fields are 0.

    Raises
    ------
    UserError
        A field is unknown, out of range, or zero where zero is not allowed: the model does not
        fit the instruction set.
    """
    word, where = 0, positions(opcode)
    values = {"opcode": opcode, **values}
    for name, value in values.items():
        if name not in where or name == "check":
            raise AssertionError(f"{opcode.name} has no field {name!r}")
        start, width = where[name]
        if not 0 <= int(value) < 1 << width:
            raise UserError(
                f"{opcode.name} field {name} must be below {1 << width}, not {int(value)}:"
                " the model is too large for the instruction set"
            )
        word |= int(value) << start
    if zero := _forbidden_zero(opcode, values):
        raise AssertionError(f"{opcode.name} field {zero} must not be 0")
    raw = word.to_bytes(INSTRUCTION_BYTES, "little")
    check = reduce(xor, raw, CHECK_VALUE)
    start, _ = where["check"]
    return (word | check << start).to_bytes(INSTRUCTION_BYTES, "little")


@dataclass(frozen=True)
class Instruction:
    """A decoded instruction: opcode and all its fields but the check byte."""

    opcode: Opcode
    values: dict[str, int]

    def __str__(self) -> str:
        def show(name: str, value: int) -> str:
            kind = ENUMS.get((self.opcode, name))
            if kind is not None:
                return f"{name}={kind(value).name}"
            if name in ("wait", "signal"):
                return f"{name}=" + "+".join(u.name for u in Unit if value >> u & 1)
            return f"{name}={value}"

        shown = [show(n, v) for n, v in self.values.items() if v and n != "opcode"]
        return " ".join([self.opcode.name, *shown])


def decode(raw: bytes) -> Instruction:
    """Unpack one instruction.

    Raises
    ------
    UserError
        Wrong length, check byte, opcode, a reserved bit, an undefined value, or a zero where
        none may be.
    """
    if len(raw) != INSTRUCTION_BYTES or reduce(xor, raw, 0) != CHECK_VALUE:
        raise UserError("program holds a damaged instruction: compile the bundle again")
    word = int.from_bytes(raw, "little")
    try:
        opcode = Opcode(word & 0xF)
    except ValueError as error:
        raise UserError(f"program holds an unknown opcode: {error}") from error
    if word >> used_bits(opcode):
        raise UserError(f"program holds a {opcode.name} with reserved bits set")
    values = {
        name: word >> start & (1 << width) - 1 for name, (start, width) in positions(opcode).items()
    }
    if zero := _forbidden_zero(opcode, values):
        raise UserError(f"program holds a {opcode.name} whose {zero} is 0")
    for name, value in values.items():
        if (opcode, name) in ENUMS and value not in ENUMS[opcode, name]._value2member_map_:
            raise UserError(f"program holds a {opcode.name} whose {name} is undefined: {value}")
    del values["check"]
    return Instruction(opcode, values)
