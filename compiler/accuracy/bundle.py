"""The accuracy of all tasks of a bundle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moesaic.compiler.accuracy.analysis import analyse
from moesaic.compiler.accuracy.metrics import Metric
from moesaic.compiler.accuracy.sizes import cycles
from moesaic.compiler.frontend import load_graph
from moesaic.compiler.ir import Choice
from moesaic.compiler.schedule.options import stored_schedule
from moesaic.compiler.validate.compare import open_oracle
from moesaic.spec.bundle import Bundle
from moesaic.spec.errors import UserError
from moesaic.spec.heartbeat import Progress
from moesaic.spec.hostpart import front_frames, task_outputs
from moesaic.spec.hostside import check_frames
from moesaic.spec.manifest import digest
from moesaic.spec.metrics import sqnr_db
from moesaic.spec.schema import Reader, SchemaError


def measure_bundle(
    bundle: Bundle,
    samples: Mapping[str, NDArray[Any]],
    models: Mapping[str, str | Path],
    labels: Mapping[str, NDArray[Any]],
    metrics: Mapping[str, Mapping[str, Metric]],
    say: Progress,
) -> dict[str, dict[str, Any]]:
    """Task to :meth:`TaskAccuracy.to_dict`, with ``cycles`` of a frame and, where the model is
    given, ``output_db``: SQNR of the task's worst output, behind the host's part.

    Parameters
    ----------
    bundle
        What is measured; tasks whose input the samples lack are left out.
    samples
        Arrays by input name.
    models
        Task to the ONNX file that it was compiled from, for those that are there.
    metrics
        By task.
    labels
        By task; of one that has several outputs by ``TASK.OUTPUT``, for those that are measured.

    Raises
    ------
    UserError
        Samples, labels or models do not fit the bundle.
    """
    results = {}
    for name, graph in bundle.graphs.items():
        ((source, shape),) = bundle.inputs(name).items()
        if source not in samples:
            if name in models or name in metrics:
                raise UserError(_lacks("samples", [source], samples))
            continue
        given = check_frames(samples, source, shape, task=name, holder="the samples' file")
        given = front_frames(bundle.front(name), source, given)
        report = bundle.report["tasks"][name]
        schedule = stored_schedule(bundle.arch, report["schedule"], str(bundle.path))
        model = None
        if name in models:
            say(f"reading {models[name]}")
            choice = _choice(report, name)
            partition = name in bundle.host_parts or name in bundle.fronts
            model = load_graph(models[name], name, partition, choice)
            if digest(Path(models[name]).read_bytes()) != report.get("source_digest"):
                raise UserError(
                    f"{models[name]} is not the file that task {name} was compiled from,"
                    f" {report.get('source')}: name that one, or compile again"
                )
        say(f"measuring {name}")
        result, codes = analyse(graph, bundle.arch, schedule, given, model)
        integers = task_outputs(graph, codes, bundle.host_part(name))
        floats: dict[str, NDArray[np.float32]] | None = None
        if model is not None:
            floats = open_oracle(models[name], model).run(given)
        if name in metrics:
            measured = _metrics(name, metrics[name], labels, floats, integers)
            result = replace(result, metrics=measured)
        results[name] = {
            **result.to_dict(),
            "output_db": None
            if floats is None
            else min(sqnr_db(floats[output], value) for output, value in integers.items()),
            "cycles": cycles(graph, bundle.arch, schedule),
        }
    if not results:
        wanted = sorted({one for name in bundle.graphs for one in bundle.inputs(name)})
        raise UserError(_lacks("samples", wanted, samples))
    return results


def _choice(report: Mapping[str, Any], task: str) -> Choice:
    """What the bundle was compiled with; older ones do not say, for there was no choice."""
    try:
        given = report.get("choice", {"dims": {}, "outputs": []})
        choice: Choice = Reader().read(Choice, given, f"report.tasks.{task}.choice")
    except SchemaError as error:
        raise UserError(f"the bundle is damaged: {error}; compile it again") from error
    return choice


def _lacks(option: str, wanted: Sequence[str], found: Mapping[str, Any]) -> str:
    return f"--{option} must hold {', '.join(wanted)}; the file has {', '.join(found) or 'nothing'}"


def _metrics(
    task: str,
    wanted: Mapping[str, Metric],
    labels: Mapping[str, NDArray[Any]],
    floats: Mapping[str, NDArray[np.float32]] | None,
    integers: Mapping[str, NDArray[np.float32]],
) -> dict[str, dict[str, float]]:
    """Metric to its values; of a task with several outputs, metric and output."""
    several = len(integers) > 1
    keys = {output: f"{task}.{output}" if several else task for output in integers}
    if not any(key in labels for key in keys.values()):
        raise UserError(_lacks("labels", list(keys.values()), labels))
    values = {}
    for output, integer in integers.items():
        if keys[output] not in labels:
            continue
        own = labels[keys[output]]
        if own.shape[:1] != (len(integer),):
            raise UserError(
                f"labels of {keys[output]} must be as many as the samples, {len(integer)},"
                f" not of the shape {own.shape}"
            )
        for name, metric in wanted.items():
            # Copies: a user's function may write to what it gets.
            found = {"integer": metric(integer.copy(), own.copy())}
            if floats is not None:
                found["float"] = metric(floats[output].copy(), own.copy())
            values[f"{name} of {output}" if several else name] = found
    return values
