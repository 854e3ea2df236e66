"""The page itself: templates, charts, and a policy that lets nothing else run in it."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any

import jinja2
import vl_convert
from markupsafe import Markup

from moesaic.compiler.page import machine, words
from moesaic.compiler.page.charts import task_charts
from moesaic.compiler.page.facts import Facts
from moesaic.compiler.page.figures import FamilyFigures
from moesaic.compiler.page.tables import (
    KIND_NAMES,
    joint_table,
    machine_tables,
    resource_tables,
    task_tables,
)
from moesaic.compiler.page.timeline import Timeline


def render(
    facts: Facts,
    timelines: Mapping[str, Timeline],
    resources: Mapping[str, FamilyFigures] | None = None,
) -> bytes:
    """The whole page, as UTF-8.

    Parameters
    ----------
    facts
        Of the bundle.
    timelines
        One for each task.
    resources
        By family, if they were counted.
    """
    template = _environment().get_template("page.html")
    scripts = [_charts_library(), _own("page.js")]
    charts = {name: task_charts(task, timelines[name]) for name, task in facts.tasks.items()}
    bars = {name: _columns(facts, name, timeline) for name, timeline in timelines.items()}
    text = template.render(
        facts=facts,
        arch=facts.arch,
        charts=charts,
        timelines=timelines,
        resources=resources,
        kind_names=KIND_NAMES,
        tables={
            name: task_tables(facts, task, timelines[name]) for name, task in facts.tasks.items()
        },
        machine_tables=machine_tables(facts),
        joint_table=joint_table(facts),
        resource_tables=resource_tables(resources or {}),
        drawings={
            "wide": machine.draw(facts, wide=True),
            "narrow": machine.draw(facts, wide=False),
        },
        legend=machine.legend(facts.arch),
        style=Markup(_own("page.css")),
        scripts=[Markup(script) for script in scripts],
        policy=_policy(scripts),
        data=_for_script({"charts": charts, "bars": bars}),
    )
    return text.encode()


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_own),
        autoescape=True,  # names come from files of others
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        n=words.number,
        sig=words.significant,
        pct=words.percent,
        db=words.decibels,
        shape=words.shape,
    )
    return environment


def _own(name: str) -> str:
    return files("moesaic.compiler.page").joinpath(name).read_text(encoding="utf-8")


@cache
def _charts_library() -> str:
    """Vega, Vega-Lite and vega-embed in one script, as the installed package has them.

    It is a module; a script of a page takes it when its names stay its own.
    """
    script: str = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")
    if "</script" in script.lower():
        raise AssertionError("the library of charts cannot stand in a page")
    return f"(()=>{{{script}\n}})();"


def _policy(scripts: list[str]) -> str:
    """Nothing is loaded, and no script runs but ours: even a mistake in escaping starts none."""
    hashes = (
        base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts
    )
    allowed = " ".join(f"'sha256-{value}'" for value in hashes)
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data:;"
        " base-uri 'none'; form-action 'none'"
    )


def _for_script(value: Any) -> Markup:
    """JSON that nothing in it can end the script element of: ``<``, ``>`` and ``&`` are escaped."""
    return jinja2.utils.htmlsafe_json_dumps(value, dumps=_dumps)


def _dumps(value: Any, **options: Any) -> str:
    return json.dumps(value, separators=(",", ":"), allow_nan=False, **options)


def _columns(facts: Facts, task: str, timeline: Timeline) -> dict[str, Any]:
    """Bars as columns, names by number: a frame has thousands."""
    kinds = {layer.short: layer.kind for layer in facts.tasks[task].layers}
    names: dict[str, int] = {}

    def number(name: str) -> int:
        return names.setdefault(name, len(names))

    bars = timeline.bars
    columns = {
        "track": [number(bar.track) for bar in bars],
        "layer": [number(bar.layer) for bar in bars],
        "what": [number(bar.what) for bar in bars],
        "kind": [number(kinds.get(bar.layer, "other")) for bar in bars],
        "begin": [round(bar.begin) for bar in bars],
        "end": [round(bar.end) for bar in bars],
        "share": [None if bar.share is None else round(bar.share, 3) for bar in bars],
    }
    return {"names": list(names), "cycles": timeline.cycles, **columns}
