"""The whole compiler: ONNX files in, a bundle directory out."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from moesaic.compiler.codegen.image import WeightImage
from moesaic.compiler.codegen.task import compile_task
from moesaic.compiler.estimate.tuning import choose_schedule
from moesaic.compiler.frontend import load_graph
from moesaic.compiler.package import BundlePlace, bundle_files
from moesaic.compiler.quant import QuantOptions, quantise_tasks
from moesaic.compiler.report.partition import open_host_part, report_host_part
from moesaic.compiler.report.routing import run_and_watch_routing
from moesaic.compiler.validate.compare import open_oracle, validate
from moesaic.spec.arch import ArchConfig, load_arch
from moesaic.spec.arrays import open_arrays
from moesaic.spec.errors import UserError
from moesaic.spec.hostpart import task_outputs
from moesaic.spec.hostside import check_frames, quantise_input
from moesaic.spec.metrics import sqnr_db

SAMPLES_KEPT = 8
"""Calibration rows that the bundle keeps for ``verify``."""

Progress = Callable[[str], None]


def compile(
    tasks: Mapping[str, str | Path],
    target: str | ArchConfig,
    calibrate: str | Path | Mapping[str, NDArray[Any]],
    output: str | Path,
    progress: Progress | None = None,
    *,
    partition: bool = False,
    options: QuantOptions | None = None,
) -> dict[str, Any]:
    """Compile one ONNX model per task into the bundle directory ``output``.

    Parameters
    ----------
    tasks
        Task name to ONNX file.
    target
        A preset's name, a JSON file, or a configuration.
    calibrate
        Samples: an .npz file, or arrays by ONNX input name.
    output
        Bundle directory; written beside and renamed.
    progress
        Told what is being done.
    partition
        Let the host compute what follows the transformer layers where the accelerator does not
        take it.
    options
        What quantisation does besides rounding; everything by default.

    Returns
    -------
    The report that the bundle's manifest holds: sizes, SQNR, routing flips, notes.

    Raises
    ------
    UserError
        Something about the input is wrong; nothing has been written.
    """
    say = progress or (lambda text: None)
    if not tasks:
        raise UserError("no model given: name at least one TASK=FILE.onnx")
    for name in tasks:
        if not name.isidentifier():
            raise UserError(f"task name must be letters, digits and underscores, not {name!r}")
    arch = target if isinstance(target, ArchConfig) else load_arch(target)
    given = calibrate if isinstance(calibrate, Mapping) else open_arrays(calibrate)
    with BundlePlace(Path(output)) as place:
        return _compile(tasks, arch, given, place, say, partition, options)


def _compile(
    tasks: Mapping[str, str | Path],
    arch: ArchConfig,
    given: Mapping[str, NDArray[Any]],
    place: BundlePlace,
    say: Progress,
    partition: bool,
    options: QuantOptions | None,
) -> dict[str, Any]:
    graphs, samples = {}, {}
    for name, path in tasks.items():
        say(f"reading {path}")
        graphs[name] = load_graph(path, name, partition)
        wanted = graphs[name].input_name, graphs[name].input_shape
        samples[name] = check_frames(given, *wanted, task=name, holder="the calibration file")
    host_parts = {name: open_host_part(graph) for name, graph in graphs.items()}
    oracles, validations = {}, {}
    for name, path in tasks.items():
        say(f"comparing {name} with ONNX Runtime")
        oracles[name] = open_oracle(path, graphs[name])
        validations[name] = validate(graphs[name], oracles[name], samples[name], name)
    say("calibrating and quantising")
    quantised, reports = quantise_tasks(graphs, samples, options)
    image, codes, schedules = WeightImage(arch), {}, {}
    for name, graph in quantised.items():
        say(f"scheduling {name}")
        schedules[name] = choose_schedule(graph, arch)
        codes[name] = compile_task(graph, arch, image, schedules[name])
    kept: dict[str, NDArray[Any]] = {}
    report: dict[str, Any] = {"tasks": {}, "weight_bytes": image.words * arch.ring_read_bytes}
    for name, path in tasks.items():
        say(f"running {name} in float and in integers")
        graph = quantised[name]
        rows = samples[name][:SAMPLES_KEPT]
        reference = oracles[name].run(rows)[oracles[name].outputs[0]]
        output_codes, routing = run_and_watch_routing(graph, quantise_input(graph, rows))
        kept[f"{name}.input"], kept[f"{name}.float"] = rows, reference
        kept[f"{name}.codes"] = output_codes
        outputs = task_outputs(graph, output_codes, host_parts[name])
        (integer,) = outputs.values()
        report["tasks"][name] = {
            "source": Path(path).name,
            "sqnr_db": sqnr_db(reference, integer),
            "macs": graph.macs,
            "layers": len(graph.layers),
            "tokens": graph.tokens,
            "instructions": len(codes[name].program) // 32,
            "activation_bytes": codes[name].activation_words * arch.depth,
            "weight_stream_bytes": codes[name].weight_words * arch.ring_read_bytes,
            "notes": graphs[name].notes,
            "validation": dataclasses.asdict(validations[name]),
            "routing": routing,
            "schedule": dataclasses.asdict(schedules[name]),
            "quantisation": reports[name].to_dict(),
            "host": report_host_part(graphs[name], graph, rows, output_codes, outputs),
        }
    say("writing the bundle")
    models = {name: graph.host.model for name, graph in graphs.items() if graph.host}
    files = bundle_files(arch, quantised, codes, image, kept, report, models)
    place.fill(files)
    return report
