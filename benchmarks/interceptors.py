"""What the interceptors add to ones that do nothing, without a network.

    python -m benchmarks.interceptors

Whole calls, in which the caches are cold, are in `whole_calls.py`.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider

from benchmarks.peers import aio_interceptor_peers
from benchmarks.timing import Loop, interleaved, table
from grpc_breaker import BreakerRegistry, CircuitBreakerInterceptor, aio
from grpc_breaker.replay import TrafficRecorder
from grpc_breaker.telemetry import BreakerTelemetry


class Details:
    """Call details."""

    method = "/pkg.Service/Method"
    timeout = 1.0


class Keeping(grpc.UnaryUnaryClientInterceptor):
    """Keeps the last call."""

    call: Any = None

    def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        self.call = continuation(client_call_details, request)
        return self.call


def ended_well() -> Any:
    """A blocking call that has ended with OK, as grpcio returns it to an interceptor: a real one."""
    echo = grpc.unary_unary_rpc_method_handler(lambda request, context: request)
    server, keeping = grpc.server(ThreadPoolExecutor(1)), Keeping()
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("pkg.Service", {"Method": echo}),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with grpc.intercept_channel(grpc.insecure_channel(f"127.0.0.1:{port}"), keeping) as channel:
        channel.unary_unary(Details.method)(b"response", timeout=10, wait_for_ready=True)
    server.stop(None).wait()
    return keeping.call


class AioFinished:
    """An asyncio call that has ended well."""

    def __await__(self) -> Generator[None, None, bytes]:
        return b""
        yield  # makes this a generator, as awaiting needs

    def done(self) -> bool:
        return True

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        callback(self)

    async def code(self) -> grpc.StatusCode:
        return grpc.StatusCode.OK


class PassThrough(grpc.UnaryUnaryClientInterceptor, grpc.UnaryStreamClientInterceptor):
    """Does nothing."""

    def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        return continuation(client_call_details, request)

    intercept_unary_stream = intercept_unary_unary


class AioPassThrough(grpc.aio.UnaryUnaryClientInterceptor):
    """Does nothing."""

    async def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        return await continuation(client_call_details, request)


def full_telemetry() -> BreakerTelemetry:
    """The SDK, with a tracer and a metric reader."""
    return BreakerTelemetry(tracer_provider=TracerProvider(), meter_provider=MeterProvider([InMemoryMetricReader()]))


def sync_loop(interceptor: Any) -> Loop:
    """Intercept a call that costs nothing."""
    finished, details = ended_well(), Details()

    def continuation(call_details: Any, request: Any) -> Any:
        return finished

    def loop(count: int) -> None:
        for _ in range(count):
            interceptor.intercept_unary_unary(continuation, details, b"")

    return loop


def aio_loop(interceptor: Any) -> Loop:
    """The same in asyncio."""
    finished, details = AioFinished(), Details()

    async def continuation(call_details: Any, request: Any) -> Any:
        return finished

    async def many(count: int) -> None:
        for _ in range(count):
            await interceptor.intercept_unary_unary(continuation, details, b"")

    return lambda count: asyncio.run(many(count))


def recorded(stack: ExitStack) -> BreakerRegistry:
    """A registry whose traffic is recorded in a file, until the stack is closed."""
    breakers = BreakerRegistry()
    folder = stack.enter_context(tempfile.TemporaryDirectory())
    stack.enter_context(TrafficRecorder(breakers, Path(folder, "traffic.jsonl"), max_bytes=10_000_000))
    return breakers


def main() -> None:
    """Print every table."""
    with ExitStack() as stack:
        print_tables(stack)


def print_tables(stack: ExitStack) -> None:
    """Print them; the stack ends what runs meanwhile."""
    guarded = {
        "pass-through": PassThrough(),
        "grpc_breaker, telemetry off": CircuitBreakerInterceptor(BreakerRegistry(), telemetry=False),
        "grpc_breaker": CircuitBreakerInterceptor(BreakerRegistry()),
        "grpc_breaker, recorded": CircuitBreakerInterceptor(recorded(stack)),
        "grpc_breaker, SDK and metric reader": CircuitBreakerInterceptor(BreakerRegistry(), telemetry=full_telemetry()),
    }
    sync = {name: sync_loop(it) for name, it in guarded.items()}
    print(table("Sync unary, no network", interleaved(sync), "pass-through"))
    waiting = {
        "pass-through": aio_loop(AioPassThrough()),
        "grpc_breaker, telemetry off": aio_loop(aio.interceptors(BreakerRegistry(), telemetry=False)[0]),
        "grpc_breaker": aio_loop(aio.interceptors(BreakerRegistry())[0]),
        "grpc_breaker, recorded": aio_loop(aio.interceptors(recorded(stack))[0]),
        "grpc_breaker, SDK and metric reader": aio_loop(
            aio.interceptors(BreakerRegistry(), telemetry=full_telemetry())[0]
        ),
        **{name: aio_loop(them[0]) for name, them in aio_interceptor_peers().items()},
    }
    print(table("Asyncio unary, no network", interleaved(waiting), "pass-through"))


if __name__ == "__main__":
    argparse.ArgumentParser(
        prog="python -m benchmarks.interceptors",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    ).parse_args()
    main()
