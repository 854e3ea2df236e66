"""``POST .../infer``: from the body to the answer, one request at a time."""

from __future__ import annotations

import asyncio

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from moesaic.host.serving.admission import Admission
from moesaic.host.serving.bodies import discard_body, read_body
from moesaic.host.serving.connection import Connection
from moesaic.host.serving.errors import ClientGone, RequestError
from moesaic.host.serving.execution import Execution
from moesaic.host.serving.limits import Limits
from moesaic.host.serving.models import Models
from moesaic.host.serving.protocol import HEADER_LENGTH, read_request, write_response
from moesaic.host.serving.requestlog import Asked


async def _left(request: Request) -> None:
    """Returns when the client has closed the connection; the body must have been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


class _Answer(Response):
    """Tensors, which count as memory until the client has taken them."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        connection: Connection = scope["state"]["connection"]
        start = {"status": self.status_code, "headers": self.raw_headers}
        with connection.sending(len(self.body)):
            try:
                await send({"type": "http.response.start", **start})
                await send({"type": "http.response.body", "body": self.body, "more_body": True})
                # The connection lets this wait until everything before it has left.
                await send({"type": "http.response.body"})
            except asyncio.CancelledError:
                connection.abort()  # the server stops, and waits no longer for a slow reader


class Inference:
    """Answers inference requests over HTTP."""

    def __init__(
        self, models: Models, admission: Admission, execution: Execution, limits: Limits
    ) -> None:
        self._models, self._admission = models, admission
        self._execution, self._limits = execution, limits

    async def infer(self, request: Request) -> Response:
        """The endpoint.

        Raises
        ------
        RequestError
            The request is wrong, there is no room for it, or no device can run it.
        """
        asked: Asked = request.state.asked
        asked.is_for(self._models, request.path_params["model"])
        try:
            with self._execution.counted(asked):
                try:
                    return await self._answer(request, asked)
                except RequestError:
                    request.state.connection.refused()
                    limits = self._limits
                    await discard_body(request, limits.body_bytes, limits.body_seconds)
                    raise
        except ClientGone:
            return Response(status_code=499)  # nobody reads it

    async def _answer(self, request: Request, asked: Asked) -> Response:
        model = self._models.find(**request.path_params)
        self._admission.check()
        with self._admission.body():
            body = await read_body(request, self._limits.body_bytes, self._limits.body_seconds)
            wanted = read_request(
                model, body, request.headers.get(HEADER_LENGTH), self._limits.json_bytes
            )
            asked.has_id(wanted.id)
            outputs = await self._execution.run(model, wanted.inputs, _left(request))
            asked.device = outputs.device
            ran: dict[str, str | float] = {
                "device": outputs.device,
                "latency_seconds": outputs.latency_seconds,
            }
            if all(wanted.outputs.values()):
                content, headers = write_response(wanted, outputs, ran)
            else:  # JSON of many frames takes seconds: other requests must not wait for it
                content, headers = await asyncio.to_thread(write_response, wanted, outputs, ran)
        return _Answer(content, headers=headers)
