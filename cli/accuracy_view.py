"""Tables and picture of `moesaic accuracy`."""

from __future__ import annotations

import io
import math
import statistics
from collections.abc import Iterator
from typing import Any

from rich.table import Table
from rich.text import Text


def accuracy_tables(result: dict[str, Any], worst: int, cycles: int) -> Iterator[Table]:
    """What one task loses in all, by point, by flips, and its metrics."""
    routed = ", its tokens spread evenly over experts" if result["flips"] else ""
    title = f"{result['task']}: {result['samples']} samples, {cycles:,} cycles a frame{routed}"
    table = Table(title=title)
    for column in ("integers", "SQNR dB"):
        table.add_column(column)
    if result["weights_db"] is not None:
        table.add_row("against the float model", _db(result["total_db"]))
        if len(result["outputs_db"]) > 1:
            for name, value in result["outputs_db"].items():
                table.add_row(Text(f"  of {name}"), _db(value))
        _add_frames(table, result["frames_db"])
        table.add_row("behind the host's part", _db(result["output_db"]))
        table.add_row("their weights alone", _db(result["weights_db"]))
    table.add_row("all but their weights", _db(result["roundings_db"]))
    if result["weights_db"] is None:
        _add_frames(table, result["frames_db"])
    yield table
    yield _points(result, worst, cycles)
    if result["flips"]:
        table = Table(title=f"{result['task']}: tokens with other experts than in float")
        for column in ("layer", "share", "their margin", "margin of all"):
            table.add_column(column)
        for flips in sorted(result["flips"], key=lambda one: -one["share"]):
            figures = f"{flips['share']:.1%}", f"{flips['margin']:.3g}"
            table.add_row(Text(flips["layer"]), *figures, f"{flips['margin_of_all']:.3g}")
        yield table
    if result["metrics"]:
        table = Table(title=f"{result['task']}: against labels")
        for column in ("metric", "float", "integer"):
            table.add_column(column)
        for name, values in result["metrics"].items():
            exact = f"{values['float']:.5g}" if "float" in values else "no model given"
            table.add_row(Text(name), exact, f"{values['integer']:.5g}")
        yield table


def _add_frames(table: Table, frames: list[float]) -> None:
    """The median and the worst of several frames."""
    if len(frames) > 1:
        worst = min(range(len(frames)), key=frames.__getitem__)
        table.add_row("  of the median frame", _db(statistics.median(frames)))
        table.add_row(f"  of the worst frame, number {worst}", _db(frames[worst]))


def _points(result: dict[str, Any], worst: int, cycles: int) -> Table:
    points = result["points"]
    noise = [10 ** (-point["alone_db"] / 10) for point in points]
    table = Table(title=f"{result['task']}: what the rounding of each point costs")
    for column in ("point", "bits", "alone dB", "with worse dB", "clipped", "outliers"):
        table.add_column(column)
    table.add_column("in 16 bits dB")
    table.add_column("and cycles")
    for number, point in enumerate(points[:worst]):
        gain, price = "", ""
        if point["wide_cycles"] is not None and math.isfinite(sum(noise)):
            left = sum(noise) - noise[number]
            more = point["wide_cycles"] / cycles
            gain, price = f"+{_gain(sum(noise), left):.2f}", f"{more:+.1%}"
        table.add_row(
            point["point"],
            str(point["bits"] or 8),
            _db(point["alone_db"]),
            _db(point["cumulated_db"]),
            f"{point['clipped']:.2%}" if point["clipped"] else "",
            str(point["outlier_channels"] or ""),
            gain,
            price,
        )
    return table


def _gain(before: float, after: float) -> float:
    from moesaic.spec.metrics import ratio_db

    return ratio_db(before, after)


def _db(value: float) -> str:
    return f"{value:.1f}"


def draw(results: dict[str, dict[str, Any]]) -> bytes:
    """A .png: of each task the SQNR of each point alone, in the order of the layers."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(
        len(results), 1, figsize=(12, 4 * len(results)), squeeze=False, layout="constrained"
    )
    for axis, (task, result) in zip(axes[:, 0], results.items(), strict=True):
        kinds: dict[str, list[tuple[float, float]]] = {}
        last = max((_place(point["point"], -1.0) for point in result["points"]), default=0.0) + 1
        for point in result["points"]:
            kind = point["point"].rpartition(".")[2]
            place = _place(point["point"], -1.0 if kind in ("input", "residual") else last)
            kinds.setdefault(kind, []).append((place, point["alone_db"]))
        for number, (kind, marks) in enumerate(sorted(kinds.items())):
            line = f"C{number}o-"
            marks.sort()
            axis.plot(*zip(*marks, strict=True), line, label=kind, markersize=4, linewidth=0.8)
        axis.axhline(result["total_db"], color="black", linestyle="--", label="all integers")
        axis.set(title=task, xlabel="layer", ylabel="SQNR of the output, dB")
        axis.legend(ncols=5, fontsize="small")
    image = io.BytesIO()
    figure.savefig(image, format="png")
    pyplot.close(figure)
    return image.getvalue()


def _place(point: str, otherwise: float) -> float:
    first = point.split(".")[0]
    return float(first) if first.isdigit() else otherwise
