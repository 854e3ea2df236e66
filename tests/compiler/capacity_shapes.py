"""Shapes at the edges of an architecture: one size of a drawn model grows until it is refused."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace

from moesaic.compiler.codegen.task import compile_task
from moesaic.compiler.estimate.shapes import ShapeImage
from moesaic.compiler.schedule.options import Schedule, candidates, first_schedule
from moesaic.spec.arch import ArchConfig
from moesaic.spec.errors import UserError

from .random_intgraph import Shape, random_intgraph

GROWING = {
    "tokens": (4, 4096),
    "channels": (1, 8192),
    "heads": (1, 24),
    "head_dim": (2, 4096),
    "value_dim": (3, 4096),
    "hidden": (6, 8192),
    "expert_hidden": (4, 8192),
    "experts": (3, 128),
    "top_k": (3, 32),
    "patch_inputs": (1, 1 << 17),
    "outputs": (1, 1 << 17),
}
"""Sizes that grow: how often, and how far at most."""


@dataclass(frozen=True)
class Case:
    """A model near an edge, the architecture, and a schedule to try."""

    shape: Shape
    arch: ArchConfig
    schedule: Schedule
    grown: str


def sizes(rng: random.Random, arch: ArchConfig) -> Shape:
    """A model that probably fits: nothing in it is chosen to suit the array."""
    moe = rng.choice([(False,), (True,), (True, False)])
    tokens = min(_size(rng, arch.accumulator_rows), arch.max_tokens if any(moe) else 4096)
    depth = arch.depth
    experts = rng.randint(1, min(arch.max_experts, rng.choice([4, 64])))
    head_dim = _size(rng, 3 * depth)
    first = rng.randint(0, min(2, tokens - 1))
    # Of the sizes, not of the graph's seed, which only says which hidden channels are wide.
    forms = random.Random(f"{tokens} {head_dim} {experts}")
    return Shape(
        tokens=tokens,
        patches=tokens - first,
        patch_inputs=_size(rng, 6 * depth),
        channels=_size(rng, 8 * depth),
        heads=_size(rng, 8),
        head_dim=head_dim,
        value_dim=head_dim if rng.random() < 0.5 else _size(rng, 3 * depth),
        hidden=_size(rng, 16 * depth),
        expert_hidden=_size(rng, 16 * depth),
        experts=experts,
        top_k=rng.randint(1, min(15, experts)),
        moe=moe,
        outputs=_size(rng, 4 * depth),
        head_rows=tokens - first,
        head_first=first,
        wide=forms.choice([0.0, 0.0, 1.0]),
        parallel=forms.choice([(), (), (1,), (1, 2, 3)]),
    )


def _size(rng: random.Random, most: int) -> int:
    """1 to ``most``, each order of magnitude equally likely."""
    return min(most, int(most ** rng.random()) + rng.randint(0, 3))


def grow(shape: Shape, name: str, value: int) -> Shape:
    """``shape`` with one size changed, and those changed that depend on it."""
    changed = {name: value}
    if name == "tokens":
        first = min(shape.head_first, value - 1)
        changed |= {"patches": value - first, "head_rows": value - first, "head_first": first}
    if name == "experts":
        changed["top_k"] = min(shape.top_k, value)
    if name == "top_k":
        changed["experts"] = max(shape.experts, value)
    return replace(shape, **changed)  # type: ignore[arg-type]


def vary(rng: random.Random, arch: ArchConfig) -> ArchConfig:
    """The preset, or one with a shorter ring or shorter queues."""
    ring = rng.choice([arch.ring_bytes] * 3 + [16 * arch.ring_read_bytes])
    queue = rng.choice([arch.queue_depth] * 3 + [1, 2, 4])
    return replace(arch, ring_bytes=ring, queue_depth=queue)


def fits(shape: Shape, arch: ArchConfig, schedule: Schedule | None = None, seed: int = 0) -> bool:
    """Whether ``arch`` takes it, with the forms of rows that ``seed`` gives."""
    graph = random_intgraph(shape, seed, values=False)
    try:
        compile_task(graph, arch, ShapeImage(arch), schedule)
    except UserError:
        return False
    return True


def edge(shape: Shape, arch: ArchConfig, schedule: Schedule, name: str) -> int:
    """The largest size ``name`` at which ``shape`` fits; 0 if none does."""
    low, step = 0, 1
    if not fits(grow(shape, name, 1), arch, schedule):
        return 0
    low = 1
    while low + step <= GROWING[name][1] and fits(grow(shape, name, low + step), arch, schedule):
        low, step = low + step, 2 * step
    high = min(low + step, GROWING[name][1] + 1)
    while high - low > 1:
        middle = (low + high) // 2
        if fits(grow(shape, name, middle), arch, schedule):
            low = middle
        else:
            high = middle
    return low


def capacity_cases(preset: ArchConfig, count: int, seed: int) -> Iterator[Case]:
    """``count`` cases at and just beside the edges of ``preset``."""
    rng = random.Random(seed)
    made = 0
    while made < count:
        arch = vary(rng, preset)
        base = sizes(rng, arch)
        schedule = first_schedule(arch)
        if rng.random() < 0.5:
            choices = {
                name: rng.choice(values) for name, values in candidates(arch).items() if values
            }
            schedule = replace(schedule, **choices, norms_kept=made // 4 % 2)
        (name,) = rng.choices(list(GROWING), [often for often, _ in GROWING.values()])
        if name == "hidden" and all(base.moe):
            continue
        if name in ("expert_hidden", "experts", "top_k") and not any(base.moe):
            continue
        found = edge(base, arch, schedule, name)
        if not found:
            continue
        beside = rng.choice([-1, 1]) * rng.randint(2, arch.depth)
        for value in {found, found + 1, max(1, found - 1), max(1, found + beside)}:
            if made < count:
                made += 1
                yield Case(grow(base, name, value), arch, schedule, name)


assert set(GROWING) <= {field.name for field in fields(Shape)}
