"""A server that can be overloaded, in a process of its own: so many workers, and a queue that ends somewhere.

What it does with too many calls is what grpcio's server does by itself. Calls that find no free worker wait, first
come, first served. One whose deadline has passed when its turn comes is dropped, at no cost. One that has any time left
is worked on to its end, though nobody may wait for the answer any more. Beyond `maximum_concurrent_rpcs` a call is
refused with RESOURCE_EXHAUSTED.

A call says as its request how many seconds its work takes. The work is waiting, as that of a handler that waits for a
database: so a machine with few cores can play a server with many workers.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc

from tests.support.server import PATIENCE, ServerProcess, serve

SERVICE = "shop.v1.Prices"
METHOD = "GetPrice"


def work(request: bytes, context: grpc.ServicerContext) -> bytes:
    """Take as long as the call says, and look at nothing meanwhile."""
    time.sleep(float(request))
    return b"42"


class BoundedServer:
    """The server."""

    def __init__(self, port: int, report: Callable[[str], None], workers: int, queue: int) -> None:
        handlers: dict[str, Any] = {METHOD: grpc.unary_unary_rpc_method_handler(work)}
        self._server = grpc.server(
            ThreadPoolExecutor(workers),
            [grpc.method_handlers_generic_handler(SERVICE, handlers)],
            options=[("grpc.so_reuseport", 0)],
            maximum_concurrent_rpcs=workers + queue,
        )
        self.port = self._server.add_insecure_port(f"127.0.0.1:{port}")
        self._server.start()

    def stop(self, grace: float) -> None:
        self._server.stop(grace).wait(PATIENCE + grace)


class BoundedServerProcess(ServerProcess):
    """The process; its settings are `workers` and `queue`."""

    module = "benchmarks.overload_server"


if __name__ == "__main__":
    serve(BoundedServer)
