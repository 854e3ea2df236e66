"""The methods of the service, behind the same door as HTTP's paths."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any

import grpc

from moesaic.host.serving.access import NO_TOKEN, Access, carries
from moesaic.host.serving.app import Api
from moesaic.host.serving.errors import ClientGone, RequestError
from moesaic.host.serving.limits import Limits
from moesaic.host.serving.logs import logger
from moesaic.host.serving.models import VERSION, Model, server_metadata
from moesaic.host.serving.requestlog import ID_HEADER, Asked
from moesaic.host.serving.rpc import tensors
from moesaic.host.serving.rpc.messages import CLASSES, SERVICE
from moesaic.host.serving.rpc.wire import parse
from moesaic.host.serving.tensors import refuse

OPEN_METHODS = ("ServerLive", "ServerReady")
"""Asked without a token, as their paths are."""
_SMALL_AT_A_TIME = 4
"""Requests for metadata whose messages are in memory; they are longer than they should be if
somebody wants that."""
CODES = {
    HTTPStatus.BAD_REQUEST: grpc.StatusCode.INVALID_ARGUMENT,
    HTTPStatus.UNAUTHORIZED: grpc.StatusCode.UNAUTHENTICATED,
    HTTPStatus.NOT_FOUND: grpc.StatusCode.NOT_FOUND,
    HTTPStatus.REQUEST_TIMEOUT: grpc.StatusCode.DEADLINE_EXCEEDED,
    HTTPStatus.SERVICE_UNAVAILABLE: grpc.StatusCode.UNAVAILABLE,
}
"""What a refusal is called."""

Method = Callable[[Asked, Any], Awaitable[bytes]]


class Service:
    """Answers the calls of one server.

    Its methods are streams to gRPC, although clients send and get one message each: so a call is
    refused before its message is read, and reading and answering have an end.

    Parameters
    ----------
    api
        What HTTP answers from.
    limits
        What the server takes at a time.
    access
        Who may ask.
    """

    def __init__(self, api: Api, limits: Limits, access: Access) -> None:
        self._api, self._limits, self._access = api, limits, access
        self._unsent_bytes = 0
        self._small = asyncio.Semaphore(_SMALL_AT_A_TIME)

    def handlers(self) -> Any:
        """What gRPC's server takes."""
        methods: dict[str, Method] = {
            "ServerLive": self._live,
            "ServerReady": self._ready,
            "ServerMetadata": self._server,
            "ModelReady": self._model_ready,
            "ModelMetadata": self._model,
            "ModelInfer": self._infer,
        }
        streams = {
            name: grpc.stream_stream_rpc_method_handler(self._call(name, method))
            for name, method in methods.items()
        }
        return grpc.method_handlers_generic_handler(SERVICE, streams)

    def _call(self, name: str, method: Method) -> Any:
        async def call(_: Any, context: Any) -> None:
            metadata = context.invocation_metadata() or ()
            asked = Asked.of([_text(value) for key, value in metadata if key == ID_HEADER])
            code, details, headers = grpc.StatusCode.OK, "", {}
            try:
                if name not in OPEN_METHODS:
                    self._check_token([value for key, value in metadata if key == "authorization"])
                answer = await method(asked, context)
                await self._send(answer, context)
            except RequestError as error:
                code, details, headers = (
                    CODES[HTTPStatus(error.status)],
                    error.message,
                    error.headers,
                )
            except TimeoutError:
                code, details = grpc.StatusCode.DEADLINE_EXCEEDED, "the answer was not taken"
            except (ClientGone, asyncio.CancelledError):
                code = grpc.StatusCode.CANCELLED
                raise asyncio.CancelledError from None
            except Exception as error:
                logger.exception("the server failed")
                code = grpc.StatusCode.INTERNAL
                details = f"the server failed: {type(error).__name__}"
            finally:
                asked.log("gRPC", f"/{SERVICE}/{name}", code.name)
            trailing = [(ID_HEADER, asked.id), *((k.lower(), v) for k, v in headers.items())]
            if code is grpc.StatusCode.OK:
                context.set_trailing_metadata(tuple(trailing))
            else:
                await context.abort(code, details, tuple(trailing))

        return call

    async def _send(self, answer: bytes, context: Any) -> None:
        """Give an answer to gRPC; what it cannot get rid of counts until the connection ends."""
        self._unsent_bytes += len(answer)
        writing = asyncio.ensure_future(context.write(answer))

        def sent(done: asyncio.Future[None]) -> None:
            self._unsent_bytes -= len(answer)
            if not done.cancelled():
                done.exception()  # the client has left

        writing.add_done_callback(sent)
        async with asyncio.timeout(self._limits.answer_seconds):
            await asyncio.shield(writing)

    def _check_token(self, given: list[str | bytes]) -> None:
        token = self._access.token
        if token is not None and not carries([_text(value).encode() for value in given], token):
            raise RequestError(401, NO_TOKEN)

    async def _read(self, context: Any) -> bytes:
        seconds = self._limits.body_seconds
        try:
            async with asyncio.timeout(seconds):
                message = await context.read()
        except TimeoutError as error:
            raise RequestError(
                408, f"the message did not arrive within {seconds:g} s; send it again"
            ) from error
        except asyncio.CancelledError as error:
            raise ClientGone(ran=False) from error
        if message is grpc.aio.EOF:
            raise refuse("the call has no message, or one that is longer than --max-body")
        return message

    async def _live(self, asked: Asked, context: Any) -> bytes:
        return CLASSES["ServerLiveResponse"](live=True).SerializeToString()

    async def _ready(self, asked: Asked, context: Any) -> bytes:
        ready = not self._api.health.obstacle()
        return CLASSES["ServerReadyResponse"](ready=ready).SerializeToString()

    async def _server(self, asked: Asked, context: Any) -> bytes:
        return CLASSES["ServerMetadataResponse"](**server_metadata()).SerializeToString()

    async def _named(self, kind: str, asked: Asked, context: Any) -> Model:
        """The model that a small message asks about."""
        async with self._small:
            message = parse(kind, await self._read(context))
        asked.is_for(self._api.models, message.name)
        return self._api.models.find(message.name, message.version or VERSION)

    async def _model_ready(self, asked: Asked, context: Any) -> bytes:
        try:
            model = await self._named("ModelReadyRequest", asked, context)
            ready = not self._api.health.obstacle(model.served)
        except RequestError as error:
            if error.status != HTTPStatus.NOT_FOUND:
                raise
            ready = False
        return CLASSES["ModelReadyResponse"](ready=ready).SerializeToString()

    async def _model(self, asked: Asked, context: Any) -> bytes:
        model = await self._named("ModelMetadataRequest", asked, context)
        return CLASSES["ModelMetadataResponse"](**model.metadata()).SerializeToString()

    async def _infer(self, asked: Asked, context: Any) -> bytes:
        admission = self._api.admission
        with self._api.execution.counted(asked):
            admission.check()
            if self._unsent_bytes > self._limits.answers_bytes:
                raise admission.answers_wait()
            with admission.body():
                request = parse("ModelInferRequest", await self._read(context))
                name, of_version = request.model_name, request.model_version or VERSION
                asked.is_for(self._api.models, name)
                asked.has_id(request.id)
                model = self._api.models.find(name, of_version)
                wanted = tensors.read(model, request)
                del request  # its bytes, unless inputs are views of them
                outputs = await self._run(model, wanted)
                asked.device = outputs.device
        place = outputs.device, outputs.latency_seconds
        if wanted.raw:
            return tensors.write(model, wanted, outputs, *place)
        return await asyncio.to_thread(tensors.write, model, wanted, outputs, *place)

    async def _run(self, model: Model, wanted: tensors.Wanted) -> Any:
        """Wait for a device; gRPC cancels this when the client has left."""
        gone = asyncio.Event()
        running = asyncio.create_task(self._api.execution.run(model, wanted.inputs, gone.wait()))
        try:
            return await asyncio.shield(running)
        except asyncio.CancelledError:
            gone.set()
            return await running


def _text(value: str | bytes) -> str:
    return value if isinstance(value, str) else value.decode("latin-1")
