"""`moesaic accuracy`: where a bundle loses its accuracy, and what would help."""

from __future__ import annotations

import json
import math
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import typer

from moesaic.cli.console import BundleArgument, app, check_ending, console, load, show
from moesaic.cli.stages import Stages
from moesaic.spec.errors import UserError


@app.command()
def accuracy(
    bundle: BundleArgument,
    samples: Annotated[Path, typer.Option(help=".npz of inputs that calibration has not seen")],
    model: Annotated[
        list[str] | None,
        typer.Option(metavar="[TASK=]MODEL.onnx", help="what the bundle was compiled from"),
    ] = None,
    labels: Annotated[
        Path | None, typer.Option(help=".npz: task names to labels of the samples")
    ] = None,
    metric: Annotated[
        list[str] | None,
        typer.Option(metavar="[TASK=]NAME", help="top1, miou, rmse or FILE.py:FUNCTION"),
    ] = None,
    worst: Annotated[int, typer.Option(min=1, help="points to list of each task")] = 15,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="also write all as JSON; - prints it instead")
    ] = None,
    picture: Annotated[Path | None, typer.Option(help="also draw the points, .png")] = None,
) -> None:
    """Measure what the integers lose against float, and where."""
    if printed := json_file == Path("-"):
        json_file = None
    check_ending(json_file, "--json", ".json")
    check_ending(picture, "--picture", ".png")
    from moesaic.cli.accuracy_view import accuracy_tables, draw
    from moesaic.compiler.accuracy.bundle import measure_bundle
    from moesaic.compiler.accuracy.metrics import find_metric
    from moesaic.host.output_file import OutputFile, check_apart, write_all
    from moesaic.spec.arrays import open_arrays

    loaded = load(bundle)
    metrics = {
        task: {name: find_metric(name) for name in names}
        for task, names in _by_task(metric or [], list(loaded.graphs), "--metric").items()
    }
    models = _by_task(model or [], list(loaded.graphs), "--model")
    if bool(metrics) != (labels is not None):
        raise UserError("--metric and --labels go together: give both, or none")
    for task, paths in models.items():
        if len(paths) > 1:
            raise UserError(f"--model names two files for task {task}: {' and '.join(paths)}")
    read = [samples, *filter(None, [labels]), *(Path(paths[0]) for paths in models.values())]
    check_apart(bundle, read, json_file, picture)
    with ExitStack() as files:
        # Before the work: whoever cannot write should not wait for it.
        text = files.enter_context(OutputFile(json_file)) if json_file else None
        image = files.enter_context(OutputFile(picture)) if picture else None
        with Stages(console) as stages:
            results = measure_bundle(
                loaded,
                open_arrays(samples),
                {task: paths[0] for task, paths in models.items()},
                open_arrays(labels) if labels else {},
                metrics,
                stages,
            )
        for name in loaded.graphs.keys() - results.keys():
            console.print(f"{name} is left out: its input is not among the samples")
        try:
            write_all(
                lambda: text.write_json(_finite(results)) if text else None,
                lambda: image.write_bytes(draw(results)) if image else None,
            )
        finally:  # a place that was lost meanwhile does not take the tables with it
            if printed:
                print(json.dumps(_finite(results), indent=1))
            for result in results.values() if not printed else ():
                for table in accuracy_tables(result, worst, result["cycles"]):
                    show(table)


def _finite(value: Any) -> Any:
    """JSON has no infinity: None stands for it, and for what is no number."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _by_task(given: list[str], tasks: list[str], option: str) -> dict[str, list[Any]]:
    """``TASK=VALUE`` by task; a value without a task is the only task's."""
    result: dict[str, list[Any]] = {}
    for text in given:
        task, separator, value = text.partition("=")
        if not separator:
            task, value = tasks[0], text
            if len(tasks) > 1:
                raise UserError(f"{option} {text} needs a task: write {option} {task}={text}")
        if task not in tasks:
            raise UserError(f"{option} names the task {task!r}; the bundle has {', '.join(tasks)}")
        result.setdefault(task, []).append(value)
    return result
