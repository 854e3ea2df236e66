"""What tests of the report page need: its HTML taken apart, and Chromium without a network."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
LOADING = {"src", "href", "srcset", "data", "action", "formaction", "poster", "xlink:href"}
VOID = {"meta", "link", "br", "img", "input", "hr", "path", "rect"}


@dataclass
class Page(HTMLParser):
    """The page as a browser reads it: elements, texts, scripts, tables."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self.tables: dict[str, list[list[str]]] = {}
        self.open: list[str] = []
        self._cells: list[list[str]] = []
        self._label = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.elements.append((tag, given))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "script":
            self.scripts.append((given, ""))
        if given.get("role") == "region":
            self._label = given["aria-label"] or ""
        if tag == "table":
            self._cells = self.tables.setdefault(self._label, [])
        if tag == "tr":
            self._cells.append([])
        if tag in ("td", "th"):
            self._cells[-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"{tag} closes another element"

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "script":
            attributes, text = self.scripts[-1]
            self.scripts[-1] = attributes, text + data
            return
        if self.open and self.open[-1] in ("td", "th"):
            self._cells[-1][-1] += data
        if data.strip():
            self.texts.append(data.strip())

    @property
    def data(self) -> Any:
        (text,) = [text for given, text in self.scripts if given.get("id") == "data"]
        return json.loads(text)

    def loads(self) -> list[str]:
        """Everything that a browser would fetch."""
        found = [
            value
            for tag, given in self.elements
            for name, value in given.items()
            if name in LOADING and value and not value.startswith(("#", "data:"))
        ]
        styles = re.findall(r"url\(([^)]*)\)|@import[^;]*", self.style)
        return found + [style for style in styles if not style.startswith("#")]

    style = ""


@dataclass
class Seen:
    """What Chromium had to say, and the page's own result."""

    console: list[str] = field(default_factory=list)
    result: Any = None


def with_script(html: str, script: str) -> str:
    """The page with one more script at its end, which its policy is made to allow."""
    value = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    html = html.replace("script-src ", f"script-src 'sha256-{value}' ", 1)
    before, end, after = html.rpartition("</body>")
    return f"{before}<script>{script}</script>{end}{after}"


def open_page(html: str, script: str, folder: Path, width: int = 1000, dark: bool = False) -> Seen:
    """Open the page in a frame so wide, with no network, and run ``script`` when it is drawn.

    ``script`` is the body of an async function; what it returns is the result.
    """
    assert CHROMIUM
    asked = (
        "(async () => { const wait = (ms) => new Promise((done) => setTimeout(done, ms));"
        "for (let i = 0; i < 400 && !document.documentElement.dataset.ready; i++) await wait(50);"
        f"let result; try {{ result = await (async () => {{ {script} }})(); }}"
        "catch (error) { result = String(error); }"
        "parent.postMessage(JSON.stringify({ result }), '*'); })();"
    )
    (folder / "page.html").write_text(with_script(html, asked), encoding="utf-8")
    (folder / "frame.html").write_text(
        "<!doctype html><title>frame</title><link rel=icon href='data:,'><body><script>"
        "addEventListener('message', (event) => {"
        "  const box = document.createElement('pre'); box.id = 'result';"
        "  box.textContent = btoa(unescape(encodeURIComponent(event.data)));"
        "  document.body.append(box); });</script>"
        f"<iframe src='page.html' style='width:{width}px;height:9000px;border:0'></iframe>",
        encoding="utf-8",
    )
    with tempfile.TemporaryDirectory() as profile:
        command = [
            CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
            f"--user-data-dir={profile}", "--host-resolver-rules=MAP * ~NOTFOUND",
            "--disable-component-update", "--no-first-run", "--enable-logging=stderr",
            f"--blink-settings=preferredColorScheme={0 if dark else 1}",
            f"--window-size={max(width + 40, 600)},9100", "--virtual-time-budget=60000",
            "--dump-dom", (folder / "frame.html").as_uri(),
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    seen = Seen([line for line in done.stderr.splitlines() if "CONSOLE" in line])
    found = re.search(r'<pre id="result">([^<]*)</pre>', done.stdout)
    assert found, (done.stdout[-2000:], done.stderr[-2000:])
    seen.result = json.loads(base64.b64decode(found[1]).decode())["result"]
    return seen
