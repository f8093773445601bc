"""Servers that answer before the client has written everything. In asyncio the write that fails shows as INTERNAL first."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from grpc_breaker import BreakerPolicy, BreakerRegistry, CircuitBreakerInterceptor, State, aio
from tests.integration.endings_table import await_settled
from tests.support.server import METHODS, PATIENCE, Server

CALLS = 60


def requests(script: str) -> Iterator[bytes]:
    """More than the server reads."""
    return iter([script.encode(), *[b"x" * 2000] * 8])


def call_all(kind: str, script: str, server: Server, breakers: BreakerRegistry) -> Counter[str]:
    """Make many such calls; returns what the application saw."""
    saw: Counter[str] = Counter()
    with grpc.insecure_channel(server.target) as bare:
        channel = grpc.intercept_channel(bare, CircuitBreakerInterceptor(breakers))
        method: Any = (channel.stream_unary if kind == "su" else channel.stream_stream)(METHODS[kind])
        for _ in range(CALLS):
            try:
                answer = method(requests(script), timeout=PATIENCE)
                saw["OK" if kind == "su" else str(len(list(answer)))] += 1
            except grpc.RpcError as error:
                saw[error.code().name] += 1
    return saw


async def call_all_in_asyncio(kind: str, script: str, server: Server, breakers: BreakerRegistry) -> Counter[str]:
    """The same in asyncio."""
    saw: Counter[str] = Counter()
    async with grpc.aio.insecure_channel(server.target, interceptors=aio.interceptors(breakers)) as channel:
        method: Any = (channel.stream_unary if kind == "su" else channel.stream_stream)(METHODS[kind])
        for _ in range(CALLS):
            try:
                call = method(requests(script), timeout=PATIENCE)
                saw["OK" if kind == "su" and await call else str(len([message async for message in call]))] += 1
            except grpc.RpcError as error:
                saw[error.code().name] += 1
            except asyncio.CancelledError:  # grpcio's own way to end such a call now and then, with any interceptor
                saw["cancelled"] += 1
        await asyncio.to_thread(await_settled, breakers[METHODS[kind]])
    return saw


@pytest.mark.parametrize("script", ["ok", "error NOT_FOUND no", "error UNAVAILABLE ill"])
@pytest.mark.parametrize("kind", ["su", "ss"])
@pytest.mark.parametrize("world", ["sync", "asyncio"])
def test_early_answer_is_the_answer(world: str, kind: str, script: str, server: Server) -> None:
    """An answer that comes before the requests are written counts as what it says, not as the write that failed."""
    breakers = BreakerRegistry(
        default=BreakerPolicy(consecutive_failures=None, failure_threshold=10 * CALLS, failure_rate=None)
    )
    if world == "sync":
        saw = call_all(kind, script, server, breakers)
    else:
        saw = asyncio.run(call_all_in_asyncio(kind, script, server, breakers))
    breaker = breakers[METHODS[kind]]
    await_settled(breaker)
    totals = breaker.snapshot()["totals"]
    assert (breaker.state, breaker.in_flight) == (State.CLOSED, 0)
    if world == "sync":  # in asyncio grpcio's own status can reach the application, with no interceptor as well
        assert saw["INTERNAL"] == 0
    expected = "failure" if "UNAVAILABLE" in script else "success"
    assert totals[expected] + totals["ignored"] == CALLS
    assert totals[expected] > CALLS / 2
