"""gRPC's server with bounds, in the event loop of the other one."""

from __future__ import annotations

import socket
from typing import Any

import grpc

from moesaic.host.serving.access import Access
from moesaic.host.serving.app import Api
from moesaic.host.serving.limits import Limits
from moesaic.host.serving.rpc.service import Service
from moesaic.spec.errors import UserError

_HEAD_BYTES = 16 << 10
"""Most metadata of a call."""
_IDENTITY = 1
"""The only compression, in gRPC's set of bits: it would unpack before it looks at the length."""


def _options(limits: Limits, connections: int) -> list[tuple[str, int]]:
    def milliseconds(seconds: float) -> int:
        return max(1, round(1000 * seconds))

    return [
        ("grpc.so_reuseport", 0),  # else a second server takes half of the connections in silence
        ("grpc.max_allowed_incoming_connections", connections),
        ("grpc.max_concurrent_streams", limits.bodies),
        ("grpc.max_receive_message_length", limits.body_bytes),
        ("grpc.max_send_message_length", -1),
        ("grpc.max_metadata_size", _HEAD_BYTES),
        ("grpc.absolute_max_metadata_size", _HEAD_BYTES),
        ("grpc.compression_enabled_algorithms_bitset", _IDENTITY),
        # A connection holds 64 KiB that no call has asked for, however fast it is.
        ("grpc.http2.bdp_probe", 0),
        ("grpc.server_handshake_timeout_ms", milliseconds(limits.head_seconds)),
        ("grpc.max_connection_idle_ms", milliseconds(limits.idle_seconds)),
        # A client that takes nothing does not answer pings, and is gone when an answer should be.
        ("grpc.keepalive_time_ms", milliseconds(limits.answer_seconds / 2)),
        ("grpc.keepalive_timeout_ms", milliseconds(limits.answer_seconds / 2)),
    ]


def _credentials(access: Access) -> Any:
    assert access.certificate is not None and access.key is not None
    pair = access.key.read_bytes(), access.certificate.read_bytes()
    return grpc.ssl_server_credentials([pair])


async def start(
    place: socket.socket, api: Api, limits: Limits, access: Access, connections: int
) -> Any:
    """Answer calls at a place that was kept for this; it is given away.

    Raises
    ------
    UserError
        Somebody else has taken it.
    """
    server = grpc.aio.server(
        options=_options(limits, connections), maximum_concurrent_rpcs=connections
    )
    server.add_generic_rpc_handlers((Service(api, limits, access).handlers(),))
    host, port = place.getsockname()[:2]
    address = f"[{host}]:{port}" if place.family == socket.AF_INET6 else f"{host}:{port}"
    place.close()
    try:
        if access.certificate is not None:
            server.add_secure_port(address, _credentials(access))
        else:
            server.add_insecure_port(address)
    except RuntimeError as error:
        raise UserError(f"cannot listen on {address}: choose another --grpc-port") from error
    await server.start()
    return server
