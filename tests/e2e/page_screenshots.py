"""Pictures of a report page for the documents.

    python -m tests.e2e.page_screenshots REPORT.html docs/images/report

draws REPORT.html 400, 1,000 and 1,600 pixels wide, light and dark, as
``docs/images/report-400-light.png`` and so on. Needs Chromium; nothing is loaded over a network.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

from tests.e2e.page_tools import CHROMIUM

WIDTHS = (400, 1000, 1600)
HEIGHT = 1400
COLOURS = 96
"""Of a palette: the page has few, and the files are a third of the size."""


def screenshot(page: Path, width: int, dark: bool, output: Path) -> None:
    """Draw the upper ``HEIGHT`` pixels of a page; in a frame, since windows have a least width."""
    assert CHROMIUM, "needs Chromium"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        frame = folder / "frame.html"
        size = f"width:{width}px;height:{HEIGHT}px"
        frame.write_text(
            "<!doctype html><title>frame</title><body style='margin:0'>"
            f"<iframe src='{page.resolve().as_uri()}' style='{size};border:0'></iframe>"
        )
        command = [
            CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
            f"--user-data-dir={folder / 'profile'}", "--host-resolver-rules=MAP * ~NOTFOUND",
            "--allow-file-access-from-files", "--no-first-run",
            f"--blink-settings=preferredColorScheme={0 if dark else 1}",
            f"--window-size={max(width, 600)},{HEIGHT + 100}", "--virtual-time-budget=20000",
            f"--screenshot={folder / 'whole.png'}", frame.as_uri(),
        ]  # fmt: skip
        subprocess.run(command, capture_output=True, timeout=300, check=True)
        picture = Image.open(folder / "whole.png").convert("RGB").crop((0, 0, width, HEIGHT))
        picture.quantize(COLOURS).save(output, optimize=True)


def main(page: str, prefix: str) -> None:
    for width in WIDTHS:
        for dark in (False, True):
            output = Path(f"{prefix}-{width}-{'dark' if dark else 'light'}.png")
            screenshot(Path(page), width, dark, output)
            print(f"{output}: {output.stat().st_size // 1000} KB")


if __name__ == "__main__":
    main(*sys.argv[1:])
