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
from moesaic.compiler.schedule.lower import lower
from moesaic.compiler.schedule.memory import plan_memory
from moesaic.compiler.schedule.options import Schedule, first_schedule
from moesaic.compiler.schedule.steps import Step
from moesaic.compiler.schedule.tokens import insert_tokens
from moesaic.spec.arch import ArchConfig
from moesaic.spec.constants import pack_constants
from moesaic.spec.intgraph import IntGraph


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


@dataclass
class Plan:
    """Everything about a program but its bits."""

    steps: list[Step]
    activation_words: int
    fetches: list[Fetch]


def plan_task(
    graph: IntGraph, arch: ArchConfig, image: WeightImage, schedule: Schedule, frames: int = 1
) -> Plan:
    """What :func:`compile_task` encodes; add the task's weights to ``image``.

    Raises
    ------
    UserError
        The model does not fit the architecture, so far: a size may still exceed its field.
    """
    steps = lower(graph, arch, schedule, frames)
    activation_words = plan_memory(steps, arch)
    insert_tokens(steps, arch)
    fetches = plan_fetches(steps, image, schedule.speculated_experts)
    steps = place_fetches(steps, fetches, schedule.fetches_ahead)
    return Plan(steps, activation_words, fetches)


def compile_task(
    graph: IntGraph,
    arch: ArchConfig,
    image: WeightImage,
    schedule: Schedule | None = None,
    frames: int = 1,
) -> TaskCode:
    """Generate the code of ``frames`` frames of ``graph`` together; add its weights to ``image``.

    Without a ``schedule``, that of :func:`~moesaic.compiler.schedule.options.first_schedule`.

    Raises
    ------
    UserError
        The model does not fit the architecture.
    """
    planned = plan_task(graph, arch, image, schedule or first_schedule(arch), frames)
    return TaskCode(
        program=encode_program(planned.steps, arch),
        constants=pack_constants(graph, arch),
        steps=planned.steps,
        activation_words=planned.activation_words,
        weight_words=sum(fetch.words for fetch in planned.fetches),
    )
