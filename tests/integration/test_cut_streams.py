"""How streams count that a real server cuts: by when they were answered, how long they lasted, and what they ended with."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import grpc
import pytest

from grpc_breaker import BreakerPolicy, BreakerRegistry, CircuitBreakerInterceptor, aio
from grpc_breaker.testing import FakeClock
from tests.integration.endings_table import await_settled
from tests.integration.test_abandoned import call_with, start, start_aio
from tests.support.server import METHODS, Server

STREAMS = 4
WINDOW = 30.0
PAUSE = "wait 0.5"
"""Seconds for which a server that has answered goes on: ten times as long as headers must stay alone."""

TOGETHER = "Cancelling all calls"
"""What a server of grpcio says to all calls as it stops."""

LASTED = 2 * WINDOW
SHORT = WINDOW / 2

ENDS = [
    (f"messages 1;{PAUSE};error UNAVAILABLE bye", LASTED, {("success", "UNAVAILABLE"): 4}),
    (f"headers;{PAUSE};error CANCELLED bye", LASTED, {("success", "CANCELLED"): 4}),
    (f"messages 1;{PAUSE};error INTERNAL ill", LASTED, {("failure", "INTERNAL"): 4}),
    (f"messages 1;{PAUSE};error UNAVAILABLE bye", SHORT, {("failure", "UNAVAILABLE"): 4}),
    (
        f"messages 1;{PAUSE};error UNAVAILABLE {TOGETHER}",
        SHORT,
        {("failure", "UNAVAILABLE"): 1, ("ignored", "UNAVAILABLE"): 3},
    ),
    (f"messages 1;{PAUSE};error INTERNAL ill", SHORT, {("failure", "INTERNAL"): 4}),
    (f"{PAUSE};error UNAVAILABLE bye", LASTED, {("failure", "UNAVAILABLE"): 4}),
    (
        f"{PAUSE};error UNAVAILABLE {TOGETHER}",
        SHORT,
        {("failure", "UNAVAILABLE"): 1, ("ignored", "UNAVAILABLE"): 3},
    ),
    (f"{PAUSE};error UNAVAILABLE {TOGETHER}", LASTED, {("ignored", "UNAVAILABLE"): 4}),
    (f"{PAUSE};headers;error UNAVAILABLE bye", SHORT, {("failure", "UNAVAILABLE"): 4}),
    (f"messages 1;{PAUSE};error DEADLINE_EXCEEDED", LASTED, {("success", "DEADLINE_EXCEEDED"): 4}),
    (f"messages 1;{PAUSE};error DEADLINE_EXCEEDED", SHORT, {("failure", "DEADLINE_EXCEEDED"): 4}),
    (f"{PAUSE};error DEADLINE_EXCEEDED", LASTED, {("failure", "DEADLINE_EXCEEDED"): 4}),
]
"""What the server does with each of the streams, how long they last by the breaker's clock, and what they count as."""


def watched() -> tuple[BreakerRegistry, FakeClock]:
    """Breakers that never open, and their clock."""
    policy = BreakerPolicy(consecutive_failures=1000, window_seconds=WINDOW)
    return BreakerRegistry(default=policy, clock=(clock := FakeClock())), clock


@pytest.mark.parametrize("kind", ["us", "ss"])
@pytest.mark.parametrize(("script", "lasts", "counts"), ENDS)
def test_cut_streams(kind: str, script: str, lasts: float, counts: dict[Any, int], server: Server) -> None:
    """A stream that was answered is served when it is cut late; of those that are lost early together, one counts."""
    breakers, clock = watched()
    with grpc.insecure_channel(server.target) as channel:
        guarded = grpc.intercept_channel(channel, CircuitBreakerInterceptor(breakers, telemetry=False))
        streams = [start(guarded, kind, call_with(server, script)[1]) for _ in range(STREAMS)]
        clock.advance(lasts)
        for stream in streams:
            with suppress(grpc.RpcError):
                list(stream)
        await_settled(breakers[METHODS[kind]])
    assert breakers[METHODS[kind]].tallies() == counts


class Wrapping(grpc.aio.UnaryStreamClientInterceptor):
    """Hands on the messages of a stream by a generator, as those that trace calls do."""

    async def intercept_unary_stream(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        call = await continuation(client_call_details, request)

        async def messages() -> AsyncIterator[bytes]:
            async for message in call:
                yield message

        return messages()


@pytest.mark.parametrize("kind", ["us", "ss", "us, wrapped"])
@pytest.mark.parametrize(("script", "lasts", "counts"), ENDS)
def test_cut_streams_of_asyncio(kind: str, script: str, lasts: float, counts: dict[Any, int], server: Server) -> None:
    """The same in asyncio, also where an interceptor wraps the stream."""
    kind, _, wrapped = kind.partition(", ")
    breakers, clock = watched()

    async def read(stream: Any) -> None:
        with suppress(grpc.RpcError):
            async for _ in stream:
                pass

    async def story() -> None:
        inner = [Wrapping()] if wrapped else []
        interceptors = [*aio.interceptors(breakers, telemetry=False), *inner]
        async with grpc.aio.insecure_channel(server.target, interceptors=interceptors) as channel:
            streams = [start_aio(channel, kind, call_with(server, script)[1]) for _ in range(STREAMS)]
            reading = [asyncio.ensure_future(read(stream)) for stream in streams]
            await asyncio.sleep(0)
            assert breakers[METHODS[kind]].in_flight == STREAMS
            clock.advance(lasts)
            await asyncio.gather(*reading)

    asyncio.run(story())
    await_settled(breakers[METHODS[kind]])
    assert breakers[METHODS[kind]].tallies() == counts
