"""Runs the application on a socket until it is told to stop."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from types import FrameType
from typing import Any, cast

import uvicorn

from moesaic.host.serving.access import Access, BearerToken
from moesaic.host.serving.app import Api
from moesaic.host.serving.bundles import Served
from moesaic.host.serving.connection import Connection
from moesaic.host.serving.descriptors import ACCEPT_BURST, connections_that_fit
from moesaic.host.serving.limits import Limits
from moesaic.host.serving.lines import fields
from moesaic.host.serving.logs import folded, logger
from moesaic.host.serving.requestlog import RequestLog
from moesaic.spec.errors import UserError

OPEN = Access()
"""Anyone may ask."""
_BACKLOG = 2048
"""Connections that the system keeps until they are accepted, as far as it is allowed to."""
_OUT_OF_RESOURCES = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}


def bind(host: str, port: int, option: str = "--port") -> socket.socket:
    """A socket with an address, which takes no connections yet; port 0 takes a free one.

    Raises
    ------
    UserError
        The address is no address of this machine, or the port is in use or not allowed.
    """
    listener = None
    try:
        if not 0 <= port <= 65535:  # the resolver would take it modulo 65536
            raise OverflowError("ports are 0 to 65535")
        found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM)
        family, kind, protocol, _, address = found[0]
        listener = socket.socket(family, kind, protocol)
        # Connections that a stopped server leaves behind do not keep its port from the next one.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except (OSError, OverflowError, UnicodeError) as error:
        if listener is not None:
            listener.close()
        reason = getattr(error, "strerror", None) or error
        raise UserError(
            f"cannot listen on {host}, port {port}: {reason}; choose another {option} or --host"
        ) from error
    return listener


def _say_first(listener: socket.socket, seconds: float) -> None:
    """Accept connections when their clients have said something, or after this time.

    The head of a request is there then, as a rule: who sends one at once does not lose the
    connection to a crowd that connects faster than it can speak. Linux only.
    """
    option = getattr(socket, "TCP_DEFER_ACCEPT", None)
    if option is not None:
        with suppress(OSError):
            listener.setsockopt(socket.IPPROTO_TCP, option, max(1, round(seconds)))


class Server(uvicorn.Server):
    """A server that finishes what it accepted before it goes.

    The first SIGTERM or SIGINT (or :meth:`drain`) lets nothing more in: readiness turns false, new
    requests get 503, and the process ends when the accepted ones are answered. The second signal
    ends it at once, with exit code 128 + its number.

    Parameters
    ----------
    bundles
        Their sessions, made with ``queue_frames=limits.queue``, stay the caller's to close.
    limits
        What it takes at a time.
    started
        Called once it answers.
    access
        Who may ask.
    rpc
        Where to answer gRPC too, as :func:`bind` gives it.
    """

    def __init__(
        self,
        bundles: Sequence[Served],
        limits: Limits,
        started: Callable[[], None] = lambda: None,
        access: Access = OPEN,
        rpc: socket.socket | None = None,
    ) -> None:
        self._on_start, self._bundles = started, bundles
        self._rpc_place = rpc
        self._rpc: Any = None
        self._api, self._limits, self._access = Api(bundles, limits), limits, access
        api = self._api
        self.admission, self.connections = api.admission, api.connections
        super().__init__(
            uvicorn.Config(
                RequestLog(BearerToken(api.app, access.token) if access.token else api.app),
                ssl_certfile=access.certificate,
                ssl_keyfile=access.key,
                http=cast(type[asyncio.Protocol], partial(Connection, self.connections)),
                ws="none",
                loop="asyncio",
                lifespan="off",
                access_log=False,
                proxy_headers=False,
                log_config=None,
                server_header=False,
                # asyncio accepts as many in one go as may wait; see startup().
                backlog=ACCEPT_BURST,
                timeout_keep_alive=cast(int, limits.idle_seconds),
                timeout_graceful_shutdown=max(1, round(limits.close_seconds)),
            )
        )

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        """Run until it is told to stop."""
        with folded() as self._folding:
            await super().serve(sockets)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to listen."""
        ports = 1 if self._rpc_place is None else 2
        self.connections.limit = connections_that_fit(self.connections.limit, ports)
        asyncio.get_running_loop().set_exception_handler(self._on_fault)
        await super().startup(sockets)
        for listener in sockets or []:
            _say_first(listener, self._limits.head_seconds)
            listener.listen(_BACKLOG)
        if self._rpc_place is not None:
            from moesaic.host.serving.rpc.server import start  # grpc, for those who want it

            most = self.connections.limit
            self._rpc = await start(self._rpc_place, self._api, self._limits, self._access, most)
        self._on_start()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Close what is open."""
        if self._rpc is not None:
            await self._rpc.stop(self._limits.close_seconds)
        await super().shutdown(sockets)

    def _on_fault(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """What asyncio cannot raise anywhere."""
        fault = context.get("exception")
        if isinstance(fault, OSError) and fault.errno in _OUT_OF_RESOURCES:
            # asyncio tries again in a second.
            logger.warning("a connection could not be accepted: %s", fault.strerror)
            self.connections.make_room()
        else:
            loop.default_exception_handler(context)

    def drain(self) -> None:
        """Finish what was accepted, then stop; may be called from any thread."""
        self.admission.draining = True

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Signal handler. uvicorn's own would close the door before load balancers know."""
        if self.admission.draining:
            name = signal.Signals(sig).name
            logger.warning("moesaic: %s again, stopping now", name, extra=fields("stopped at once"))
            # A frame that runs cannot be interrupted, and Python would wait for its thread.
            os._exit(128 + sig)
        self.drain()

    async def on_tick(self, counter: int) -> bool:
        """uvicorn asks ten times a second whether to stop."""
        if self.admission.draining:
            for served in self._bundles:
                served.session.hurry()
            self.should_exit = self.should_exit or not self.admission.accepted
        self.connections.sweep(asyncio.get_running_loop().time())
        self._folding.flush()
        return await super().on_tick(counter)


def address_of(listener: socket.socket, scheme: str = "http") -> str:
    """URL of a listening socket."""
    host, port = listener.getsockname()[:2]
    name = f"[{host}]" if listener.family == socket.AF_INET6 else host
    return f"{scheme}://{name}:{port}"
