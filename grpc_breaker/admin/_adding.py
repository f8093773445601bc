"""The admin service added to a server, whichever API of grpcio it is of; and what ends with that server."""

from __future__ import annotations

import weakref
from typing import Any, Final, cast

import grpc
from grpc import aio

from grpc_breaker._registry import BreakerRegistry
from grpc_breaker.admin import _aio, _sync
from grpc_breaker.admin._service import NAME, AdminService, requests
from grpc_breaker.admin._threads import DaemonPool

MAX_WATCHERS: Final = 16
THREADS: Final = 4
"""For calls that are short: with the interpreter's lock, more would not be faster."""

_serving: Final[weakref.WeakSet[grpc.Server | aio.Server]] = weakref.WeakSet()
"""The servers that have the service."""


def add_breaker_admin_servicer(
    server: grpc.Server | aio.Server,
    breakers: BreakerRegistry,
    *,
    allow_changes: bool = False,
    hide_details: bool = False,
    max_watchers: int = MAX_WATCHERS,
) -> None:
    """Add the admin service of breakers to a server, as `grpc_breaker.admin.v1.BreakerAdmin`.

    Whoever the server lets in can use it: the server's credentials, interceptors and port decide.
    The service takes none of the server's threads, unless an interceptor of the server wraps its handlers.

    Args:
        server: A server of `grpc` or `grpc.aio`, before or after it was started.
        breakers: The registry.
        allow_changes: Whether operators may hold and reset breakers. Default: they may only look.
        hide_details: Whether the details of failures are left out. Default: they are shown.
        max_watchers: How many may watch at once; more are refused and can list. Default 16.

    Raises:
        RuntimeError: The server has the service already: it serves one registry.
        TypeError: An argument of the wrong kind.
        ValueError: `max_watchers` is below 0.
    """
    if not isinstance(server, grpc.Server | aio.Server):
        message = f"server must be a grpc.Server or a grpc.aio.Server, got {server!r}"
        raise TypeError(message)
    add_service(
        server,
        AdminService(breakers, allow_changes=allow_changes, hide_details=hide_details, max_watchers=max_watchers),
    )


def add_service(server: grpc.Server | aio.Server, service: AdminService) -> None:
    """Add the service to a server.

    Raises:
        RuntimeError: The server has it already.
    """
    if server in _serving:  # grpcio would ask the first one alone, and say nothing
        message = "this server has the admin service of a registry already; add the other one to another server"
        raise RuntimeError(message)
    _serving.add(server)
    api: Any = _sync if isinstance(server, grpc.Server) else _aio
    pool, read = DaemonPool(THREADS), requests()
    handlers: dict[str, Any] = {
        name: grpc.unary_unary_rpc_method_handler(api.unary(method, pool), request_deserializer=read[name])
        for name, method in service.unary.items()
    }
    for name, begin in service.streaming.items():
        handlers[name] = grpc.unary_stream_rpc_method_handler(
            api.watching(service, begin, pool), request_deserializer=read[name]
        )
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(NAME, handlers),))
    _end_watches_with(server, service)


def _end_watches_with(server: Any, service: AdminService) -> None:
    """End all watches when the server is told to stop: they would use up the grace that it gives to its calls.

    grpcio tells no handler that its server stops, so `stop` of this server is another one.
    """
    kind = cast(Any, type(server))
    held = weakref.ref(server)

    def stop_watches_first(*args: Any, **kwargs: Any) -> Any:
        service.watchers.end()
        return kind.stop(held(), *args, **kwargs)

    server.stop = stop_watches_first
    weakref.finalize(server, service.watchers.end).atexit = False
