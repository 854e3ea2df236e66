"""The paths of the protocol, and what they answer."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from moesaic.host.serving.admission import Admission
from moesaic.host.serving.connections import Connections
from moesaic.host.serving.errors import RequestError
from moesaic.host.serving.health import Health
from moesaic.host.serving.inference import Inference
from moesaic.host.serving.limits import Limits
from moesaic.host.serving.metrics import Metrics
from moesaic.host.serving.models import VERSION, Models
from moesaic.host.session import Session


class Api:
    """The protocol in front of one session.

    Parameters
    ----------
    session
        Made with ``queue_frames=limits.queue``; stays the caller's to close.
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
    """

    def __init__(self, session: Session, limits: Limits) -> None:
        self._session, self._models = session, Models(session.bundle)
        self._metrics = Metrics(list(self._models.by_name), session.placement)
        self.connections = Connections(limits, self._metrics)
        self.admission = Admission(session, limits, self.connections, self._metrics)
        self._health = Health(session, self.admission)
        inference = Inference(self._models, self.admission, self._metrics, limits)
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
        extensions = ["binary_tensor_data"]
        return JSONResponse(
            {"name": "moesaic", "version": version("moesaic"), "extensions": extensions}
        )

    async def _live(self, request: Request) -> Response:
        return JSONResponse({"live": True})

    def _readiness(self, known: dict[str, Any]) -> Response:
        obstacle = self._health.obstacle()
        if obstacle:
            return JSONResponse({**known, "ready": False, "error": obstacle}, 503)
        return JSONResponse({**known, "ready": True})

    async def _ready(self, request: Request) -> Response:
        return self._readiness({})

    async def _model(self, request: Request) -> Response:
        return JSONResponse(self._models.find(**request.path_params).metadata())

    async def _model_ready(self, request: Request) -> Response:
        return self._readiness({"name": self._models.find(**request.path_params).name})

    async def _index(self, request: Request) -> Response:
        obstacle = self._health.obstacle()
        state = "UNAVAILABLE" if obstacle else "READY"
        return JSONResponse(
            [
                {"name": name, "version": VERSION, "state": state, "reason": obstacle}
                for name in self._models.by_name
            ]
        )

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
