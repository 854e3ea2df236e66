"""A line of each request, and the name that it carries from its client to the log and back."""

from __future__ import annotations

import json
import logging
import re
import secrets
import time
from dataclasses import dataclass, field

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from moesaic.host.serving.lines import fields
from moesaic.host.serving.logs import logger as serving
from moesaic.host.serving.models import Models

ID_HEADER = "x-request-id"
_ID = re.compile(r"[!-~]{1,128}")
"""What is carried: other names are not, for they would have to be escaped in headers."""
_LONGEST_PATH = 256

logger = serving.getChild("requests")
"""Not folded: who asks for a line of each request gets them."""


@dataclass
class Asked:
    """What is known of a request while it is answered.

    Attributes
    ----------
    id
        The client's ``X-Request-Id``, else the protocol's ``id``, else one of the server's.
    named
        Whether the client's header said so.
    model, device
        What it is for and what ran it, once that is known.
    """

    id: str = field(default_factory=lambda: secrets.token_hex(8))
    named: bool = False
    model: str | None = None
    device: str | None = None
    started: float = field(default_factory=time.perf_counter)

    @classmethod
    def of(cls, given: list[str]) -> Asked:
        """A request that begins, with the values of its header."""
        if len(given) == 1 and _ID.fullmatch(given[0]):
            return cls(given[0], True)
        return cls()

    def has_id(self, given: str | None) -> None:
        """The protocol's own name for it has been read."""
        if not self.named and given is not None and _ID.fullmatch(given):
            self.id = given

    def is_for(self, models: Models, name: str) -> None:
        """The client says for which model it is; there may be none of that name."""
        self.model = models.label(name)

    def log(self, method: str, path: str, status: int | str) -> None:
        """Say how it ended."""
        if not logger.isEnabledFor(logging.INFO):
            return
        known = {
            "method": method,
            "path": path if len(path) <= _LONGEST_PATH else path[:_LONGEST_PATH] + "...",
            "model": self.model,
            "status": status,
            "seconds": round(time.perf_counter() - self.started, 6),
            "device": self.device,
            "request_id": self.id,
        }
        # As JSON also in a line of text: a path may hold anything.
        text = " ".join(f"{name}={json.dumps(value)}" for name, value in known.items())
        logger.info("request %s", text, extra=fields("request", **known))


class RequestLog:
    """An ASGI application that names requests and logs their ends."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on; its answer carries its name."""
        given = [value for name, value in scope["headers"] if name == ID_HEADER.encode()]
        asked = Asked.of([value.decode("latin-1") for value in given])
        scope["state"]["asked"] = asked
        status = 500

        async def named(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                name = (ID_HEADER.encode(), asked.id.encode())
                message = {**message, "headers": [*message["headers"], name]}
            await send(message)

        try:
            await self._app(scope, receive, named)
        finally:
            asked.log(scope["method"], scope["path"], status)
