"""Real servers of the admin service, of every kind, and clients of them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent import futures
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc

from grpc_breaker import BreakerRegistry
from grpc_breaker.admin import add_breaker_admin_servicer, serve_admin
from grpc_breaker.admin.v1 import admin_pb2 as pb
from grpc_breaker.admin.v1.admin_pb2_grpc import BreakerAdminStub
from tests.support.server import PATIENCE

KINDS = ("grpc", "grpc.aio", "socket")


@contextmanager
def served(kind: str, folder: Path, breakers: BreakerRegistry, **options: Any) -> Iterator[Any]:
    """A client of the service on a server of this kind."""
    with address_of(kind, folder, breakers, **options) as address, grpc.insecure_channel(address) as channel:
        yield BreakerAdminStub(channel)


@contextmanager
def address_of(kind: str, folder: Path, breakers: BreakerRegistry, **options: Any) -> Iterator[str]:
    """The address of a server of this kind."""
    if kind == "socket":
        with serve_admin(breakers, directory=folder, **options) as serving:
            yield f"unix:{serving.path}"
    elif kind == "grpc":
        server = grpc.server(futures.ThreadPoolExecutor(1))
        add_breaker_admin_servicer(server, breakers, **options)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        yield f"127.0.0.1:{port}"
        server.stop(None)
    else:
        with aio_server(breakers, **options) as (_, port, _):
            yield f"127.0.0.1:{port}"


@contextmanager
def aio_server(breakers: BreakerRegistry, **options: Any) -> Iterator[tuple[grpc.aio.Server, int, Any]]:
    """A server of `grpc.aio` in a thread with a loop of its own: the server, its port, and the loop."""
    ready, box = threading.Event(), []

    async def serve() -> None:
        server = grpc.aio.server()
        add_breaker_admin_servicer(server, breakers, **options)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        over = asyncio.Event()
        box.extend([server, port, asyncio.get_running_loop(), over])
        ready.set()
        await over.wait()
        await server.stop(None)

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    assert ready.wait(PATIENCE)
    server, port, loop, over = box
    try:
        yield server, port, loop
    finally:
        loop.call_soon_threadsafe(over.set)
        thread.join(PATIENCE)


def listed(stub: Any, name: str = "", *states: int) -> dict[str, Any]:
    """The breakers that the service lists, by name."""
    request = pb.ListBreakersRequest(filter=pb.Filter(name=name, states=states))
    return {it.name: it for it in stub.ListBreakers(request, timeout=PATIENCE).breakers}


def held(message: Any, name: str, seconds: float, reason: str = "maintenance") -> Any:
    """A request to hold breakers."""
    request = message(name=name, reason=reason)
    request.ttl.FromNanoseconds(int(seconds * 1e9))
    return request


def refusal(call: Any, *arguments: Any) -> tuple[str, str]:
    """The status and details that a call ends with."""
    try:
        call(*arguments, timeout=PATIENCE)
    except grpc.RpcError as error:
        return error.code().name, error.details()
    raise AssertionError("it was not refused")
