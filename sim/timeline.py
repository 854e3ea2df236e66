"""Profiles as a Chrome trace, for Perfetto (ui.perfetto.dev) or chrome://tracing.

One microsecond of the trace is one cycle. A frame is a process. Every unit has a track with its
instructions, labelled with their layers, and one below it with its state; every AXI port has a
track with the stretches in which data moved, and a curve of bytes per cycle.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from moesaic.sim.profile import BIN_CYCLES, Activity, Profile, Traffic
from moesaic.spec.isa import ENUMS, Opcode, Unit

SHORTEST_RUN_CYCLES = 4
"""A state that lasts less is drawn as part of the one before it; statistics count it."""

Event = dict[str, Any]


def chrome_trace(profiles: Sequence[Profile], title: str) -> dict[str, Any]:
    """The trace of some frames, as the JSON object that the viewers read."""
    events: list[Event] = []
    for frame, profile in enumerate(profiles):
        name = f"{title}, frame {frame}: {profile.cycles} cycles"
        events.append(_meta(frame, 0, "process_name", name=name))
        for track, draw in enumerate(_tracks(profile), start=1):
            label, drawn = draw
            events.append(_meta(frame, track, "thread_name", name=label))
            events.append(_meta(frame, track, "thread_sort_index", sort_index=track))
            events += [{**event, "pid": frame, "tid": track} for event in drawn]
    return {"traceEvents": events, "displayTimeUnit": "ns", "otherData": {"cycle": "1 us"}}


def _meta(pid: int, tid: int, what: str, **arguments: object) -> Event:
    return {"ph": "M", "pid": pid, "tid": tid, "name": what, "args": arguments}


def _slice(name: str, begin: int, end: int, **arguments: object) -> Event:
    return {"ph": "X", "name": name, "ts": begin, "dur": end - begin, "args": arguments}


def _tracks(profile: Profile) -> Iterator[tuple[str, list[Event]]]:
    for unit in Unit:
        name = unit.name.lower()
        yield name, [_instruction(activity) for activity in profile.activities[unit]]
        yield f"{name} state", list(_states(profile, unit))
    for port, traffic in profile.traffic.items():
        yield f"port {port}", list(_transfers(profile, port, traffic))


def _instruction(activity: Activity) -> Event:
    instruction = activity.instruction
    shown = {
        name: _value(instruction.opcode, name, value)
        for name, value in instruction.values.items()
        if value and name not in ("opcode", "layer", "signal", "wait")
    }
    what = str(shown.get("kind", instruction.opcode.name))
    if "predicated" in shown:
        what += f" expert {instruction.values['expert']}"
    return _slice(f"{activity.label}: {what}", activity.begin, activity.end, **shown)


def _value(opcode: Opcode, name: str, value: int) -> int | str:
    kind = ENUMS.get((opcode, name))
    return kind(value).name if kind else value


def _states(profile: Profile, unit: Unit) -> Iterator[Event]:
    state, begin = "idle", 0
    for run in profile.runs(unit):
        if run.state != state and run.end - run.begin >= SHORTEST_RUN_CYCLES:
            if state != "idle" and run.begin > begin:
                yield _slice(state, begin, run.begin)
            state, begin = run.state, run.begin
    if state != "idle":
        yield _slice(state, begin, profile.cycles)


def _transfers(profile: Profile, port: str, traffic: Traffic) -> Iterator[Event]:
    """Stretches with data, each labelled with the layer whose STREAM was under way then."""
    for direction, moved in (("read", traffic.read), ("write", traffic.written)):
        if not moved.any():
            continue
        for bin_, count in _changes(moved):
            rate = {direction: count / BIN_CYCLES}
            yield {"ph": "C", "name": f"{port} B/cycle", "ts": bin_ * BIN_CYCLES, "args": rate}
        active = np.flatnonzero(np.diff(np.concatenate([[0], moved > 0, [0]])))
        for first, end in active.reshape(-1, 2).tolist():
            begin, stop = first * BIN_CYCLES, min(end * BIN_CYCLES, profile.cycles)
            size = int(moved[first:end].sum())
            yield _slice(
                f"{_layer_at(profile, port, begin)}: {direction}",
                begin,
                stop,
                bytes=size,
                share_of_peak=round(size / ((stop - begin) * traffic.port_bytes), 3),
            )


def _changes(moved: np.ndarray) -> Iterator[tuple[int, int]]:
    """Bins whose value differs from the one before, and the value."""
    before = -1
    for number, value in enumerate(moved.tolist()):
        if value != before:
            yield number, value
        before = value


def _layer_at(profile: Profile, port: str, cycle: int) -> str:
    """Label of the instruction that moves data at a port: of the first one not finished then."""
    units = (Unit.STREAM,) if port.startswith("w") else (Unit.LOAD, Unit.STORE)
    for unit in units:
        for activity in profile.activities[unit]:
            if activity.end > cycle and (unit is Unit.STREAM or activity.begin <= cycle):
                return activity.label
    return "program"
