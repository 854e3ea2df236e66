"""What the scheduler may choose; the cost model says which choice is best."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from moesaic.spec import isa
from moesaic.spec.arch import ArchConfig
from moesaic.spec.errors import UserError

MOST_HEADS = (1 << isa.width(isa.Opcode.NORM, "channels")) - 1
"""Heads of an attention: each has a channel at least."""


@dataclass(frozen=True)
class Schedule:
    """Tiling, order and prefetch distances of one task. None of them changes a result.

    Attributes
    ----------
    row_blocks
        Tiling: parts that the rows of the stream are taken in, at least; more where a part would
        not fit an accumulator bank. The array works on one while the vector unit adds up and
        normalises the other. Every part loads the weights again.
    query_blocks
        Tiling: parts that the rows of queries are taken in, at least; more where the scores of a
        part would not fit an accumulator bank. Every part loads the keys and values again.
    bank_tiles
        Tiling: column tiles of a linear layer that share an accumulator bank, at most. Fewer
        banks change hands, and the drain starts later.
    experts_ahead
        Order: experts whose first product comes before the second product of this one.
    speculated_experts
        Prefetch: experts of a layer that are fetched before the routing is known, at most.
    fetches_ahead
        Prefetch: fetches that are dealt out before the consumer of the first of them. At most
        ``queue_depth``.
    norms_kept
        Memory: 1 where the rows of the stream are normalised as their sums become complete, and
        kept for the layer that reads them. 0 where dense layers and attention normalise a block
        when they read it, attention twice: only keys and values are of all tokens then.
    head_groups
        Memory: parts that the heads of attention are taken in, each of which normalises all rows
        again: only the keys and values of one are of all tokens then. With more than one, rows
        of the stream and results of heads lie in external memory, where a task's layers allow it.
    planes_freed
        Memory: 1 where the 16-bit planes of normalised rows give way once the last of those that
        read them, mostly a gate, has done so; the int8 rows of the same NORM live on for experts.
        0 where all planes live as long.
    head_start
        Order: where ``row_blocks`` is 1, parts that kept rows are normalised in. What reads them
        begins with some column tiles of one part behind the other, a gate with all it has, while
        the vector unit normalises the next; the other tiles follow for all rows. Every part loads
        the weights of these tiles again.
    """

    row_blocks: int
    query_blocks: int
    bank_tiles: int
    experts_ahead: int
    speculated_experts: int
    fetches_ahead: int
    norms_kept: int = 1
    head_groups: int = 1
    planes_freed: int = 0
    head_start: int = 1


def first_schedule(arch: ArchConfig) -> Schedule:
    """Where the search begins: one expert ahead, everything speculated, half a queue of fetches."""
    return Schedule(
        row_blocks=1,
        query_blocks=1,
        bank_tiles=1,
        experts_ahead=1,
        speculated_experts=arch.max_experts,
        fetches_ahead=max(1, arch.queue_depth // 2),
    )


def candidates(arch: ArchConfig, best: Schedule | None = None) -> dict[str, tuple[int, ...]]:
    """Values of each choice that are worth a try, in the order in which they are tried: of parts,
    few, and those beside the number that ``best`` has.

    Fetches that are dealt out early must all find room in the stream unit's queue: dispatch that
    blocks on it never reaches the MATMULs that would empty the ring. A quarter is left in reserve.
    """
    early = {arch.queue_depth * quarters // 4 for quarters in (1, 2, 3)} - {0}
    return {
        "fetches_ahead": tuple(sorted(early)),
        "experts_ahead": (1, 0, 2),
        "row_blocks": _parts((1, 2, 3), best.row_blocks if best else 1),
        "head_start": (1, 2, 3) if best is None or best.row_blocks <= 3 else (1,),
        "query_blocks": _parts((1, 2), best.query_blocks if best else 1),
        "bank_tiles": tuple(range(1, arch.parameter_blocks)),
        "speculated_experts": (arch.max_experts, 0, arch.max_experts // 2),
    }


def _parts(few: tuple[int, ...], now: int) -> tuple[int, ...]:
    """Numbers of parts: few of them and, where memory asks for more, its neighbours."""
    if now <= max(few):
        return few
    return (*few, *sorted({now // 2, now - 1, now + 1, 2 * now} - {*few}))


def stored_schedule(arch: ArchConfig, fields: Mapping[str, int], bundle: str) -> Schedule:
    """The schedule that a bundle's report holds.

    Raises
    ------
    UserError
        A field is missing, unknown, or beyond what can be chosen.
    """
    earlier = {"norms_kept": 1, "head_groups": 1, "planes_freed": 0, "head_start": 1}
    if isinstance(fields, Mapping):
        fields = {**earlier, **fields}  # what earlier bundles do not say
    tried = candidates(arch)
    most_rows = (1 << isa.width(isa.Opcode.NORM, "rows")) - 1
    most = {
        "row_blocks": most_rows,
        "query_blocks": arch.accumulator_rows,
        "bank_tiles": max(tried["bank_tiles"]),
        "experts_ahead": arch.max_experts,
        "speculated_experts": arch.max_experts,
        "fetches_ahead": arch.queue_depth,
        "norms_kept": 1,
        "head_groups": MOST_HEADS,
        "planes_freed": 1,
        "head_start": most_rows,
    }
    least = {name: 1 for name in ("row_blocks", "query_blocks", "bank_tiles", "fetches_ahead")}
    least |= {"head_groups": 1, "head_start": 1}
    good = isinstance(fields, Mapping) and set(fields) == set(most)
    good = good and all(
        type(fields[name]) is int and least.get(name, 0) <= fields[name] <= limit
        for name, limit in most.items()
    )
    if not good:
        raise UserError(
            f"the report of bundle {bundle} holds no schedule for {arch.name}; compile it again"
        )
    return Schedule(**fields)
