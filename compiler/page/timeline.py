"""Bars of a timeline: from the cost model, or from what `simulate --timeline` has written."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from moesaic.compiler.estimate.task import Estimate
from moesaic.compiler.page.figures import read_json
from moesaic.spec.errors import UserError
from moesaic.spec.isa import Unit

_UNITS = [unit.name.lower() for unit in Unit]
_TITLE = re.compile(r"(?P<task>\w+) on (?P<target>[\w.-]+), frame (?P<frame>\d+): (?P<cycles>\d+) ")
_MOST_BARS = 30_000
"""More would make the page slow; short gaps between equal bars are closed until they are fewer."""


@dataclass(frozen=True)
class Bar:
    """One bar; times in cycles. ``share`` of them worked on data, if that is known."""

    track: str
    layer: str
    what: str
    begin: float
    end: float
    share: float | None = None


@dataclass(frozen=True)
class Timeline:
    """One frame of a task."""

    source: str
    """Where it comes from, in words."""
    cycles: int
    tracks: list[str]
    bars: list[Bar]

    def renamed(self, names: Mapping[str, str]) -> Timeline:
        """The same with other names of layers; those that are not named stay."""
        bars = [replace(bar, layer=names.get(bar.layer, bar.layer)) for bar in self.bars]
        return replace(self, bars=bars)


def estimated_timeline(estimate: Estimate, shorts: list[str]) -> Timeline:
    """The cost model's; ``shorts`` are names of the layers."""
    bars = [
        Bar(one.unit, shorts[one.layer], one.what, one.begin, one.end, _share(one))
        for one in estimate.activities
    ]
    tracks = [unit for unit in _UNITS if any(bar.track == unit for bar in bars)]
    return Timeline("the cost model", estimate.cycles, tracks, bars)


def _share(activity: Any) -> float:
    return float(activity.work / (activity.end - activity.begin))


def read_timeline(path: Path, target: str, tasks: Collection[str]) -> tuple[str, Timeline]:
    """The task and the first frame of a file in Chrome's trace format.

    Parameters
    ----------
    path
        Written by ``moesaic simulate --timeline``.
    target
        What the bundle is for.
    tasks
        Those of the bundle.

    Raises
    ------
    UserError
        The file is no such trace, or is of another task or target.
    """
    way = "write it by `moesaic simulate --timeline`"
    value = read_json(path, "--timeline", way)
    try:
        events = [event for event in value["traceEvents"] if event["pid"] == 0]
        names = {
            (event["name"], event["tid"]): event["args"].get("name")
            for event in events
            if event["ph"] == "M"
        }
        title = names["process_name", 0]
        found = _TITLE.match(title)
        tracks = {tid: name for (kind, tid), name in names.items() if kind == "thread_name"}
        slices = [event for event in events if event["ph"] == "X"]
        drawn = {tid: name for tid, name in tracks.items() if not name.endswith(" state")}
        if found is None or not slices:
            raise ValueError("it holds no frame of a simulation")
        task = found["task"]
        if found["target"] != target or task not in tasks:
            raise UserError(
                f"--timeline {path} is of {task} on {found['target']}, and the bundle holds"
                f" {', '.join(tasks)} on {target}"
            )
        bars = [_bar(event, drawn[event["tid"]]) for event in slices if event["tid"] in drawn]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else error
        raise UserError(f"--timeline {path} is no timeline: {reason}; {way}") from error
    used = [name for name in drawn.values() if any(bar.track == name for bar in bars)]
    source = f"a simulated frame, {path.name}"
    return task, Timeline(source, int(found["cycles"]), used, merge(bars, _MOST_BARS))


def _bar(event: Mapping[str, Any], track: str) -> Bar:
    label, separator, what = str(event["name"]).rpartition(": ")
    begin = float(event["ts"])
    share = event["args"].get("share_of_peak")
    return Bar(
        track,
        label if separator else "",
        what,
        begin,
        begin + float(event["dur"]),
        None if share is None else float(share),
    )


def merge(bars: list[Bar], most: int) -> list[Bar]:
    """At most so many bars: neighbours of a track with the same layer and name become one, those
    with the shortest gaps first."""
    gap = 1.0
    while len(bars) > most:
        merged: list[Bar] = []
        for bar in bars:
            last = merged[-1] if merged else None
            same = last and (last.track, last.layer) == (bar.track, bar.layer)
            if last and same and bar.begin - last.end <= gap:
                work = sum((b.share or 0) * (b.end - b.begin) for b in (last, bar))
                known = last.share is not None and bar.share is not None
                end = max(last.end, bar.end)
                what = last.what if last.what == bar.what else "several"
                share = work / (end - last.begin) if known and end > last.begin else None
                merged[-1] = Bar(bar.track, bar.layer, what, last.begin, end, share)
            else:
                merged.append(bar)
        if len(merged) == len(bars) and gap > max(bar.end for bar in bars):
            return sorted(bars, key=lambda bar: bar.begin - bar.end)[:most]
        bars, gap = merged, 2 * gap
    return bars
