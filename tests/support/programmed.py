"""A real server in this process whose methods do what a test says, and that keeps what each call came with.

`ProgrammedServer(act)` calls `act(request, context, number)` for each call, of whatever kind; `number` counts the calls from 1. What
it returns is the answer, or the answers of a response stream. The last part of a method's name decides what kind it is,
as in `tests/support/server.py`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent import futures
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import grpc

from tests.support.server import METHODS, PATIENCE, SERVICE

Act = Callable[[bytes, Any, int], Any]


@dataclass(frozen=True)
class Came:
    """What one call came with."""

    request: bytes
    metadata: dict[str, str]
    time_remaining: float | None
    """Seconds until its deadline; `None` without one."""

    def had_at_most(self, seconds: float) -> bool:
        """Whether its deadline was no later: gRPC sends it with two digits, rounded up."""
        return self.time_remaining is not None and self.time_remaining <= 1.1 * seconds


def fails(code: str, details: str = "ill", **trailing: str) -> Act:
    """What always fails. Underscores in the names of `trailing` metadata stand for hyphens."""

    def act(request: bytes, context: Any, number: int) -> bytes:
        context.set_trailing_metadata([(key.replace("_", "-"), value) for key, value in trailing.items()])
        context.abort(grpc.StatusCode[code], details)
        return b""

    return act


def answers(request: bytes, context: Any, number: int) -> bytes:
    """What always answers."""
    return b"answer"


def in_turn(*acts: Act) -> Act:
    """What does one thing after the other, and then the last of them again and again."""

    def act(request: bytes, context: Any, number: int) -> Any:
        return acts[min(number, len(acts)) - 1](request, context, number)

    return act


class ProgrammedServer(grpc.GenericRpcHandler):
    """The server."""

    def __init__(self, act: Act = answers) -> None:
        self.act = act
        self.calls: list[Came] = []
        self.release = threading.Event()
        """For what waits: ends when the server does."""
        self._pool = futures.ThreadPoolExecutor(16)
        self._server = grpc.server(self._pool, [self], options=[("grpc.so_reuseport", 0)])
        port = self._server.add_insecure_port("127.0.0.1:0")
        self.target = f"127.0.0.1:{port}"

    def service(self, handler_call_details: Any) -> Any:
        return {
            METHODS["uu"]: grpc.unary_unary_rpc_method_handler(self._one),
            METHODS["us"]: grpc.unary_stream_rpc_method_handler(self._many),
            METHODS["su"]: grpc.stream_unary_rpc_method_handler(lambda them, context: self._one(next(them), context)),
            METHODS["ss"]: grpc.stream_stream_rpc_method_handler(lambda them, context: self._many(next(them), context)),
        }.get(f"/{SERVICE}/{handler_call_details.method.rpartition('/')[2]}")

    def _one(self, request: bytes, context: Any) -> Any:
        metadata = {it.key: it.value for it in context.invocation_metadata()}
        left = context.time_remaining()
        far = left is None or left > 1e6  # grpcio says years where there is no deadline
        self.calls.append(Came(request, metadata, None if far else left))
        return self.act(request, context, len(self.calls))

    def _many(self, request: bytes, context: Any) -> Iterator[bytes]:
        yield from self._one(request, context)

    def __enter__(self) -> Self:
        self._server.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release.set()
        self._server.stop(0).wait(PATIENCE)
        self._pool.shutdown()
