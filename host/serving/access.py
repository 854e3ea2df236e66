"""Who may ask: a token that every request carries, and the certificate of an encrypted server."""

from __future__ import annotations

import hmac
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from moesaic.spec.errors import UserError

OPEN_PATHS = ("/v2/health/live", "/v2/health/ready")
"""Asked without a token by those who watch whether the server lives."""
NO_TOKEN = "the request must carry the server's token: Authorization: Bearer TOKEN"
LEAST_CHARACTERS = 16
"""Of a token: a shorter one can be guessed."""


@dataclass(frozen=True)
class Access:
    """What protects a server; nothing by default.

    Attributes
    ----------
    token
        What requests must carry as ``Authorization: Bearer TOKEN``.
    certificate, key
        PEM files of the chain and its private key.
    """

    token: str | None = None
    certificate: Path | None = None
    key: Path | None = None

    @property
    def scheme(self) -> str:
        """Of the server's address."""
        return "https" if self.certificate else "http"


def read_access(token: Path | None, certificate: Path | None, key: Path | None) -> Access:
    """Read and check what the command line names.

    Raises
    ------
    UserError
        A file cannot be read, the token is no good one, or key and certificate are no pair.
    """
    if (certificate is None) != (key is None):
        raise UserError("--tls-certificate and --tls-key go together: give both, or none")
    if certificate is not None and key is not None:
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(
                certificate, key, lambda: _no_password(key)
            )
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise UserError(
                f"{certificate} and {key} must be a certificate and its key in PEM form: {reason}"
            ) from error
    return Access(None if token is None else _read_token(token), certificate, key)


def _no_password(key: Path) -> str:
    raise UserError(f"{key} must be a key without a password: nobody is there to type it")


def _read_token(path: Path) -> str:
    try:
        token = path.read_text(encoding="ascii").strip()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} must hold a token in ASCII") from error
    if len(token) < LEAST_CHARACTERS or not token.isprintable() or " " in token:
        raise UserError(
            f"{path} must hold one token of at least {LEAST_CHARACTERS} characters without spaces,"
            " such as `openssl rand -hex 32` makes"
        )
    return token


def carries(given: Sequence[bytes], token: str) -> bool:
    """Whether a request has the token, given the values of its ``authorization``."""
    # In a time that tells nothing of how much of it is right.
    return len(given) == 1 and hmac.compare_digest(given[0], f"Bearer {token}".encode())


class BearerToken:
    """An ASGI application that lets through what carries the token."""

    def __init__(self, app: ASGIApp, token: str) -> None:
        self._app, self._token = app, token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse with 401, the body unread, or pass on."""
        if scope["path"] in OPEN_PATHS or self._carries(scope):
            await self._app(scope, receive, send)
            return
        refusal = JSONResponse(
            {"error": NO_TOKEN},
            401,
            headers={"WWW-Authenticate": "Bearer"},
        )
        await refusal(scope, receive, send)

    def _carries(self, scope: Scope) -> bool:
        given = [value for name, value in scope["headers"] if name == b"authorization"]
        return carries(given, self._token)
