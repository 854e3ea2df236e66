"""What travels beside the data: jobs, requests and steps of the streamer."""

from __future__ import annotations

from amaranth.hdl import ShapeLike
from amaranth.lib import data

from moesaic.hw.interfaces import ACTIVATION_READ_LATENCY, instruction_layout
from moesaic.hw.matrix.array import array_latency
from moesaic.spec import isa
from moesaic.spec.arch import ArchConfig

PASS_DISTANCE = 4
"""Least cycles between requests that visit the same accumulator row: its old value is read two
cycles before the addition, the new one written one cycle after it and found one cycle later."""

MATMUL = instruction_layout(isa.Opcode.MATMUL)

_JOB_FIELDS = (
    "wait signal expert gather streamed track_maximum rows stream_base"
    " stream_stride plane_stride last_wide stationary_rows"
).split()
JOB_LOOPS = ("rows", "k_tiles", "n_tiles", "groups")
"""Loops of a job, the innermost first."""


def job_layout() -> data.StructLayout:
    """A MATMUL as the loader hands it to the streamer.

    ``rows`` is the true count. ``taken``: the loader took its tokens. ``waits``: it did not, and
    there are some to take. ``empty``: nothing to do but take and give tokens. ``attention``: the
    stationary operand is activations. ``pause``: of the requests of the last row.
    ``sixteen``: streams words of 16 bits. ``more_rows`` and the like: one less than the number, or
    0; ``only_rows``: that it is 0; ``only_wide``: that ``last_wide`` is.
    """
    widths = {field.name: field.width for field in isa.fields(isa.Opcode.MATMUL)}
    flags = dict.fromkeys(("taken", "waits", "empty", "attention", "sixteen", "only_wide"), 1)
    fields: dict[str, ShapeLike] = {**{name: widths[name] for name in _JOB_FIELDS}, **flags}
    for name in JOB_LOOPS:
        fields |= {f"more_{name}": widths[name], f"only_{name}": 1}
    return data.StructLayout({**fields, "pause": range(PASS_DISTANCE)})


def row_bits(arch: ArchConfig) -> int:
    """Bits of an accumulator row's address."""
    return (arch.accumulator_rows - 1).bit_length()


def step_layout(arch: ArchConfig) -> data.StructLayout:
    """One streamed word on its way through array and accumulators.

    ``word``: there is a word; without it only the ``*_last`` flags count. ``swap``: first word of
    a tile. ``address``: accumulator row. ``overwrite``: first visit of the row. ``high``: shift
    the sums left by 8. ``track``: the sums are final and enter the maximum of ``row``, over the
    first ``columns`` columns; ``first`` overwrites that maximum. ``group_last``, ``last``: hands
    over ``bank``, ends the instruction with ``signal``.
    """
    return data.StructLayout(
        {
            "word": 1,
            "swap": 1,
            "is_signed": 1,
            "high": 1,
            "overwrite": 1,
            "track": 1,
            "first": 1,
            "group_last": 1,
            "last": 1,
            "bank": 1,
            "columns": range(arch.width + 1),
            "address": row_bits(arch),
            "row": row_bits(arch),
            "signal": isa.UNIT_COUNT,
        }
    )


def request_layout(arch: ArchConfig) -> data.StructLayout:
    """A word to be read from the activations, with the conditions it has to wait for.

    ``pause``: least idle cycles behind it, so that few rows are not visited again too soon.
    ``group_start``: needs a free bank. ``step.swap``: needs a loaded tile.
    """
    return data.StructLayout(
        {
            "address": range(arch.activation_words),
            "pause": range(PASS_DISTANCE),
            "group_start": 1,
            "attention": 1,
            "step": step_layout(arch),
        }
    )


class Timing:
    """Cycles after a word's request at which things happen to it.

    Attributes
    ----------
    arrive
        The word is at the array's input.
    add
        Its sums leave the array and are added to the accumulator row.
    maximum
        The row maximum of the new sums is compared with the one kept.
    end
        Row and maximum are being written: whatever the vector unit reads from the next cycle
        on, it finds.
    """

    def __init__(self, arch: ArchConfig) -> None:
        self.arrive = ACTIVATION_READ_LATENCY
        self.add = self.arrive + array_latency(arch)
        self.maximum = self.add + 1 + (arch.width - 1).bit_length()
        self.end = self.maximum + 1
