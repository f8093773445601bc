"""The admin service on a server of `grpc`.

Its calls run in threads of their own, by two attributes of a handler that grpcio looks for and its health service uses,
too: `experimental_thread_pool` and `experimental_non_blocking`. An interceptor of the server that wraps handlers takes
them away. Then short calls run in the server's threads, and nobody can watch, because that would hold one for long.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any, Final

import grpc

from grpc_breaker._core.log import log_once
from grpc_breaker.admin._requests import RefusedError
from grpc_breaker.admin._service import AdminService, refuse, who
from grpc_breaker.admin._threads import DaemonPool, start
from grpc_breaker.admin._watchers import NO_THREAD, STOPPING, Listening

_WRAPPED: Final = "an interceptor of this server leaves the service no threads to watch in; ListBreakers works"

Send = Callable[[Any], None]


def unary(method: Callable[[Any, str], bytes], pool: DaemonPool) -> Callable[[Any, Any], bytes]:
    def answer(request: Any, context: Any) -> bytes:
        try:
            return method(request, who(context))
        except RefusedError as refused:
            refuse(context, refused)
            return b""

    answer.experimental_thread_pool = pool  # type: ignore[attr-defined]
    return answer


def watching(service: AdminService, begin: Callable[..., Listening], pool: DaemonPool) -> Callable[..., Iterator[Any]]:
    def watch(request: Any, context: Any, send: Send | None = None) -> Iterator[Any]:
        if send is None:
            refuse(context, RefusedError(grpc.StatusCode.RESOURCE_EXHAUSTED, _WRAPPED))
            return iter(())
        woken = threading.Event()
        try:
            watcher = begin(request, woken.set, context.cancel)
        except RefusedError as refused:
            refuse(context, refused)
            send(None)
            return iter(())
        context.add_callback(woken.set)  # where it has gone already, the thread finds out
        try:
            start(lambda: _tell(service, watcher, woken, context, send))
        except RuntimeError:
            service.watchers.remove(watcher)
            refuse(context, RefusedError(grpc.StatusCode.RESOURCE_EXHAUSTED, NO_THREAD))
            send(None)
        return iter(())

    watch.experimental_thread_pool = pool  # type: ignore[attr-defined]
    watch.experimental_non_blocking = True  # type: ignore[attr-defined]
    return watch


def _tell(service: AdminService, watcher: Listening, woken: threading.Event, context: Any, send: Send) -> None:
    """Send a watcher its responses, in a thread of its own, until it has enough or the server stops."""
    watchers = service.watchers
    try:
        due = True
        while context.is_active() and not watchers.ended:
            response = watcher.when_due() if due else watcher.when_woken()
            if response or due:
                watcher.sending = True
                send(response)
                watcher.sending = False
            if watcher.over:
                break
            due = not woken.wait(watcher.seconds_to_wait())
            woken.clear()
        if not watcher.over:
            refuse(context, RefusedError(grpc.StatusCode.UNAVAILABLE, STOPPING))
    except Exception:  # noqa: BLE001 - a defect of this package, or of a clock of the user's
        log_once("the admin service failed to tell a watcher")
        context.set_code(grpc.StatusCode.INTERNAL)
    finally:
        watcher.sending = False
        watchers.remove(watcher)
    with contextlib.suppress(Exception):  # whatever grpcio makes of the end of a call that has ended
        send(None)
