"""What a request can end in besides an answer."""

from __future__ import annotations


class RequestError(Exception):
    """A request that is refused.

    Parameters
    ----------
    status
        HTTP status.
    message
        One sentence that names what is wrong and says what to do.
    retry_after_seconds
        When trying again makes sense, for statuses that pass by themselves.
    outcome
        How the request is counted, one of :data:`~moesaic.host.serving.metrics.OUTCOMES`.
    close
        Whether the connection ends with the answer, since the rest of the body is not read.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        outcome: str = "invalid",
        retry_after_seconds: int | None = None,
        close: bool = False,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.outcome = status, message, outcome
        self.headers = (
            {} if retry_after_seconds is None else {"Retry-After": str(retry_after_seconds)}
        )
        if close:
            self.headers["Connection"] = "close"


class ClientGone(Exception):
    """Nobody waits for the answer any more.

    Parameters
    ----------
    ran
        Whether a device had begun with the request.
    """

    def __init__(self, ran: bool) -> None:
        super().__init__("the client closed the connection")
        self.ran = ran
