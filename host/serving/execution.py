"""Requests that have been read, whichever protocol they came by: run, and counted by outcome."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

from numpy.typing import NDArray

from moesaic.host.failures import DeviceError
from moesaic.host.serving.admission import Admission
from moesaic.host.serving.errors import ClientGone, RequestError
from moesaic.host.serving.metrics import UNKNOWN, Metrics
from moesaic.host.serving.models import Answer, Model
from moesaic.host.serving.requestlog import Asked
from moesaic.spec.errors import UserError


class Execution:
    """Between the protocols and the sessions."""

    def __init__(self, admission: Admission, metrics: Metrics) -> None:
        self._admission, self._metrics = admission, metrics

    @contextmanager
    def counted(self, asked: Asked) -> Iterator[None]:
        """Count a request once, by its model as far as it is known and by how the block ends."""
        outcome = "error"
        try:
            yield
            outcome = "ok"
        except RequestError as error:
            outcome = error.outcome
            raise
        except ClientGone as error:
            outcome = "abandoned" if error.ran else "cancelled"
            raise
        except asyncio.CancelledError as error:
            # The server stops, and waits no longer for the rest of a body.
            outcome = "rejected"
            raise self._admission.stopping() from error
        finally:
            self._metrics.requests.labels(asked.model or UNKNOWN, outcome).inc()

    async def run(
        self, model: Model, inputs: dict[str, NDArray[Any]], left: Coroutine[Any, Any, Any]
    ) -> Answer:
        """Wait for a device's answer as long as the client does.

        Parameters
        ----------
        model
            What the inputs are for.
        inputs
            float32 [frames, ...] by name.
        left
            Ends when the client has left.

        Raises
        ------
        RequestError
            There is no room for it, or no device can run it.
        ClientGone
            Nobody waits for it any more.
        """
        gone = asyncio.create_task(left)
        try:
            return await self._answer(model, inputs, gone)
        except UserError as error:
            raise RequestError(400, str(error)) from error
        except DeviceError as error:
            wait = self._admission.retry_after()
            raise RequestError(
                503, str(error), outcome="failed", retry_after_seconds=wait
            ) from error
        finally:
            gone.cancel()

    async def _answer(
        self, model: Model, inputs: dict[str, NDArray[Any]], gone: asyncio.Task[Any]
    ) -> Answer:
        future = self._admission.submit(model, inputs)
        answer = asyncio.wrap_future(future)
        try:
            waits: set[asyncio.Future[Any]] = {answer, gone}
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            if answer.done():
                return model.answer(answer.result())
            raise ClientGone(ran=not future.cancel())
        finally:
            if not answer.done():
                answer.cancel()
