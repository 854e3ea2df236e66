"""Chooses a task's schedule by the cost model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from itertools import product

from moesaic.compiler.codegen.program import encode_program
from moesaic.compiler.codegen.task import Placed
from moesaic.compiler.estimate.cycles.timing import Memory
from moesaic.compiler.estimate.trial import Trial, Trials
from moesaic.compiler.estimate.uncollected import uncollected
from moesaic.compiler.schedule.capacity import check_capacity, resident_words
from moesaic.compiler.schedule.joint import Joint
from moesaic.compiler.schedule.options import Schedule, candidates, first_schedule
from moesaic.compiler.schedule.spill import can_spill
from moesaic.spec import layout
from moesaic.spec.arch import ArchConfig
from moesaic.spec.errors import UserError
from moesaic.spec.intgraph import IntAttention, IntGraph, IntMoe
from moesaic.spec.presets import PRESETS

LEAST_GAIN = 0.002
"""Share of the cycles that a choice must save: less is within the model's own error."""
MOST_STEPS = 12_000
"""Steps of a frame beyond which nothing is tried but what fits: a try takes five seconds then."""


def choose_schedule(
    work: IntGraph | Joint,
    arch: ArchConfig,
    start: Schedule | None = None,
    memory: Memory | None = None,
) -> Schedule:
    """Try one choice after the other, and keep each that the cost model finds faster, until none
    is.

    The estimates assume ``memory``, by default that of reported figures, and experts that share the
    tokens: what a frame's routing will be is not known here. With a slower memory, weights that are
    loaded again for another part of the rows cost more than the array gains. Only sizes count, so a
    model without values gets the schedule of the real one. The search begins at ``start``, by
    default :func:`~moesaic.compiler.schedule.options.first_schedule`, or at one that needs less
    memory where that one does not fit. A frame of more than :data:`MOST_STEPS` steps gets that one.

    Raises
    ------
    UserError
        The model does not fit the architecture, whatever the schedule.
    """
    joint = Joint.of(work)
    check_capacity(joint, arch)
    trials = Trials(joint, arch, memory)
    best = _first_that_fits(trials, start or first_schedule(arch))
    if len(best.plan.steps) > MOST_STEPS:
        return best.schedule
    with uncollected():
        return _fastest(trials, best).schedule


def _fastest(trials: Trials, best: Trial) -> Trial:
    """The search of :func:`choose_schedule` from its first trial on."""
    joint, arch = trials.joint, trials.arch
    before = None
    seen = {best.schedule}  # what was too slow once is so again: cycles only fall
    while best is not before:  # a choice may pay only once another one is made
        before = best
        for choice, values in _choices(joint, arch, best.schedule).items():
            for value in values:
                for tried in _with_more_room(joint, _changed(best.schedule, choice, value)):
                    if tried in seen:
                        break
                    seen.add(tried)
                    try:
                        found = trials.run(tried, best, best.cycles * (1 - LEAST_GAIN))
                        if found:
                            encode_program(found.plan.steps, arch)
                            best = found
                        break
                    except UserError:  # it needs more than there is
                        continue
    return best


def _choices(joint: Joint, arch: ArchConfig, best: Schedule) -> dict[str, tuple[int, ...]]:
    """What is worth a try: without experts some choices are the same."""
    choices = candidates(arch, best)
    if not any(isinstance(layer, IntMoe) for layer in joint.graph.layers):
        del choices["experts_ahead"], choices["speculated_experts"]
    return choices


def _changed(schedule: Schedule, choice: str, value: int) -> Schedule:
    """A schedule with another choice: of rows that are taken in blocks none have a head start."""
    if value > 1 and choice == "head_start":
        schedule = replace(schedule, row_blocks=1)
    if value > 1 and choice == "row_blocks":
        schedule = replace(schedule, head_start=1)
    return replace(schedule, **{choice: value})


def _with_more_room(joint: Joint, schedule: Schedule) -> list[Schedule]:
    """A schedule, and what to try where it does not fit: the same with planes freed, if there are
    any."""
    layers = joint.graph.layers
    planes = any(layer.wide or isinstance(layer, IntMoe) for layer in layers)
    return list(
        dict.fromkeys([schedule, replace(schedule, planes_freed=1)] if planes else [schedule])
    )


def check_fits(work: IntGraph | Joint, arch: ArchConfig) -> None:
    """Refuse what no schedule of :func:`choose_schedule` places, without searching the fastest.

    Only sizes count: values may be missing.

    Raises
    ------
    UserError
        The model does not fit the architecture, whatever the schedule.
    """
    joint = Joint.of(work)
    check_capacity(joint, arch)
    fitting_schedule(joint, arch, first_schedule(arch))


