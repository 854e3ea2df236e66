"""Programs of several tasks or frames that a bundle has beside those of single frames."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence, Sized
from typing import Any

from moesaic.compiler.codegen.image import WeightImage
from moesaic.compiler.codegen.task import TaskCode, compile_task
from moesaic.compiler.estimate.cycles.timing import Memory
from moesaic.compiler.estimate.energy import estimated_energy
from moesaic.compiler.estimate.joint_routing import Routing, given_routing, joint_routing
from moesaic.compiler.estimate.models import estimate_graphs
from moesaic.compiler.estimate.sustained import schedule_notes
from moesaic.compiler.estimate.task import Estimate, estimate
from moesaic.compiler.estimate.tuning import check_fits, choose_schedule, naming_a_preset
from moesaic.compiler.schedule.joint import Joint
from moesaic.compiler.schedule.options import Schedule, stored_schedule
from moesaic.spec.arch import ArchConfig
from moesaic.spec.bundle import Bundle
from moesaic.spec.clocks import find_clock
from moesaic.spec.errors import UserError
from moesaic.spec.image import MAX_TASKS
from moesaic.spec.intgraph import IntGraph
from moesaic.spec.joint import joint_name, read_joint
from moesaic.spec.memory import COMPARED_SHARES


@dataclasses.dataclass(frozen=True)
class JointProgram:
    """What is computed together, how, and the code of it."""

    work: Joint
    schedule: Schedule
    code: TaskCode


def read_requests(
    together: Iterable[str], tasks: Sequence[str]
) -> dict[str, tuple[tuple[str, ...], int]]:
    """Tasks and frames of each program that is asked for, by its name.

    Raises
    ------
    UserError
        One is none, as :func:`~moesaic.spec.joint.read_joint`, or asked for twice.
    """
    found: dict[str, tuple[tuple[str, ...], int]] = {}
    for text in [together] if isinstance(together, str) else together:
        if not isinstance(text, str):
            raise UserError(f"what is computed together is named as seg,depth*2, not {text!r}")
        names, frames = read_joint(text, tasks)
        # The order of tasks is the bundle's: the common layers are computed as the first has them.
        names = tuple(task for task in tasks if task in names)
        name = joint_name(names, frames)
        if name in found:
            raise UserError(f"{name} is to be computed together twice: ask for it once")
        found[name] = names, frames
    return found


def check_programs(requests: Sized, tasks: Sized) -> None:
    """Refuse more programs than a bundle holds, before anything is computed for them.

    Raises
    ------
    UserError
        Those of ``tasks`` and of ``requests`` are too many.
    """
    if len(tasks) + len(requests) > MAX_TASKS:
        raise UserError(
            f"a bundle holds at most {MAX_TASKS} programs, not {len(tasks)} of a task and"
            f" {len(requests)} of several tasks or frames: ask for fewer"
        )


def work_of(
    requests: Mapping[str, tuple[tuple[str, ...], int]], graphs: Mapping[str, IntGraph]
) -> dict[str, Joint]:
    """What each request computes.

    Raises
    ------
    UserError
        Tasks have too little in common.
    """
    return {
        name: Joint(tuple(graphs[task] for task in tasks), frames)
        for name, (tasks, frames) in requests.items()
    }


def check_fronts(
    requests: Mapping[str, tuple[tuple[str, ...], int]], fronts: Mapping[str, bytes | None]
) -> None:
    """Refuse tasks together that take different rows of the same image.

    Parameters
    ----------
    requests
        As :func:`read_requests`.
    fronts
        Task to the model of what the host computes in front of it, if there is anything.

    Raises
    ------
    UserError
        The first two tasks that do.
    """
    for tasks, _ in requests.values():
        first = tasks[0]
        for other in tasks[1:]:
            if fronts.get(first) != fronts.get(other):
                raise UserError(
                    f"tasks {first} and {other} can't be computed together: the host computes"
                    " something else in front of each of them; run them one by one"
                )


def check_joint_fits(works: Mapping[str, Joint], arch: ArchConfig) -> None:
    """Refuse what no schedule places.

    Raises
    ------
    UserError
        The first that does not fit.
    """
    for name, work in works.items():
        try:
            with naming_a_preset(work):
                check_fits(work, arch)
        except UserError as error:
            raise UserError(
                f"{name} together: {error}; or ask for fewer frames or tasks"
            ) from error


def compile_joint(
    work: Joint, arch: ArchConfig, image: WeightImage, memory: Memory | None = None
) -> JointProgram:
    """Choose a schedule for ``memory`` and generate the code; weights that ``image`` has are not
    added again.

    Raises
    ------
    UserError
        It does not fit the architecture.
    """
    schedule = choose_schedule(work, arch, memory=memory)
    return JointProgram(work, schedule, compile_task(work, arch, image, schedule))


def estimate_joint(
    bundle: Bundle,
    together: Iterable[str],
    arch: ArchConfig | None = None,
    *,
    routing: Mapping[str, Sequence[int]] | None = None,
    memory: Memory | None = None,
    shares: Sequence[float] = (),
) -> dict[str, Estimate]:
    """Estimate what a bundle's tasks take together, whether or not it has programs of that.

    Parameters
    ----------
    bundle
        Of the tasks.
    together
        What is computed together, as ``seg,depth*2``.
    arch
        Another target than the bundle's own.
    routing
        Tokens that experts get of all frames and tasks, by the first task's layer names; by default
        those that the compiler has reported.
    memory, shares
        As :func:`~moesaic.compiler.estimate.models.estimate_graphs`.

    Raises
    ------
    UserError
        It can't be computed together, or does not fit.
    """
    arch = arch or bundle.arch
    requests = read_requests(together, list(bundle.graphs))
    check_fronts(requests, bundle.fronts)
    works = work_of(requests, bundle.graphs)
    measured = {task: report["routing"] for task, report in bundle.report["tasks"].items()}
    results: dict[str, Estimate] = {}
    for name, work in works.items():
        given = joint_routing(work, measured)
        if routing is not None:
            given = given_routing(work, name, routing)
        by_task = {f"{name}/{layer}": rows for layer, rows in given.items()}
        with naming_a_preset(work):
            results |= estimate_graphs(
                {name: work}, arch, routing=by_task, memory=memory, shares=shares
            )
    return results


def estimate_programs(
    bundle: Bundle, *, memory: Memory | None = None, shares: Sequence[float] = ()
) -> dict[str, Estimate]:
    """Estimate a bundle's programs of several tasks or frames as they were compiled, by name.

    ``memory`` and ``shares`` as :func:`~moesaic.compiler.estimate.models.estimate_graphs`.

    Raises
    ------
    UserError
        The bundle's report is no report of them.
    """
    measured = {task: report["routing"] for task, report in bundle.report["tasks"].items()}
    reports = bundle.report.get("joint", {})
    requests = {name: (tuple(entry.tasks), entry.frames) for name, entry in bundle.joint.items()}
    results: dict[str, Estimate] = {}
    for name, work in work_of(requests, bundle.graphs).items():
        given = reports.get(name, {}).get("schedule", {})
        schedule = stored_schedule(bundle.arch, given, str(bundle.path))
        routing = joint_routing(work, measured)
        results |= estimate_graphs(
            {name: work},
            bundle.arch,
            routing={f"{name}/{layer}": rows for layer, rows in routing.items()},
            memory=memory,
            schedules={name: schedule},
            shares=shares,
        )
    return results


def report_joint(
    program: JointProgram, arch: ArchConfig, routing: Routing, memory: Memory | None = None
) -> dict[str, Any]:
    """What a bundle's report says of it: cycles are those of all frames and tasks together, energy
    is that of all tasks of one frame."""
    work, code = program.work, program.code
    measured = joint_routing(work, routing)
    estimated = estimate(
        code.steps, arch, work.macs, routing=measured, memory=memory, shares=COMPARED_SHARES
    )
    energy = estimated_energy(arch, find_clock(arch), estimated, work.frames)
    return {
        "tasks": [graph.task for graph in work.graphs],
        "frames": work.frames,
        "common_layers": work.common,
        "macs": work.macs,
        "cycles": estimated.cycles,
        "cycles_at": estimated.cycles_at,
        "energy": energy.to_dict() if energy else None,
        "instructions": len(code.program) // 32,
        "activation_bytes": code.activation_words * arch.depth,
        "weight_stream_bytes": code.weight_words * arch.ring_read_bytes,
        "schedule": dataclasses.asdict(program.schedule),
        "notes": schedule_notes(work, arch, program.schedule, memory),
    }
