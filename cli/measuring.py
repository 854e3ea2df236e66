"""`moesaic accuracy`: where a bundle loses its accuracy, and what would help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from moesaic.cli.console import BundleArgument, app, console, load, out
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
    worst: Annotated[int, typer.Option(help="points to list of each task")] = 15,
    json_file: Annotated[Path | None, typer.Option("--json", help="also write all as JSON")] = None,
    picture: Annotated[Path | None, typer.Option(help="also draw the points, .png")] = None,
) -> None:
    """Measure integers against float: by layer and rounding, with flips, metrics, and options."""
    from moesaic.cli.accuracy_view import accuracy_tables, draw
    from moesaic.compiler.accuracy.bundle import measure_bundle
    from moesaic.compiler.accuracy.metrics import find_metric
    from moesaic.host.output_file import OutputFile
    from moesaic.spec.arrays import open_arrays

    loaded = load(bundle)
    metrics = {
        task: {name: find_metric(name) for name in names}
        for task, names in _by_task(metric or [], list(loaded.graphs), "--metric").items()
    }
    models = _by_task(model or [], list(loaded.graphs), "--model")
    if metrics and labels is None:
        raise UserError("--metric compares with labels: give --labels FILE.npz")
    with console.status("reading") as status:
        results = measure_bundle(
            loaded,
            open_arrays(samples),
            {task: paths[-1] for task, paths in models.items()},
            open_arrays(labels) if labels else {},
            metrics,
            status.update,
        )
    cycles = {name: task["cycles"] for name, task in results.items()}
    for name, result in results.items():
        for table in accuracy_tables(result, worst, cycles[name]):
            out.print(table)
    if json_file:
        with OutputFile(json_file) as file:
            file.write_json(results)
    if picture:
        with OutputFile(picture) as file:
            file.write_bytes(draw(results))


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
