"""The paths of the protocol, and what they answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from moesaic.host.serving.admission import Admission
from moesaic.host.serving.bundles import Served
from moesaic.host.serving.connections import Connections
from moesaic.host.serving.errors import RequestError
from moesaic.host.serving.execution import Execution
from moesaic.host.serving.health import Health
from moesaic.host.serving.inference import Inference
from moesaic.host.serving.limits import Limits
from moesaic.host.serving.metrics import Metrics
from moesaic.host.serving.models import VERSION, Models, server_metadata


class Api:
    """The protocol in front of sessions.

    Parameters
    ----------
    bundles
        Their sessions, made with ``queue_frames=limits.queue``, stay the caller's to close.
    limits
        What the server takes at a time.

    Attributes
    ----------
    app
        The ASGI application.
    admission
        Who gets in, and how many are in.
    connections
        What they come through; the server puts them in.
    models, health, execution
        What another protocol needs to answer the same.
    """

    def __init__(self, bundles: Sequence[Served], limits: Limits) -> None:
        self.models, self._metrics = Models(bundles), Metrics(bundles)
        self.connections = Connections(limits, self._metrics)
        self.admission = Admission(limits, self.connections, self._metrics)
        self.health = Health(bundles, self.admission)
        self.execution = Execution(self.admission, self._metrics)
        inference = Inference(self.models, self.admission, self.execution, limits)
        model, of_version = "/v2/models/{model}", "/v2/models/{model}/versions/{version}"
        self.app = Starlette(
            routes=[
                Route("/v2", self._server),
                Route("/v2/health/live", self._live),
                Route("/v2/health/ready", self._ready),
                Route("/v2/repository/index", self._index, methods=["POST"]),
                *(Route(path, self._model) for path in (model, of_version)),
                *(Route(f"{path}/ready", self._model_ready) for path in (model, of_version)),
                *(
                    Route(f"{path}/infer", inference.infer, methods=["POST"])
                    for path in (model, of_version)
                ),
                Route("/metrics", self._metrics_text),
            ],
            exception_handlers={
                RequestError: _refusal,
                HTTPException: _no_such_path,
                Exception: _fault,
            },
        )

    async def _server(self, request: Request) -> Response:
        return JSONResponse({**server_metadata(), "extensions": ["binary_tensor_data"]})

    async def _live(self, request: Request) -> Response:
        return JSONResponse({"live": True})

    def _readiness(self, known: dict[str, Any], only: Served | None = None) -> Response:
        obstacle = self.health.obstacle(only)
        if obstacle:
            return JSONResponse({**known, "ready": False, "error": obstacle}, 503)
        return JSONResponse({**known, "ready": True})

    async def _ready(self, request: Request) -> Response:
        return self._readiness({})

    async def _model(self, request: Request) -> Response:
        return JSONResponse(self.models.find(**request.path_params).metadata())

    async def _model_ready(self, request: Request) -> Response:
        model = self.models.find(**request.path_params)
        return self._readiness({"name": model.name}, model.served)

    async def _index(self, request: Request) -> Response:
        found = []
        for name, model in self.models.by_name.items():
            obstacle = self.health.obstacle(model.served)
            state = "UNAVAILABLE" if obstacle else "READY"
            found.append({"name": name, "version": VERSION, "state": state, "reason": obstacle})
        return JSONResponse(found)

    async def _metrics_text(self, request: Request) -> Response:
        text = generate_latest(self._metrics.registry)
        return Response(text, headers={"Content-Type": CONTENT_TYPE_LATEST})


async def _refusal(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestError)
    return JSONResponse({"error": error.message}, error.status, headers=error.headers)


async def _no_such_path(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    messages = {
        404: "there is no such path; models are at /v2/models/NAME, see docs/serving.md",
        405: f"{request.method} is not for this path",
    }
    message = messages.get(error.status_code, error.detail)
    return JSONResponse({"error": message}, error.status_code, headers=error.headers)


async def _fault(request: Request, error: Exception) -> Response:
    # The traceback goes to the log, by uvicorn.
    return JSONResponse({"error": f"the server failed: {type(error).__name__}"}, 500)
