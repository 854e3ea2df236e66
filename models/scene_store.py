"""Many scenes at once: drawn with a progress bar, and kept in a file."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import numpy as np
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from moesaic.models.scenes import SceneBatch, make_batch


def progress_bar() -> Progress:
    """Return the progress display of all long steps here."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )


def draw_scenes(count: int, height: int, width: int, first_seed: int) -> SceneBatch:
    """Draw `count` scenes of consecutive seeds, with a progress bar.

    Raises
    ------
    ValueError
        `count` is less than 1, or the size is too small.
    """
    if count < 1:
        raise ValueError(f"the number of scenes must be positive, not {count}")
    parts: list[SceneBatch] = []
    with progress_bar() as progress:
        bar = progress.add_task("scenes", total=count, note="")
        for start in range(0, count, 64):
            size = min(64, count - start)
            seeds = range(first_seed + start, first_seed + start + size)
            parts.append(make_batch(seeds, height, width))
            progress.advance(bar, size)
    return SceneBatch(
        np.concatenate([part.rgb for part in parts]),
        np.concatenate([part.seg for part in parts]),
        np.concatenate([part.depth for part in parts]),
    )


def stored_scenes(path: Path | None, count: int, height: int, width: int) -> SceneBatch:
    """Return the first `count` training scenes, read from an .npz file or drawn and written there.

    Raises
    ------
    ValueError
        The file holds other scenes, or none.
    """
    if path is None or not path.exists():
        scenes = draw_scenes(count, height, width, 0)
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            part = path.with_name(path.name + ".part")
            with part.open("wb") as file:  # a name would get a second suffix
                np.savez(file, rgb=scenes.rgb, seg=scenes.seg, depth=scenes.depth)
            os.replace(part, path)
        return scenes
    try:
        with np.load(path) as stored:
            scenes = SceneBatch(*(stored[name] for name in ("rgb", "seg", "depth")))
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise ValueError(f"scene file {path} must be one that this wrote: {error}") from error
    if scenes.rgb.shape != (count, 3, height, width):
        raise ValueError(
            f"scene file {path} must hold {count} scenes of {height}x{width} pixels, not "
            f"an array of {scenes.rgb.shape}: name another file, or remove it"
        )
    return scenes
