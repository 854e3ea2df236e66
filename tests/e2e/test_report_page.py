"""`moesaic report`: figures, escaping, size, reporting, and the page in a browser."""

from __future__ import annotations

import copy
import json
import math
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import vl_convert

from moesaic.cli import main
from moesaic.compiler.estimate.cycles.timing import Memory
from moesaic.compiler.estimate.models import estimate_bundle
from moesaic.compiler.page.facts import Facts, gather_facts
from moesaic.compiler.page.figures import read_report, read_resources
from moesaic.compiler.page.render import render
from moesaic.compiler.page.timeline import Bar, estimated_timeline, merge
from moesaic.spec.bundle import Bundle, load_bundle
from moesaic.spec.clocks import GIVEN, Clock, find_clock
from moesaic.spec.memory import DEFAULT_MEMORY
from moesaic.spec.parts import FAMILIES, PARTS
from moesaic.spec.presets import PRESETS

from .conftest import Done, moesaic
from .page_tools import CHROMIUM, Page, open_page
from .test_user_errors import assert_refused

MOST_BYTES = 3_000_000
CLOCK = 250.0
EVIL = [
    "</script><script>alert(1)</script>",
    '"><img src=x onerror=alert(2)>',
    "<!--<script>",
    "{{ 7 * 7 }}{% raw %}",
    "@ink ' & ]]>",
    "</title></style></svg></table>",
]
"""What no name may do to the page."""


@pytest.fixture(scope="session")
def report(small_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Done, str]:
    """The command's outcome, and the page."""
    path = tmp_path_factory.mktemp("report") / "deep" / "report.html"
    done = moesaic("report", small_bundle, "-o", path, "--clock", str(CLOCK))
    assert done.code == 0, done.err
    assert [one.name for one in path.parent.iterdir()] == ["report.html"]
    return done, path.read_text(encoding="utf-8")


def facts_of(bundle: Bundle) -> Facts:
    estimates = estimate_bundle(bundle, memory=Memory())
    return gather_facts(bundle, estimates, read_report(bundle), DEFAULT_MEMORY, Clock(CLOCK, GIVEN))


def page_of(facts: Facts, **rest: Any) -> str:
    lines = {
        name: estimated_timeline(task.estimate, [layer.short for layer in task.layers])
        for name, task in facts.tasks.items()
    }
    return render(facts, lines, **rest).decode()


def evil(bundle: Bundle) -> Bundle:
    """The bundle with names that attack the page wherever a file can put a name."""
    report = copy.deepcopy(bundle.report)
    graphs = {}
    for task, graph in bundle.graphs.items():
        names = {layer.name: f"{EVIL[n % len(EVIL)]} {n}" for n, layer in enumerate(graph.layers)}
        graphs[task] = replace(
            graph,
            input_name=EVIL[0],
            heads=tuple(replace(head, name=EVIL[1]) for head in graph.heads),
            layers=tuple(replace(layer, name=names[layer.name]) for layer in graph.layers),
        )
        mine = report["tasks"][task]
        quantised = mine["quantisation"]
        mine["source"], mine["warning"], mine["notes"] = EVIL[0], EVIL[1], EVIL[2:]
        mine["routing"] = {names[name]: counts for name, counts in mine["routing"].items()}
        quantised["routing_flips"] = dict.fromkeys(names.values(), 0.5)
        point = next(iter(quantised["points"].values()))
        for number, name in enumerate(EVIL):
            quantised["points"][name] = {**point, "clipped": 0.01 * (number + 1)}
        mine["host"] = {
            "cuts": [{"tensor": EVIL[0], "shape": [1, 2], "sqnr_db": math.inf}],
            "outputs": {EVIL[0]: [1, 2]},
            "accelerator_nodes": 3,
            "nodes": [{"name": n, "operator": n, "reason": n} for n in EVIL],
            "macs": 1000,
        }
    path = bundle.path.parent / "<b>evil"
    return replace(bundle, path=path, graphs=graphs, report=report)


