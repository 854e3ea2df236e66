"""The demo's picture: input, float, gateware, ground truth, and where the gateware differs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.colors import BoundaryNorm, ListedColormap
from matplotlib.patches import Patch

from moesaic.models.report import Results
from moesaic.models.scenes import CLASS_COLOURS, CLASS_NAMES

matplotlib.use("Agg")

TITLES = (
    "input",
    "segmentation, float",
    "gateware",
    "ground truth",
    "pixels that changed",
    "depth, float",
    "gateware",
    "ground truth",
    "gateware - float",
)
COLUMN_INCHES, ROW_INCHES, LEGEND_INCHES = 2.0, 1.06, 0.75
CHANGE_SHARE = 0.05
"""Of the depth's range: where the colours of differences end."""


def draw(results: Results, summary: dict[str, Any], path: Path, rows: int = 4) -> None:
    """Paint the first scenes that ran on the gateware, and write the picture to ``path``.

    Parameters
    ----------
    results
        What the demo's commands gave.
    summary
        The figures of :func:`~moesaic.models.report.summarise`, for the line below the legend.
    path
        .png
    rows
        Scenes, at most.
    """
    from matplotlib import pyplot

    seg, depth = results.outputs["seg"], results.outputs["depth"]
    rows = min(rows, len(seg["rtl"]))
    height = ROW_INCHES * rows + LEGEND_INCHES + 0.3
    figure, axes = pyplot.subplots(
        rows, len(TITLES), figsize=(COLUMN_INCHES * len(TITLES), height), squeeze=False
    )
    figure.subplots_adjust(
        left=0.002, right=0.998, top=1 - 0.3 / height, bottom=LEGEND_INCHES / height,
        wspace=0.02, hspace=0.04,
    )  # fmt: skip
    classes = ListedColormap(CLASS_COLOURS / 255)
    by_class = BoundaryNorm(np.arange(len(CLASS_NAMES) + 1) - 0.5, len(CLASS_NAMES))
    truth = results.heldout["depth"][:rows].reshape(depth["rtl"][:rows, 0].shape)
    near, far = float(truth.min()), float(truth.max())
    change = CHANGE_SHARE * (far - near)
    for row in range(rows):
        classes_of = {name: output[row].argmax(0) for name, output in seg.items()}
        pictures: list[np.ndarray] = [
            results.heldout["rgb"][row].transpose(1, 2, 0),
            classes_of["float"],
            classes_of["rtl"],
            results.heldout["seg"][row],
            classes_of["float"] != classes_of["rtl"],
            depth["float"][row, 0],
            depth["rtl"][row, 0],
            truth[row],
            depth["rtl"][row, 0] - depth["float"][row, 0],
        ]
        for column, picture in enumerate(pictures):
            axis = axes[row][column]
            axis.set_axis_off()
            if row == 0:
                axis.set_title(TITLES[column], fontsize=9)
            if column == 0:
                axis.imshow(picture)
            elif column < 4:
                axis.imshow(picture, cmap=classes, norm=by_class, interpolation="nearest")
            elif column == 4:
                axis.imshow(picture, cmap="gray_r", vmin=0, vmax=1, interpolation="nearest")
                axis.set_axis_on()
                axis.set(xticks=[], yticks=[])
            elif column < 8:
                scale = axis.imshow(picture, cmap="viridis", vmin=near, vmax=far)
            else:
                difference = axis.imshow(picture, cmap="RdBu", vmin=-change, vmax=change)
    patches = [
        Patch(color=colour / 255, label=name)
        for name, colour in zip(CLASS_NAMES, CLASS_COLOURS, strict=True)
    ]
    figure.legend(
        handles=patches, loc="lower left", bbox_to_anchor=(0.11, 0.35 / height), ncol=len(patches),
        frameon=False, fontsize=9, handlelength=1.2, columnspacing=1.2,
    )  # fmt: skip
    for shown, left, label in ((scale, 0.56, "depth"), (difference, 0.895, "")):
        width = 0.32 if label else 0.1
        place = figure.add_axes((left, 0.52 / height, width, 0.1 / height))
        bar = figure.colorbar(shown, cax=place, orientation="horizontal")
        bar.ax.tick_params(labelsize=8, length=2)
        if label:
            place.set_ylabel(label, rotation=0, ha="right", va="center", fontsize=9)
    figure.text(0.5, 0.04 / height, _figures(summary), ha="center", fontsize=10)
    figure.savefig(path, dpi=100, pil_kwargs={"optimize": True})
    pyplot.close(figure)


def _figures(summary: dict[str, Any]) -> str:
    """What was measured, in a line."""
    seg, depth = summary["tasks"]["seg"], summary["tasks"]["depth"]
    same = "bit-exact" if summary["bit_exact"] else "NOT bit-exact"
    return (
        f"gateware against integer reference: {same}    |    "
        f"mIoU {seg['all_scenes']['float']:.4f} float, {seg['all_scenes']['integer']:.4f} integers,"
        f" {seg['cycles']:,.0f} cycles    |    "
        f"RMSE {depth['all_scenes']['float']:.4f} float,"
        f" {depth['all_scenes']['integer']:.4f} integers, {depth['cycles']:,.0f} cycles"
    )
