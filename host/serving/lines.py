"""How what a server says is written: as text, or one JSON object a line."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from typing import Any

from moesaic.host.serving.logs import logger

FORMATS = ("text", "json")


def fields(event: str, **values: Any) -> dict[str, dict[str, Any]]:
    """``extra`` of a line: what happened, and its figures, for programs that read the log."""
    return {"fields": {"event": event, **values}}


class JsonLines(logging.Formatter):
    """One JSON object a line, in ASCII: nothing that a client sends can begin a line of its own."""

    def format(self, record: logging.LogRecord) -> str:
        """A record as a line."""
        when = datetime.fromtimestamp(record.created, timezone.utc)
        line: dict[str, Any] = {
            "time": when.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line)


@contextmanager
def written(form: str, requests: bool) -> Iterator[None]:
    """Write what the server, its libraries and Python's warnings say to stderr.

    Parameters
    ----------
    form
        One of :data:`FORMATS`.
    requests
        Whether also a line of each request.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines() if form == "json" else logging.Formatter("%(message)s"))
    root, of_requests = logging.getLogger(), logger.getChild("requests")
    levels = [(one, one.level) for one in (logger, of_requests)]
    root.addHandler(handler)
    logger.setLevel(logging.INFO)
    of_requests.setLevel(logging.INFO if requests else logging.WARNING)
    logging.captureWarnings(form == "json")
    try:
        yield
    finally:
        logging.captureWarnings(False)
        for one, level in levels:
            one.setLevel(level)
        root.removeHandler(handler)
