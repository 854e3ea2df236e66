"""``POST .../infer``: from the body to the answer, one request at a time."""

from __future__ import annotations

import asyncio
from typing import Any

from numpy.typing import NDArray
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from moesaic.host.failures import DeviceError
from moesaic.host.serving.admission import Admission
from moesaic.host.serving.bodies import discard_body, read_body
from moesaic.host.serving.connection import Connection
from moesaic.host.serving.errors import ClientGone, RequestError
from moesaic.host.serving.limits import Limits
from moesaic.host.serving.metrics import UNKNOWN, Metrics
from moesaic.host.serving.models import VERSION, Model, Models
from moesaic.host.serving.protocol import HEADER_LENGTH, read_request, write_response
from moesaic.host.session import Outputs
from moesaic.spec.errors import UserError


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
    """Answers inference requests, and counts each exactly once by its outcome."""

    def __init__(
        self, models: Models, admission: Admission, metrics: Metrics, limits: Limits
    ) -> None:
        self._models, self._admission = models, admission
        self._metrics, self._limits = metrics, limits

    async def infer(self, request: Request) -> Response:
        """The endpoint.

        Raises
        ------
        RequestError
            The request is wrong, there is no room for it, or no device can run it.
        """
        name = request.path_params["model"]
        label = name if name in self._models.by_name else UNKNOWN
        outcome = "error"
        try:
            response = await self._answer(request, name)
            outcome = "ok"
            return response
        except RequestError as error:
            outcome = error.outcome
            request.state.connection.refused()
            await discard_body(request, self._limits.body_bytes, self._limits.body_seconds)
            raise
        except ClientGone as error:
            outcome = "abandoned" if error.ran else "cancelled"
            return Response(status_code=499)  # nobody reads it
        except asyncio.CancelledError as error:
            # The server stops, and waits no longer for the rest of a body.
            outcome = "rejected"
            raise self._admission.stopping() from error
        finally:
            self._metrics.requests.labels(label, outcome).inc()

    async def _answer(self, request: Request, name: str) -> Response:
        model = self._models.find(name, request.path_params.get("version", VERSION))
        self._admission.check()
        with self._admission.body():
            body = await read_body(request, self._limits.body_bytes, self._limits.body_seconds)
            wanted = read_request(
                model, body, request.headers.get(HEADER_LENGTH), self._limits.json_bytes
            )
            try:
                outputs = await self._run(request, model, wanted.inputs)
            except UserError as error:
                raise RequestError(400, str(error)) from error
            except DeviceError as error:
                raise RequestError(
                    503,
                    str(error),
                    outcome="failed",
                    retry_after_seconds=self._admission.retry_after(),
                ) from error
            ran: dict[str, str | float] = {
                "device": outputs.device,
                "latency_seconds": outputs.latency_seconds,
            }
            if all(wanted.outputs.values()):
                content, headers = write_response(wanted, outputs, ran)
            else:  # JSON of many frames takes seconds: other requests must not wait for it
                content, headers = await asyncio.to_thread(write_response, wanted, outputs, ran)
        return _Answer(content, headers=headers)

    async def _run(
        self, request: Request, model: Model, inputs: dict[str, NDArray[Any]]
    ) -> Outputs:
        """Wait for a device's answer as long as the client does."""
        future = self._admission.submit(model, inputs)
        answer = asyncio.wrap_future(future)
        left = asyncio.create_task(_left(request))
        try:
            waits: set[asyncio.Future[Any]] = {answer, left}
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            if answer.done():
                return answer.result()
            raise ClientGone(ran=not future.cancel())
        finally:
            left.cancel()
            if not answer.done():
                answer.cancel()
            if future.cancelled():
                # The session's worker drops the call only when it comes to it, maybe minutes
                # later: till then it must not keep the tensors, for their room is given away.
                inputs.clear()
