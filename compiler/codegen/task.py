"""One task from integer graph to program: lowering, memory, tokens, fetches, encoding in order."""

from __future__ import annotations

from dataclasses import dataclass

from moesaic.compiler.codegen.image import WeightImage
from moesaic.compiler.codegen.program import (
    Fetch,
    encode_program,
    place_fetches,
    plan_fetches,
)
from moesaic.compiler.schedule.joint import Joint
from moesaic.compiler.schedule.lower import lower
from moesaic.compiler.schedule.memory import plan_memory
from moesaic.compiler.schedule.options import Schedule, first_schedule
from moesaic.compiler.schedule.steps import Step
from moesaic.compiler.schedule.tokens import insert_tokens
from moesaic.spec.arch import ArchConfig
from moesaic.spec.constants import pack_constants
from moesaic.spec.errors import UserError
from moesaic.spec.formats import FEW_WEIGHT_BITS, WEIGHT_BITS
from moesaic.spec.graphcheck import linears
from moesaic.spec.intgraph import IntGraph
from moesaic.spec.presets import presets_with


@dataclass
class TaskCode:
    """What one task needs at run time, besides the shared weight image."""

    program: bytes
    constants: bytes
    """Contents of the CONSTANT window."""
    steps: list[Step]
    activation_words: int
    """High-water mark of the activation scratchpad."""
    weight_words: int
    """Ring words of one frame in which every expert is hit."""


def check_weights(graph: IntGraph, arch: ArchConfig) -> None:
    """Refuse weights of four bits on a target that has no way for them.

    Raises
    ------
    UserError
        A layer has them, and the target has not.
    """
    few = next((where for where, linear, *_ in linears(graph) if linear.few_bits), None)
    if few and not arch.four_bit_weights:
        raise UserError(
            f"the model does not fit target {arch.name}: {few} has weights of {FEW_WEIGHT_BITS}"
            f" bits, and the target takes {WEIGHT_BITS} only; use one with four_bit_weights"
            f" ({presets_with('four_bit_weights')}), or compile with"
            f" --experts {WEIGHT_BITS} --weights {WEIGHT_BITS}"
        )


@dataclass
class Placed:
    """Steps with addresses and tokens, before fetches are dealt out."""

    steps: list[Step]
    activation_words: int


@dataclass
class Plan:
    """Everything about a program but its bits."""

    steps: list[Step]
    activation_words: int
    fetches: list[Fetch]


def place_steps(steps: list[Step], arch: ArchConfig) -> Placed:
    """Give lowered steps their addresses and tokens; ``steps`` are changed.

    Raises
    ------
    UserError
        The model does not fit the architecture.
    """
    activation_words = plan_memory(steps, arch)
    insert_tokens(steps, arch)
    return Placed(steps, activation_words)


def deal_fetches(placed: Placed, image: WeightImage, schedule: Schedule) -> Plan:
    """Put fetches between placed steps, which stay as they are; add the weights to ``image``."""
    fetches = plan_fetches(placed.steps, image, schedule.speculated_experts)
    steps = place_fetches(placed.steps, fetches, schedule.fetches_ahead)
    return Plan(steps, placed.activation_words, fetches)


def plan_task(
    work: IntGraph | Joint, arch: ArchConfig, image: WeightImage, schedule: Schedule
) -> Plan:
    """What :func:`compile_task` encodes; add the weights to ``image``.

    Raises
    ------
    UserError
        The model does not fit the architecture, so far: a size may still exceed its field.
    """
    joint = Joint.of(work)
    for graph in joint.graphs:
        check_weights(graph, arch)
    return deal_fetches(place_steps(lower(joint, arch, schedule), arch), image, schedule)


def compile_task(
    work: IntGraph | Joint,
    arch: ArchConfig,
    image: WeightImage,
    schedule: Schedule | None = None,
) -> TaskCode:
    """Generate the code of one frame of a task, or of what is computed together; add its weights
    to ``image``.

    Without a ``schedule``, that of :func:`~moesaic.compiler.schedule.options.first_schedule`.

    Raises
    ------
    UserError
        The model does not fit the architecture.
    """
    joint = Joint.of(work)
    planned = plan_task(joint, arch, image, schedule or first_schedule(arch))
    return TaskCode(
        program=encode_program(planned.steps, arch),
        constants=pack_constants(joint.graph, arch),
        steps=planned.steps,
        activation_words=planned.activation_words,
        weight_words=sum(fetch.words for fetch in planned.fetches),
    )
