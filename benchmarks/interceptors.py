"""What the interceptors add to pass-through ones, without a network, and to a real call on loopback."""

from __future__ import annotations

import asyncio
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import grpc
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider

from benchmarks.timing import Loop, interleaved, table
from grpc_breaker import BreakerRegistry, CircuitBreakerInterceptor, aio
from grpc_breaker.telemetry import BreakerTelemetry
from tests.support.server import UNARY_STREAM, UNARY_UNARY, ServerProcess


class Details:
    """Call details."""

    method = "/pkg.Service/Method"
    timeout = 1.0


class Finished:
    """A blocking call that has ended well, as grpcio returns it."""

    def done(self) -> bool:
        return True

    def code(self) -> grpc.StatusCode:
        return grpc.StatusCode.OK

    def exception(self) -> None:
        return None


class AioFinished:
    """An asyncio call that has ended well."""

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
    finished, details = Finished(), Details()

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


def real_calls(target: str, interceptor: Any, path: str, request: bytes) -> Loop:
    """Whole calls on loopback."""
    channel = grpc.intercept_channel(grpc.insecure_channel(target), interceptor)
    if path == UNARY_UNARY:
        method: Any = channel.unary_unary(path)
        return lambda count: [method(request) for _ in range(count)] and None  # type: ignore[func-returns-value]
    stream: Any = channel.unary_stream(path)
    return lambda count: [sum(1 for _ in stream(request)) for _ in range(count)] and None  # type: ignore[func-returns-value]


def cpu_share(target: str, title: str, path: str, request: bytes, count: int) -> str:
    """The share of a client's CPU time that the breaker takes in whole calls; the server is a process of its own."""
    times: dict[str, list[float]] = {"pass-through": [], "grpc_breaker": []}
    loops = {
        "pass-through": real_calls(target, PassThrough(), path, request),
        "grpc_breaker": real_calls(target, CircuitBreakerInterceptor(BreakerRegistry()), path, request),
    }
    for turn in range(60):
        for name in sorted(loops, reverse=bool(turn % 2)):
            began = time.process_time()
            loops[name](count)
            times[name].append((time.process_time() - began) / count * 1e6)
    bare, ours = (statistics.median(times[name]) for name in ("pass-through", "grpc_breaker"))
    pairs = zip(times["grpc_breaker"], times["pass-through"], strict=True)
    more = statistics.median(mine - other for mine, other in pairs)
    return (
        f"### CPU of the client for {title} on loopback\n\n"
        f"{bare:.0f} µs pass-through, {ours:.0f} µs guarded; the median of {len(times['grpc_breaker'])} pairs is "
        f"{more:+.1f} µs, {100 * more / bare:+.1f} %.\n"
    )


def python_calls(loop: Loop, count: int = 1) -> int:
    """How many functions, Python's and C's, the calling thread enters in so many passes."""
    entered = 0

    def enter(frame: object, event: str, argument: object) -> None:
        nonlocal entered
        entered += event in {"call", "c_call"}

    loop(1)
    sys.setprofile(enter)
    try:
        loop(count)
    finally:
        sys.setprofile(None)
    return entered


def per_message(target: str) -> str:
    """What a message of a stream costs more. No clock is fine enough, so the functions that are entered are counted."""
    entered: dict[str, list[int]] = {}
    for name, interceptor in (("pass-through", PassThrough()), ("grpc_breaker", CircuitBreakerInterceptor())):
        entered[name] = [
            python_calls(real_calls(target, interceptor, UNARY_STREAM, b"messages %d" % messages))
            for messages in (1_000, 2_000)
        ]
    lines = ["### Functions entered by the reader of a stream", "", "| | 1,000 messages | 2,000 messages | a message |"]
    lines.append("|---|---|---|---|")
    for name, (fewer, more) in entered.items():
        lines.append(f"| {name} | {fewer} | {more} | {(more - fewer) / 1000:.2f} |")
    return "\n".join([*lines, ""])


def main() -> None:
    """Print every table."""
    guarded = {
        "pass-through": PassThrough(),
        "grpc_breaker, telemetry off": CircuitBreakerInterceptor(BreakerRegistry(), telemetry=False),
        "grpc_breaker": CircuitBreakerInterceptor(BreakerRegistry()),
        "grpc_breaker, SDK and metric reader": CircuitBreakerInterceptor(BreakerRegistry(), telemetry=full_telemetry()),
    }
    sync = {name: sync_loop(it) for name, it in guarded.items()}
    print(table("Sync unary, no network", interleaved(sync), "pass-through"))
    waiting = {
        "pass-through": aio_loop(AioPassThrough()),
        "grpc_breaker, telemetry off": aio_loop(aio.interceptors(BreakerRegistry(), telemetry=False)[0]),
        "grpc_breaker": aio_loop(aio.interceptors(BreakerRegistry())[0]),
        "grpc_breaker, SDK and metric reader": aio_loop(
            aio.interceptors(BreakerRegistry(), telemetry=full_telemetry())[0]
        ),
    }
    print(table("Asyncio unary, no network", interleaved(waiting), "pass-through"))
    server = ServerProcess()
    target = server.target
    for title, path, request in (
        ("A whole unary call on loopback", UNARY_UNARY, b"ok"),
        ("A whole stream of 2,000 messages on loopback", UNARY_STREAM, b"messages 2000"),
    ):
        calls = {
            "pass-through": real_calls(target, PassThrough(), path, request),
            "grpc_breaker": real_calls(target, CircuitBreakerInterceptor(BreakerRegistry()), path, request),
        }
        print(table(title, interleaved(calls, seconds=0.2, rounds=15), "pass-through"))
    print(cpu_share(target, "a whole call", UNARY_UNARY, b"ok", 200))
    print(cpu_share(target, "a stream of 2,000 messages", UNARY_STREAM, b"messages 2000", 1))
    print(per_message(target))
    server.kill()


if __name__ == "__main__":
    main()
