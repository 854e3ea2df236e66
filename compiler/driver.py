"""The whole compiler: ONNX files in, a bundle directory out."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moesaic.compiler.accuracy.advice import advise
from moesaic.compiler.accuracy.few_bits import choose_few
from moesaic.compiler.accuracy.widths import Goal, choose_widths
from moesaic.compiler.arguments import Samples, model_files, read_path, read_samples, read_tasks
from moesaic.compiler.codegen.image import WeightImage
from moesaic.compiler.codegen.task import compile_task
from moesaic.compiler.estimate.cycles.timing import Memory
from moesaic.compiler.estimate.energy import estimated_energy
from moesaic.compiler.estimate.shapes import shape_graph, with_few_bits
from moesaic.compiler.estimate.sustained import schedule_notes
from moesaic.compiler.estimate.task import estimate
from moesaic.compiler.estimate.tuning import check_fits, choose_schedule, naming_a_preset
from moesaic.compiler.frontend import load_graph
from moesaic.compiler.frontend.choose import check_dims, read_choices
from moesaic.compiler.frontend.model_file import Model
from moesaic.compiler.ir import Choice
from moesaic.compiler.package import BundlePlace, bundle_files
from moesaic.compiler.quant import Calibrated, QuantOptions
from moesaic.compiler.quant.weight_bits import WeightBits
from moesaic.compiler.report.partition import (
    open_front,
    open_host_part,
    report_front,
    report_host_part,
)
from moesaic.compiler.report.routing import run_and_watch_routing
from moesaic.compiler.report.weights import stored_weights
from moesaic.compiler.threads import one_thread
from moesaic.compiler.together import (
    check_fronts,
    check_joint_fits,
    check_programs,
    compile_joint,
    read_requests,
    report_joint,
    work_of,
)
from moesaic.compiler.validate.compare import open_oracle, validate
from moesaic.compiler.validate.front import check_front
from moesaic.spec.arch import ArchConfig
from moesaic.spec.clocks import find_clock
from moesaic.spec.contents import float_part
from moesaic.spec.errors import UserError
from moesaic.spec.heartbeat import Progress, say_nothing
from moesaic.spec.hostpart import front_frames, task_outputs
from moesaic.spec.hostside import check_frames, quantise_input
from moesaic.spec.manifest import digest
from moesaic.spec.memory import COMPARED_SHARES
from moesaic.spec.metrics import sqnr_db
from moesaic.spec.presets import load_arch

SAMPLES_KEPT = 8
"""Rows that the bundle keeps for ``verify``: those that integers are measured on come first."""


def compile(
    tasks: Model | Mapping[str, Model],
    target: str | Path | ArchConfig,
    calibrate: Samples,
    output: str | Path,
    progress: Progress | None = None,
    *,
    partition: bool | None = None,
    options: QuantOptions | None = None,
    held_out: Samples | None = None,
    goal: Goal | None = None,
    weights: WeightBits | None = None,
    memory: Memory | None = None,
    dims: Mapping[str, int] | None = None,
    outputs: Mapping[str, str | Sequence[str]] | None = None,
    together: Sequence[str] = (),
) -> dict[str, Any]:
    """Compile one ONNX model per task into the bundle directory ``output``.

    Parameters
    ----------
    tasks
        Task name to model, or one model, which is the task ``default``. A model is an ONNX file, an
        ``onnx.ModelProto``, or a ``torch.nn.Module`` of one input, which is exported for the first
        sample and compared with what torch computes.
    target
        A preset's name, a JSON file, or a configuration.
    calibrate
        Samples: an .npz file, arrays [n, ...] by ONNX input name, or the array of the only input.
    output
        Bundle directory; written beside and renamed.
    progress
        Told what is being done and, where that takes long, what share of it is over.
    partition
        Let the host compute what lies in front of and behind the transformer layers where the
        accelerator does not take it; None: where that is less than 1 % of the multiply-accumulates.
    options
        What quantisation does besides rounding; everything by default.
    held_out
        Samples that integers are measured on, as ``calibrate``. Without them every fourth of the
        calibration samples is held out, if there are eight or more.
    goal
        What 16-bit rows are for; None for none.
    weights
        Bits of the weights, on a target with ``four_bit_weights``; None for 8 throughout.
    memory
        What schedules are chosen for, and cycles reported of; None for that of reported figures.
    dims
        Numbers for symbolic dimensions of inputs, by name.
    outputs
        Task to the output that it computes, or to several; all of its model without them.
    together
        What else gets a program: tasks on one image, ``seg,depth``, frames of a task, ``seg*2``, or
        both, ``seg,depth*2``. Results are the bits of single frames.

    Returns
    -------
    dict
        The report that the bundle's manifest holds: sizes, SQNR, routing flips, notes.

    Raises
    ------
    UserError
        Something about the input is wrong; nothing has been written.
    """
    say = progress or say_nothing
    models = read_tasks(tasks)
    choices = read_choices(models, dims, outputs)
    arch = target
    if not isinstance(arch, ArchConfig):
        arch = load_arch(str(read_path(arch, "target")))
    bits = WeightBits() if weights is None else weights
    if not isinstance(bits, WeightBits):
        raise UserError(f"weights takes WeightBits.of(experts, weights), not {bits!r}")
    bits.check(arch)
    if bits.automatic and goal is not None:
        raise UserError(
            "--weights auto takes bits away down to --min-sqnr, --target-sqnr and --budget-cycles"
            " add some: give one of them"
        )
    given = read_samples(calibrate, "calibrate")
    aside = None if held_out is None else read_samples(held_out, "held_out")
    with (
        BundlePlace(read_path(output, "output"), _least_bytes(models.values())) as place,
        tempfile.TemporaryDirectory(prefix="moesaic-") as folder,
        one_thread(),
    ):
        files = model_files(models, given, Path(folder))
        requests = read_requests(together, list(files))
        check_programs(requests, files)
        return _compile(
            files,
            arch,
            given,
            aside,
            place,
            say,
            partition,
            options,
            goal,
            bits,
            memory,
            choices,
            requests,
        )


def _least_bytes(models: Iterable[Model]) -> int:
    """What a bundle has at least: a byte for each weight, which a file has four for. Tasks may
    share all of them."""
    files = [Path(model) for model in models if isinstance(model, (str, Path))]
    return max((file.stat().st_size // 4 for file in files if file.is_file()), default=0)


def _unread(arrays: Mapping[str, Any] | None, which: str, inputs: set[str]) -> list[str]:
    """Note arrays that no task reads: labels, or an input by a wrong name."""
    unread = sorted(set(arrays or ()) - inputs)
    return [f"no task reads {', '.join(unread)} of the {which} samples"] if unread else []


def _compile(
    tasks: Mapping[str, Path],
    arch: ArchConfig,
    given: Mapping[str, NDArray[Any]],
    aside: Mapping[str, NDArray[Any]] | None,
    place: BundlePlace,
    say: Progress,
    partition: bool | None,
    options: QuantOptions | None,
    goal: Goal | None,
    bits: WeightBits,
    memory: Memory | None,
    choices: Mapping[str, Choice],
    requests: Mapping[str, tuple[tuple[str, ...], int]],
) -> dict[str, Any]:
    graphs, samples, sizes = {}, {}, {}
    held_out: dict[str, NDArray[Any]] | None = None if aside is None else {}
    for name, path in tasks.items():
        say(f"reading {path}")
        graphs[name] = load_graph(path, name, partition, choices[name])
        wanted = graphs[name].user_input
        samples[name] = check_frames(given, *wanted, task=name, holder="the calibration file")
        if aside is not None and held_out is not None:
            held_out[name] = check_frames(aside, *wanted, task=name, holder="the held-out file")
        sizes[name] = with_few_bits(shape_graph(graphs[name], name), *bits.certain)
        with naming_a_preset(sizes[name]):
            check_fits(sizes[name], arch)  # quantising can take minutes
    check_fronts(requests, {name: g.front.model for name, g in graphs.items() if g.front})
    check_joint_fits(work_of(requests, sizes), arch)
    check_dims(choices.values(), graphs.values())
    inputs = {graph.user_input[0] for graph in graphs.values()}
    notes = _unread(given, "calibration", inputs) + _unread(aside, "held-out", inputs)
    host_parts = {name: open_host_part(graph) for name, graph in graphs.items()}
    oracles, validations = {}, {}
    for name, path in tasks.items():
        say(f"comparing {name} with ONNX Runtime")
        oracles[name] = open_oracle(path, graphs[name])
        if (front := open_front(graphs[name])) is not None:
            source, _ = graphs[name].user_input
            streams = front_frames(front, source, samples[name])
            check_front(path, graphs[name], oracles[name], samples[name], streams, name)
            samples[name] = streams
            if held_out is not None:
                held_out[name] = front_frames(front, source, held_out[name])
        validations[name] = validate(graphs[name], oracles[name], samples[name], name)
    chosen = options or QuantOptions()
    calibrated = Calibrated(graphs, samples, chosen, held_out, hold_out=True, progress=say)
    calibrated.few = {name: bits.roles(graph) for name, graph in calibrated.graphs.items()}
    quantised, reports = built = calibrated.build()
    if bits.least_db is not None:
        (quantised, reports), _ = choose_few(calibrated, built, bits.least_db, say)
    if goal:
        (quantised, reports), _ = choose_widths(calibrated, built, arch, goal, say)
    image, codes, schedules = WeightImage(arch), {}, {}
    for name, graph in quantised.items():
        say(f"scheduling {name}")
        schedules[name] = choose_schedule(graph, arch, memory=memory)
        codes[name] = compile_task(graph, arch, image, schedules[name])
    joint = {}
    for name, work in work_of(requests, quantised).items():
        say(f"scheduling {name}")
        joint[name] = compile_joint(work, arch, image, memory)
    kept: dict[str, NDArray[Any]] = {}
    report: dict[str, Any] = {"tasks": {}, "weight_bytes": image.words * arch.ring_read_bytes}
    for name, path in tasks.items():
        say(f"running {name} in float and in integers")
        graph = quantised[name]
        measured = calibrated.measured[name]
        rows = measured
        if calibrated.held_out and len(rows) < SAMPLES_KEPT:  # `verify` can do with any
            rows = np.concatenate([rows, calibrated.samples[name]])[:SAMPLES_KEPT]
        given_by_file = oracles[name].run(rows)
        output_codes, routing = run_and_watch_routing(graph, quantise_input(graph, rows))
        outputs = task_outputs(graph, output_codes, host_parts[name])
        kept[f"{name}.input"], kept[f"{name}.codes"] = rows, output_codes
        outputs_db, judged_db = {}, reports[name].sqnr_db
        for number, (output_name, integer) in enumerate(outputs.items()):
            reference = given_by_file[output_name].astype(np.float32)
            kept[f"{name}.{float_part(number)}"] = reference
            db = sqnr_db(reference[: len(measured)], integer[: len(measured)])
            outputs_db[output_name] = db
            # Numbers of classes that differ say nothing by how much.
            if given_by_file[output_name].dtype.kind == "f":
                judged_db = min(judged_db, db)
        estimated = estimate(
            codes[name].steps,
            arch,
            graph.macs,
            routing=routing,
            memory=memory,
            shares=COMPARED_SHARES,
        )
        energy = estimated_energy(arch, find_clock(arch), estimated)
        report["tasks"][name] = {
            "source": path.name,
            "source_digest": digest(path.read_bytes()),
            "choice": dataclasses.asdict(graphs[name].choice),
            "sqnr_db": min(outputs_db.values()),
            "outputs_db": outputs_db,
            "warning": advise(graph, reports[name], measured, judged_db),
            "macs": graph.macs,
            "cycles": estimated.cycles,
            "cycles_at": estimated.cycles_at,
            "energy": energy.to_dict() if energy else None,
            "layers": len(graph.layers),
            "tokens": graph.tokens,
            "instructions": len(codes[name].program) // 32,
            "activation_bytes": codes[name].activation_words * arch.depth,
            "weight_stream_bytes": codes[name].weight_words * arch.ring_read_bytes,
            "notes": [
                *graphs[name].notes,
                *notes,
                *bits.notes(graphs[name]),
                *schedule_notes(graph, arch, schedules[name], memory),
            ],
            "validation": dataclasses.asdict(validations[name]),
            "routing": routing,
            "weights": stored_weights(graph),
            "schedule": dataclasses.asdict(schedules[name]),
            "quantisation": reports[name].to_dict(),
            "front": report_front(graphs[name], graph, rows),
            "host": report_host_part(graphs[name], graph, rows, output_codes, outputs),
        }
    routings = {name: task["routing"] for name, task in report["tasks"].items()}
    report["joint"] = {
        name: report_joint(program, arch, routings, memory) for name, program in joint.items()
    }
    say("writing the bundle")
    kept = {name: values[:SAMPLES_KEPT] for name, values in kept.items()}
    models = {name: graph.host.model for name, graph in graphs.items() if graph.host}
    fronts = {name: graph.front.model for name, graph in graphs.items() if graph.front}
    files = bundle_files(arch, quantised, codes, image, kept, report, models, fronts, joint)
    place.fill(files)
    return report