def cells(page: Page, label: str, column: str) -> list[str]:
    (table,) = [rows for name, rows in page.tables.items() if name.startswith(label)]
    place = table[0].index(column)
    return [row[place] for row in table[1:]]


def numbers(texts: list[str]) -> list[float]:
    return [float(text.replace(",", "")) for text in texts if text]


class Reporting:
    """The command in this process, told to write ``r.html``: a new one takes seconds to start."""

    def __init__(self, bundle: Path, folder: Path, patch: Any, output: Any) -> None:
        self.bundle, self.folder, self.patch, self.output = bundle, folder, patch, output

    def __call__(self, *arguments: str | Path) -> Done:
        words = ["moesaic", "report", self.bundle, "-o", self.folder / "r.html", *arguments]
        self.patch.setattr(sys, "argv", list(map(str, words)))
        with pytest.raises(SystemExit) as ended:
            main()
        told = self.output.readouterr()
        return Done(int(ended.value.code or 0), told.out, told.err)

    def file(self, option: str, value: Any, *words: str) -> None:
        """Refused is a file with these contents, in a sentence with all words."""
        path = self.folder / "given.json"
        path.write_text(value if isinstance(value, str) else json.dumps(value))
        assert_refused(self(option, path), option, path.name, *words)
        assert not (self.folder / "r.html").exists() and not list(self.folder.glob(".*"))


