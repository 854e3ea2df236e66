"""The commands that README and the documents give, as a shell would be given them."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
_BEGIN = re.compile(r"^(?: {4})?(\.venv/bin/\S+|moesaic|curl|openssl|python) ")


def commands(document: Path) -> list[str]:
    """Commands of one document: continued lines and quoted texts as one, in their order."""
    lines, found = document.read_text().splitlines(), list[str]()
    numbers = iter(range(len(lines)))
    for number in numbers:
        if not _BEGIN.match(lines[number]):
            continue
        text = lines[number].removeprefix("    ")
        while text.endswith("\\") or text.count("'") % 2:
            text += "\n" + lines[next(numbers)].removeprefix("    ")
        found.append(text)
    return found


def words(command: str) -> list[str]:
    """Words of a command, without its comment."""
    return shlex.split(command.replace("\\\n", " "), comments=True)