def smallest_preset(work: IntGraph | Joint) -> str | None:
    """Name of the preset with the smallest array, and of those the least memory, that holds a
    model; None if none does. Only sizes count."""

    def size(arch: ArchConfig) -> tuple[int, int]:
        return arch.macs_per_cycle, arch.activation_bytes + arch.residual_bytes

    for preset in sorted(PRESETS.values(), key=size):
        with suppress(UserError):
            check_fits(work, preset)
            return preset.name
    return None


@contextmanager
def naming_a_preset(work: IntGraph | Joint) -> Iterator[None]:
    """Add to a refusal of what does not fit which preset does."""
    try:
        yield
    except UserError as error:
        if not str(error).startswith("the model does not fit target"):
            raise
        name = smallest_preset(work)
        advice = f"of the presets {name} is the smallest that holds it" if name else NO_PRESET
        raise UserError(f"{error}; {advice}") from error


NO_PRESET = "no preset holds it"
ROW_BLOCKS = (2, 4, 8, 16)
"""Parts of the rows that are worth a try for their memory: hidden activations are those of two."""
MOST_QUERY_BLOCKS = 16
"""Parts of the queries that are worth a try for their memory; each loads all keys again."""


def fitting_schedule(
    work: IntGraph | Joint,
    arch: ArchConfig,
    start: Schedule,
    memory: Memory | None = None,
) -> tuple[Schedule, int]:
    """``start``, or the first one that fits of those that need less memory; and its cycles.

    Planes of normalised rows give way as soon as they can; fewer hidden activations wait for their
    second products, those of fewer rows at a time; scores
    are taken in smaller parts; a product whose groups fit the accumulator banks may be drained over
    its own source; rows may be normalised as they are read, instead of kept; and the keys and
    values of some heads may be there at a time.

    Raises
    ------
    UserError
        None of them fits.
    """
    found = _first_that_fits(Trials(Joint.of(work), arch, memory), start)
    return found.schedule, found.cycles


def _first_that_fits(trials: Trials, start: Schedule) -> Trial:
    """The trial of :func:`fitting_schedule`."""
    joint, arch = trials.joint, trials.arch
    refusals: list[UserError] = []

    def encodable(schedule: Schedule) -> Placed:
        """Its places, of steps whose fields are large enough."""
        placed = trials.place(schedule)
        assert placed  # there is no limit
        encode_program(placed.steps, arch)
        return placed

    def tried(schedule: Schedule, placed: Placed | None = None) -> Trial | None:
        try:
            found = trials.estimate(schedule, placed or encodable(schedule))
            assert found  # there is no limit
            encode_program(found.plan.steps, arch)
            return found
        except UserError as error:
            refusals.append(error)
            return None

    def places(schedule: Schedule) -> Placed | None:
        """Whether its buffers find room, and where, and fields are large enough: much sooner known
        than its cycles."""
        words = [
            joint.streams_at(index) * resident_words(layer, joint, arch, schedule.head_groups)
            for index, layer in enumerate(joint.graph.layers)
        ]
        try:
            if max(words, default=0) < arch.activation_words:
                return encodable(schedule)
        except UserError as error:
            refusals.append(error)
        return None

    for schedule in _with_more_room(joint, start):
        found = tried(schedule)
        if found:
            return found
    start = _with_more_room(joint, start)[-1]
    parts = [n for n in (1, 2, 4, 8, MOST_QUERY_BLOCKS) if n > start.query_blocks]
    parts = [start.query_blocks, *parts]
    rows = [start.row_blocks, *(n for n in ROW_BLOCKS if n > start.row_blocks)]
    tiles = sorted({start.bank_tiles, *candidates(arch)["bank_tiles"]})
    aheads = sorted({start.experts_ahead, 0})[::-1]
    whole = [{"norms_kept": kept} for kept in sorted({start.norms_kept, 0})[::-1]]
    for less in (*whole, *({"norms_kept": 0, "head_groups": n} for n in _head_groups(joint))):
        # If the leanest do not fit, none does.
        leanest = replace(
            start, row_blocks=rows[-1], query_blocks=parts[-1], experts_ahead=0, **less
        )
        if not any(places(replace(leanest, bank_tiles=count)) for count in tiles):
            continue
        for row_blocks, blocks, ahead, count in product(rows, parts, aheads, tiles):
            schedule = replace(
                leanest,
                row_blocks=row_blocks,
                query_blocks=blocks,
                experts_ahead=ahead,
                bank_tiles=count,
            )
            placed = places(schedule)
            found = tried(schedule, placed) if placed else None
            if found:
                return found
    raise refusals[-1]


def _head_groups(joint: Joint) -> list[int]:
    """Numbers of parts of the heads that differ in how many heads a part has, from 2 on; none
    where heads are not taken in parts."""
    heads = [layer.heads for layer in joint.graph.layers if isinstance(layer, IntAttention)]
    if not heads or not can_spill(joint):
        return []
    most = max(heads)
    sizes = {layout.words(most, groups): groups for groups in range(most, 1, -1)}
    return sorted(sizes.values())