@pytest.fixture
def reporting(
    small_bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Reporting:
    return Reporting(small_bundle, tmp_path, monkeypatch, capsys)


def test_figures_are_those_of_the_estimate(report: tuple[Done, str], small_bundle: Path) -> None:
    page = Page(report[1])
    done = moesaic("estimate", small_bundle, "--json", "--clock", CLOCK)
    for task, figures in json.loads(done.out)["tasks"].items():
        label = f"Cycles of the layers of {task}"
        layers = figures["layers"]
        cycles = [*(layer["cycles"] for layer in layers), figures["cycles"]]
        assert numbers(cells(page, label, "cycles")) == cycles
        for reason in layers[0]["matrix_waits"]:
            waits = [layer["matrix_waits"][reason] for layer in layers]
            assert numbers(cells(page, label, f"waits: {reason}")) == [*waits, sum(waits)]
        charts = page.data["charts"][task]
        drawn = charts["roofline"]["layer"][0]["data"]["values"]
        assert [value["cycles"] for value in drawn] == cycles[:-1]
        array = sum(value["cycles"] for value in charts["array"]["data"]["values"])
        assert array == pytest.approx(figures["cycles"] - figures["drain_cycles"], abs=5)
        shared = figures["dram_shares"]
        label = f"A frame of {task} by what DRAM sustains"
        assert cells(page, label, "DRAM sustains of its ports' peak") == ["90 %", "70 %", "45 %"]
        assert numbers(cells(page, label, "cycles")) == [one["frame_cycles"] for one in shared]
        label = f"Energy of a frame of {task} by a model; nothing was measured"
        energy = figures["energy"]
        assert cells(page, label, "what") == [*energy["mj_of"], "all"]
        assert cells(page, label, "of the frame")[:-1] == [
            f"{100 * part / energy['mj']:.1f} %" for part in energy["mj_of"].values()
        ]
        texts = " ".join(page.texts)
        assert f"{figures['cycles']:,}" in texts
        assert f"{figures['cycles'] / CLOCK / 1e3:.3g}" in texts
        assert f"{100 * figures['utilisation']:.1f} %" in texts
        bars = page.data["bars"][task]
        matrix = bars["names"].index("matrix")
        ends = [end for end, track in zip(bars["end"], bars["track"], strict=True)
                if track == matrix]  # fmt: skip
        assert ends == sorted(ends) and 0 < ends[-1] <= figures["cycles"] == bars["cycles"]
    assert "250 MHz as given. " in texts and "no place and route" not in texts
    assert f"sustain {48 * 0.9 * CLOCK / 1e3:.3g} GB/s at this clock" in texts


def test_figures_are_those_of_the_report(report: tuple[Done, str], small_bundle: Path) -> None:
    page = Page(report[1])
    inspected = json.loads(moesaic("inspect", small_bundle, "--json").out)["tasks"]
    texts = " ".join(page.texts)
    for task, figures in inspected.items():
        assert f"{figures['sqnr_db']:.1f}" in texts
        tokens = cells(page, f"Tokens of the experts of {task}", "expert by expert")
        assert tokens == [" ".join(map(str, row)) for row in figures["routing"].values()]
        drawn = page.data["charts"][task]["experts"]["data"]["values"]
        assert [value["tokens"] for value in drawn] == sum(figures["routing"].values(), [])
        points = figures["quantisation"]["points"]
        label = f"Quantised points of {task}"
        shown = zip(cells(page, label, "point"), cells(page, label, "clipped"), strict=True)
        assert dict(shown) == {
            name: f"{100 * point['clipped']:.3f} %" for name, point in points.items()
        }
        macs = numbers(cells(page, f"Layers of {task}", "M MAC"))
        assert macs[-1] == pytest.approx(figures["macs"] / 1e6, rel=0.006)
        assert sum(macs[:-1]) == pytest.approx(figures["macs"] / 1e6, rel=0.02)
        stored = figures["weights"]
        assert set(cells(page, f"Layers of {task}", "bits of weights")) == {"8", ""}
        kilobytes = numbers(cells(page, f"Layers of {task}", "weights, kB"))
        assert kilobytes[-1] == round(sum(part["bytes"] for part in stored.values()) / 1e3)
        assert "together" not in str(page.tables).lower()
        names = cells(page, f"Layers of {task}", "name")
        assert [name for name in figures["routing"] if name in names] == list(figures["routing"])


def test_page_is_whole_in_itself(report: tuple[Done, str]) -> None:
    done, text = report
    page = Page(text)
    assert page.open == [] and page.loads() == []
    assert len(text.encode()) <= MOST_BYTES
    assert f"{len(text.encode()) / 1e6:.2f} MB" in done.err
    # It finds what it looks for.
    loading = Page('<img src="http://x/"><a href="#a"></a><link href="data:,">').loads()
    assert loading == ["http://x/"]
    (policy,) = [
        given["content"] for _, given in page.elements
        if given.get("http-equiv") == "Content-Security-Policy"
    ]  # fmt: skip
    assert policy and "default-src 'none'" in policy
    assert not re.search(r"script-src[^;]*unsafe", policy)


def test_machine_is_to_scale(small_bundle: Path) -> None:
    from moesaic.compiler.page.machine import draw
    from moesaic.compiler.page.memories import memories

    facts = facts_of(load_bundle(small_bundle))
    found = memories(facts)
    for wide in (True, False):
        drawing = draw(facts, wide=wide)
        boxes = {box.title: box for box in drawing.boxes}
        for box in drawing.boxes:
            assert 0 <= box.x <= box.x + box.width <= drawing.width
            assert 0 <= box.y <= box.y + box.height <= drawing.height
        ring, residual = boxes["Weight ring"], boxes["Residual, twice"]
        areas = ring.width * ring.height / (residual.width * residual.height)
        assert areas == pytest.approx(facts.arch.ring_bytes / (2 * facts.arch.residual_bytes))
        assert boxes["Activations"].fill == found["activation"].most
        array, lanes = boxes["Matrix array"], boxes["Vector lanes"]
        assert array.width / facts.arch.width == pytest.approx(lanes.width)
        assert lanes.height == pytest.approx(lanes.width * facts.arch.lanes)
    used = {name: one.used["seg"] for name, one in found.items()}
    task = facts.tasks["seg"]
    assert used["activation"] * facts.arch.activation_bytes == task.activation_bytes
    assert all(0 < share <= 1 for share in used.values())


def test_losses_are_computed(small_bundle: Path) -> None:
    for task in facts_of(load_bundle(small_bundle)).tasks.values():
        shares = [loss.share for loss in task.losses]
        assert 1 <= len(shares) <= 3 and shares == sorted(shares, reverse=True)
        lost = task.estimate.cycles - sum(layer.useful_cycles for layer in task.layers)
        assert sum(loss.cycles for loss in task.losses) <= lost + 1
        for loss in task.losses:
            assert f"{100 * loss.share:.1f} %" in loss.sentence and loss.sentence.endswith(".")


def test_names_cannot_break_the_page(small_bundle: Path) -> None:
    bundle = evil(load_bundle(small_bundle))
    page = Page(page_of(facts_of(bundle)))
    plain = Page(page_of(facts_of(load_bundle(small_bundle))))
    assert page.open == [] and page.loads() == []
    assert len(page.scripts) == len(plain.scripts) == 3
    assert {tag for tag, _ in page.elements} <= {tag for tag, _ in plain.elements} | {"h3", "p"}
    texts = "\n".join(page.texts)
    for name in EVIL:
        assert name in texts
    names = cells(page, "Layers of seg", "name")
    assert names[1:-2] == [layer.name for layer in bundle.graphs["seg"].layers]
    points = page.data["charts"]["seg"]["clipped"]["data"]["values"]
    assert {value["point"] for value in points} >= set(EVIL)


def test_charts_are_drawn_by_the_library(report: tuple[Done, str]) -> None:
    """Every specification compiles, and has as many marks as figures."""
    data = Page(report[1]).data
    for chart in ("roofline", "array", "experts"):
        spec = {**data["charts"]["seg"][chart], "width": 600}
        text = json.dumps(spec).replace('"@', '"#abc" , "').replace('"#abc" , "', '"')
        svg = vl_convert.vegalite_to_svg(json.loads(text))
        values = spec["data"]["values"] or [
            value for layer in spec["layer"] for value in layer["data"]["values"]
        ]
        marks = re.findall(r'aria-roledescription="(?:bar|tick|rect mark)"', svg)
        assert len(marks) == len(values), chart


def test_resources_of_the_target(small_bundle: Path, tmp_path: Path, reporting: Reporting) -> None:
    bundle = load_bundle(small_bundle)
    path = tmp_path / "nano.json"
    part = PARTS["xczu9eg"]
    totals = {kind: 100.5 for kind in FAMILIES["xcup"]}
    value = {
        "target": "nano",
        "arch_hash": f"0x{bundle.arch.hash:08x}",
        "families": {
            "xcup": {"part": "xczu9eg", "capacity": part.capacity, "totals": totals, "blocks": []}
        },
    }
    path.write_text(json.dumps(value))
    page = Page(page_of(facts_of(bundle), resources=read_resources(path, bundle.arch)))
    assert cells(page, "Resources of xczu9eg", "share")[2] == f"{100 * 100.5 / 2520:.1f} %"
    assert cells(page, "Resources of xczu9eg", "used") == ["100.5"] * 5
    reporting.file("--resources", {**value, "arch_hash": "0x0"}, "0x0")
    value["families"]["xcup"]["totals"] = {"lut": 1}
    reporting.file("--resources", value, "xcup")
    reporting.file("--resources", {"target": 1}, "make resources")


def test_refused_input(reporting: Reporting, small_bundle: Path, tmp_path: Path) -> None:
    for clock in ("0", "-5", "nan", "1e9"):
        assert_refused(reporting("--clock", clock), "--clock")
    assert_refused(reporting("--bandwidth", "2"), "--bandwidth")
    reporting.file("--accuracy", "{", "moesaic accuracy")
    reporting.file("--accuracy", {"mars": {"points": []}}, "mars", "seg")
    reporting.file("--timeline", {"traceEvents": []}, "simulate --timeline")
    reporting.file("--timeline", [], "simulate --timeline")
    reporting.file("--timeline", trace("seg on zcu102, frame 0: 9 cycles"), "seg on zcu102", "nano")
    assert_refused(reporting("--timeline", tmp_path / "none.json"), "none.json")
    same = tmp_path / "given.json"
    same.write_text(json.dumps(trace("seg on nano, frame 0: 9 cycles")))
    assert_refused(reporting("--timeline", same, "--timeline", same), "--timeline", "two files")
    inside = small_bundle / "manifest.json"
    before = inside.read_bytes()
    assert_refused(reporting("-o", inside), "manifest.json")
    assert_refused(reporting("-o", tmp_path), str(tmp_path))
    reporting.bundle = tmp_path / "no bundle"
    assert_refused(reporting(), "no bundle")
    assert inside.read_bytes() == before


def trace(title: str) -> dict[str, Any]:
    """A file as `simulate --timeline` writes it: two tracks, and one that is not drawn."""
    events: list[dict[str, Any]] = [
        {"ph": "M", "pid": 0, "tid": 0, "name": "process_name", "args": {"name": title}},
        {"ph": "M", "pid": 1, "tid": 0, "name": "process_name", "args": {"name": "later"}},
    ]
    for tid, name in enumerate(("matrix", "matrix state", "port w0"), start=1):
        named = {"ph": "M", "pid": 0, "tid": tid, "name": "thread_name", "args": {"name": name}}
        events += [
            named,
            {
                "ph": "X",
                "pid": 0,
                "tid": tid,
                "name": "head: MATMUL",
                "ts": 3,
                "dur": 4,
                "args": {},
            },
            {
                "ph": "X",
                "pid": 1,
                "tid": tid,
                "name": "head: MATMUL",
                "ts": 5,
                "dur": 4,
                "args": {},
            },
        ]
    return {"traceEvents": events}


def test_timeline_of_a_simulation(reporting: Reporting, tmp_path: Path) -> None:
    path, out, dB = tmp_path / "trace.json", tmp_path / "r.html", tmp_path / "a.json"
    path.write_text(json.dumps(trace("depth on nano, frame 0: 5678 cycles")))
    dB.write_text(json.dumps({"seg": {"points": [{"point": "input", "alone_db": 42.25}]}}))
    done = reporting("--timeline", path, "--accuracy", dB)
    assert done.code == 0, done.err
    page = Page(out.read_text())
    bars = page.data["bars"]
    names = bars["depth"]["names"]
    assert [names[track] for track in bars["depth"]["track"]] == ["matrix", "port w0"]
    assert (bars["depth"]["begin"], bars["depth"]["end"]) == ([3, 3], [7, 7])
    assert bars["depth"]["cycles"] == 5678 and len(bars["seg"]["begin"]) > 20
    assert "a simulated frame, trace.json" in " ".join(page.texts)
    assert cells(page, "Quantised points of seg", "alone, dB").count("42.2") == 1
    clock = find_clock(PRESETS["nano"])
    assert f"{clock.mhz:g} MHz {clock.source}: no place and" in " ".join(page.texts)


def test_merged_bars_keep_their_spans() -> None:
    bars = [Bar("matrix", f"{n // 50} moe", "x", 10 * n, 10 * n + 4, 1.0) for n in range(200)]
    merged = merge(bars, 20)
    assert len(merged) == 4
    assert [(bar.begin, bar.end) for bar in merged] == [(500 * n, 500 * n + 494) for n in range(4)]
    assert all(bar.share == pytest.approx(200 / 494) for bar in merged)
    assert merge(bars, 200) == bars
    apart = [Bar("matrix", str(n), "x", n, n + 1) for n in range(30)]
    assert len(merge(apart, 7)) == 7


BROWSE = """
  const shown = (element) => element.offsetParent !== null;
  const charts = [...document.querySelectorAll('.chart')].filter(shown);
  const box = (element) => element.getBoundingClientRect();
  const hit = (a, b) => a.left < b.right - 1 && b.left < a.right - 1 && a.top < b.bottom - 1
    && b.top < a.bottom - 1;
  const overlaps = [], outside = [];
  for (const picture of [...document.querySelectorAll('svg')].filter((one) => box(one).width)) {
    const frame = box(picture);
    const texts = [...picture.querySelectorAll('text')].filter(
      (one) => box(one).width && getComputedStyle(one).opacity !== '0'
        && one.getAttribute('opacity') !== '0');
    texts.forEach((one, number) => {
      const mine = box(one);
      if (mine.left < frame.left - 1 || mine.right > frame.right + 1 || mine.top < frame.top - 1
        || mine.bottom > frame.bottom + 1) outside.push(one.textContent);
      for (const other of texts.slice(number + 1))
        if (hit(mine, box(other))) overlaps.push([one.textContent, other.textContent]);
    });
  }
  const output = document.querySelector('.zoom output');
  const before = output.textContent;
  const press = (element, key) => element.dispatchEvent(
    new KeyboardEvent('keydown', { key, bubbles: true, cancelable: true }));
  const line = charts.find((one) => one.dataset.chart === 'timeline');
  press(line, '+'); press(line, 'ArrowRight');
  const zoomed = output.textContent;
  press(line, '0');
  const back = output.textContent;
  const tabs = [...document.querySelectorAll('[role=tab]')];
  const count = charts.filter((one) => one.querySelector('svg, canvas')).length;
  tabs[0].focus(); press(tabs[0], 'ArrowRight');
  await wait(1500);
  const second = [...document.querySelectorAll('.chart')].filter(shown);
  const theme = document.documentElement.dataset.theme;
  document.getElementById('theme').click(); document.getElementById('theme').click();
  await wait(1500);
  return {
    overflow: document.documentElement.scrollWidth - innerWidth, charts: charts.length, count,
    before, zoomed, back, overlaps, outside, theme, chosen: document.documentElement.dataset.theme,
    focus: document.activeElement.id, tasks: [...new Set(second.map((one) => one.dataset.task))],
    drawn: second.filter((one) => one.querySelector('svg, canvas')).length, second: second.length,
  };
"""


@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed: apt-get install chromium")
@pytest.mark.parametrize(("width", "dark"), [(400, False), (1600, True)])
def test_page_in_a_browser(small_bundle: Path, tmp_path: Path, width: int, dark: bool) -> None:
    """Names that attack it, no network: no message, nothing overlaps, and the keys work."""
    html = page_of(facts_of(evil(load_bundle(small_bundle))))
    seen = open_page(html, BROWSE, tmp_path, width, dark)
    assert seen.console == []
    found = seen.result
    assert isinstance(found, dict), found
    assert found["charts"] == found["count"] == 5
    assert found["overflow"] <= 0
    assert found["overlaps"] == [] and found["outside"] == []
    assert found["before"] == found["back"] != found["zoomed"]
    assert found["tasks"] == ["depth"] and found["focus"] == "tab-depth"
    assert found["drawn"] == found["second"] == 5
    assert found["theme"] == ("dark" if dark else "light") and found["chosen"] == "dark"


@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed: apt-get install chromium")
def test_browser_reports_what_it_should_not_see(report: tuple[Done, str], tmp_path: Path) -> None:
    """The check can fail: a script that is not ours is stopped, and a load is."""
    html = report[1].replace(
        "<main", "<script>document.title = 'in'</script><img src='x.png'><main"
    )
    seen = open_page(html, "return document.title", tmp_path)
    assert len(seen.console) == 2 and all("Content Security" in line for line in seen.console)
    assert seen.result != "in"
