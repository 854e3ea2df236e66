"""Programs that compute several tasks of an image, several frames of a task, or both, together.

They are in a bundle beside those of single frames, with a name of their own in the device image,
and take and give all frames of all their tasks: inputs of frames lie one behind the other, outputs
by task, of each by frame. Their bits are those of single frames.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from numpy.typing import NDArray

from moesaic.spec.arch import ArchConfig
from moesaic.spec.errors import UserError
from moesaic.spec.formats import MAX_FRAMES
from moesaic.spec.hostside import same_codes
from moesaic.spec.image import MAX_TASKS, NAME_BYTES, ImageTask
from moesaic.spec.intgraph import MAX_HEADS, IntGraph
from moesaic.spec.schema import Items, Range, SchemaError


@dataclass(frozen=True)
class JointEntry:
    """What the manifest says of a program of several frames or tasks."""

    tasks: Annotated[list[str], Items(1, MAX_TASKS)]
    """In the order of their outputs."""
    frames: Annotated[int, Range(1, MAX_FRAMES)]
    weight_words: int
    """Ring words if every expert is hit."""
    activation_words: int
    labels: Annotated[list[str], Items(0, 256)]
    """Layer names by the ``layer`` field of instructions."""


def joint_name(tasks: Sequence[str], frames: int) -> str:
    """How a program of ``tasks`` on each of ``frames`` images is called: ``seg+depth``, ``seg*2``,
    ``seg+depth*2``."""
    return "+".join(tasks) + (f"*{frames}" if frames > 1 else "")


def joint_frames(name: str) -> int:
    """Frames of the program, or the task, of a name."""
    _, _, frames = name.partition("*")
    return int(frames or 1)


def read_joint(text: str, known: Iterable[str]) -> tuple[tuple[str, ...], int]:
    """Tasks and frames of ``seg,depth``, ``seg*2`` or ``seg,depth*2``; ``+`` may stand for a comma.

    Raises
    ------
    UserError
        It names no such program, or an unknown task.
    """
    found = re.fullmatch(r"([^*]+?)(?:\*([0-9]{1,9}))?", text.strip())
    names = [name.strip() for name in re.split("[,+]", found[1])] if found else []
    frames = int(found[2] or 1) if found else 0
    many = len(names) > 1 or frames > 1
    if not many or len(set(names)) < len(names) or not 1 <= frames <= MAX_FRAMES:
        raise UserError(
            "what is computed together are several tasks, up to"
            f" {MAX_FRAMES} frames of one, or both: seg,depth or seg*2 or seg,depth*2, not {text!r}"
        )
    for name in names:
        if name not in set(known):
            only = ", ".join(sorted(known))
            raise UserError(f"there is no task {name!r} to compute together: tasks are {only}")
    if len(joint_name(names, frames).encode()) >= NAME_BYTES:
        raise UserError(
            f"the program {joint_name(names, frames)!r} would have a name of more than"
            f" {NAME_BYTES - 1} bytes; give the tasks shorter names"
        )
    return tuple(names), frames


def check_joint(joint: Mapping[str, JointEntry], tasks: Iterable[str]) -> None:
    """Hold a manifest's joint programs against its tasks.

    Raises
    ------
    SchemaError
        One has another name than its own, or computes nothing together, or an unknown task.
    """
    for name, entry in joint.items():
        try:
            read = read_joint(name, tasks)
        except UserError as error:
            raise SchemaError(f"joint has a program that is none: {error}") from error
        if read != (tuple(entry.tasks), entry.frames) or joint_name(*read) != name:
            raise SchemaError(f"joint.{name} computes something else than its name says")


def image_part(
    arch: ArchConfig,
    graphs: Mapping[str, IntGraph],
    joint: Mapping[str, JointEntry],
    name: str,
    program: bytes,
    constants: bytes,
) -> ImageTask:
    """What the device image says of program ``name``, of a task or of ``joint``."""
    if name not in joint:
        return ImageTask.of(arch, graphs[name], program, constants)
    entry = joint[name]
    mine = [graphs[task] for task in entry.tasks]
    outputs = output_shapes(mine, entry.frames)
    return ImageTask.of(arch, mine[0], program, constants, outputs, entry.frames)


def check_parts(
    arch: ArchConfig,
    graphs: Mapping[str, IntGraph],
    joint: Mapping[str, JointEntry],
    parts: Mapping[str, ImageTask],
) -> None:
    """Hold what the device image has of joint programs against the graphs.

    Raises
    ------
    SchemaError
        Tasks take different inputs, or shapes, scratch or constants are others.
    """
    for name, entry in joint.items():
        first, part = entry.tasks[0], parts[name]
        if not all(same_codes(graphs[first], graphs[task]) for task in entry.tasks):
            raise SchemaError(f"joint.{name} has tasks with different inputs")
        try:
            wanted = image_part(arch, graphs, joint, name, part.program, parts[first].constants)
        except UserError as error:
            raise SchemaError(f"joint.{name}: {error}") from error
        if part != wanted or entry.activation_words > arch.activation_words:
            raise SchemaError(f"joint.{name} has other sizes or constants than its tasks")


def output_shapes(graphs: Sequence[IntGraph], frames: int) -> list[tuple[int, int]]:
    """Rows and columns of all outputs, in the order in which they lie in their window.

    Raises
    ------
    UserError
        They are more than a program has.
    """
    shapes = [
        (head.rows, head.linear.outputs)
        for graph in graphs
        for _ in range(frames)
        for head in graph.heads
    ]
    if len(shapes) > MAX_HEADS:
        raise UserError(
            f"what is computed together has {len(shapes)} outputs, a program has {MAX_HEADS} at"
            f" most: take fewer {'frames' if frames > 1 else 'tasks'}"
        )
    return shapes


def split_codes(
    graphs: Sequence[IntGraph], frames: int, codes: NDArray[np.int16]
) -> list[NDArray[np.int16]]:
    """Of all codes [codes] of a run those of each task, [frames, codes of the task]."""
    ends = np.cumsum([frames * graph.codes for graph in graphs])
    return [part.reshape(frames, -1) for part in np.split(codes, ends[:-1])]


@dataclass(frozen=True)
class Run:
    """One run of a program: of which tasks, from which frame on."""

    name: str
    tasks: tuple[str, ...]
    first: int
    frames: int


def plan_runs(
    joint: Mapping[str, JointEntry],
    tasks: Sequence[str],
    frames: int,
    cycles: Mapping[str, int] | None = None,
) -> list[Run]:
    """Runs that compute ``tasks`` on ``frames`` images, nothing else, and each once.

    Of the ways to lay programs side by side the one of fewest cycles; where a program's cycles are
    not known, the one of fewest runs. A program is used as often as it fits, or once less.

    Parameters
    ----------
    joint
        Programs of several tasks or frames, by name.
    tasks
        Each once.
    frames
        How many images, 0 or more.
    cycles
        Of a run of each program, joint ones and those of single frames, by name.
    """
    plan = _Plan(joint, tasks, cycles or {})
    runs: list[Run] = []
    open_work = [(tuple(tasks), 0, frames)]
    while open_work:
        wanted, first, count = open_work.pop()
        if not wanted or not count:
            continue
        name, often = plan.best(wanted, count)
        names, size = plan.programs[name]
        done = often * size
        runs += [Run(name, names, start, size) for start in range(first, first + done, size)]
        open_work.append((wanted, first + done, count - done))
        open_work.append((_without(wanted, names), first, done))
    return runs


def worth_running(
    joint: Mapping[str, JointEntry], cycles: Mapping[str, int]
) -> dict[str, JointEntry]:
    """The joint programs that take fewer cycles than what else there is for their tasks and
    frames; those whose cycles are not known are taken to."""
    return {
        name: entry
        for name, entry in joint.items()
        if [run.name for run in plan_runs(joint, entry.tasks, entry.frames, cycles)] == [name]
    }


class _Plan:
    """The cheapest way for each set of tasks and number of frames, worked out once."""

    def __init__(
        self, joint: Mapping[str, JointEntry], tasks: Sequence[str], cycles: Mapping[str, int]
    ) -> None:
        usable = {
            name: (tuple(entry.tasks), entry.frames)
            for name, entry in joint.items()
            if set(entry.tasks) <= set(tasks)
        }
        single = {task: ((task,), 1) for task in tasks}
        # Of equal ones the first is taken: single programs, for what they compute is there first.
        known = all(name in cycles for name in (*usable, *single))
        order = sorted(usable.items(), key=lambda item: (len(item[1][0]), item[1][1]), reverse=True)
        self.programs = {**single, **dict(order)} if known else {**dict(order), **single}
        self._cost = {name: cycles[name] if known else 1 for name in self.programs}
        self._found: dict[tuple[tuple[str, ...], int], tuple[int, str, int]] = {}

    def best(self, wanted: tuple[str, ...], count: int) -> tuple[str, int]:
        """The program to begin with, and how often."""
        _, name, often = self._solve(wanted, count)
        return name, often

    def _solve(self, wanted: tuple[str, ...], count: int) -> tuple[int, str, int]:
        if not wanted or not count:
            return 0, "", 0
        if (wanted, count) not in self._found:
            self._found[wanted, count] = min(
                self._choices(wanted, count), key=lambda choice: choice[0]
            )
        return self._found[wanted, count]

    def _choices(self, wanted: tuple[str, ...], count: int) -> Iterator[tuple[int, str, int]]:
        for name, (names, size) in self.programs.items():
            # A single frame can wait for its turn: other orders of them are the same plans.
            if not set(names) <= set(wanted) or (len(names) == size == 1 and names != wanted[:1]):
                continue
            most = count // size
            for often in range(most, max(0, most - 2), -1):
                done = often * size
                beside = self._solve(_without(wanted, names), done)[0]
                behind = self._solve(wanted, count - done)[0]
                yield often * self._cost[name] + beside + behind, name, often


def _without(tasks: tuple[str, ...], done: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(task for task in tasks if task not in done)
