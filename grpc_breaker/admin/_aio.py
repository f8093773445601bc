"""The admin service on a server of `grpc.aio`.

Its event loop belongs to the application: breakers are looked at in threads, and the loop only sends.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any

import grpc

from grpc_breaker.admin._requests import RefusedError
from grpc_breaker.admin._service import AdminService, refuse, who
from grpc_breaker.admin._threads import DaemonPool
from grpc_breaker.admin._watchers import STOPPING, Listening, Watchers


def unary(method: Callable[[Any, str], bytes], pool: DaemonPool) -> Callable[[Any, Any], Awaitable[bytes]]:
    async def answer(request: Any, context: Any) -> bytes:
        try:
            return await asyncio.wrap_future(pool.submit(method, request, who(context)))
        except RefusedError as refused:
            refuse(context, refused)
            return b""

    return answer


def watching(
    service: AdminService, begin: Callable[..., Listening], pool: DaemonPool
) -> Callable[[Any, Any], Awaitable[None]]:
    async def watch(request: Any, context: Any) -> None:
        loop, task, woken = asyncio.get_running_loop(), asyncio.current_task(), asyncio.Event()

        def soon(function: Callable[[], object]) -> None:
            with contextlib.suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(function)

        def cancel() -> None:
            if task is not None:  # pragma: no branch - a handler runs in a task
                soon(task.cancel)

        try:
            watcher = begin(request, lambda: soon(woken.set), cancel)
        except RefusedError as refused:
            refuse(context, refused)
            return
        try:
            await _tell(service.watchers, watcher, woken, context, pool)
        finally:
            service.watchers.remove(watcher)
        if not watcher.over:
            refuse(context, RefusedError(grpc.StatusCode.UNAVAILABLE, STOPPING))

    return watch


async def _tell(watchers: Watchers, watcher: Listening, woken: asyncio.Event, context: Any, pool: DaemonPool) -> None:
    """Send a watcher its responses until the server stops; one that has enough cancels this."""
    due = True
    while not watchers.ended:
        response = await asyncio.wrap_future(pool.submit(watcher.when_due)) if due else watcher.when_woken()
        if response or due:
            watcher.sending = True
            await context.write(response)
            watcher.sending = False
        if watcher.over:
            return
        try:
            async with asyncio.timeout(watcher.seconds_to_wait()):
                await woken.wait()
            due = False
        except TimeoutError:
            due = True
        woken.clear()
