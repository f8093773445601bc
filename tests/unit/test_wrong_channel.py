"""The sync interceptor around an asyncio channel."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest

from grpc_breaker import CircuitBreakerInterceptor

INSTEAD = "is around an asyncio channel, and guards no call; channels of grpc.aio take grpc_breaker.aio.interceptors()"


def in_asyncio(work: Any) -> None:
    """Give an asyncio channel to a function, in a loop."""

    async def run() -> None:
        async with grpc.aio.insecure_channel("localhost:1") as channel:
            await work(channel)

    asyncio.run(run())


@pytest.mark.parametrize(("kind", "given"), [("unary_unary", b""), ("stream_unary", iter([b""]))])
def test_sync_interceptor_around_an_asyncio_channel(kind: str, given: Any) -> None:
    """A call with one response through the sync interceptor around an asyncio channel raises, and says what is wrong."""

    async def call(channel: Any) -> None:
        wrong = grpc.intercept_channel(channel, interceptor)
        with pytest.raises(AttributeError) as error:
            getattr(wrong, kind)("/pkg.S/M")(given)
        assert any(INSTEAD in note for note in error.value.__notes__)

    interceptor = CircuitBreakerInterceptor(telemetry=False)
    in_asyncio(call)
    assert interceptor.breakers["pkg.S/M"].in_flight == 0


def test_sync_interceptor_around_an_asyncio_channel_and_streams(caplog: pytest.LogCaptureFixture) -> None:
    """A stream through it goes on unguarded, and the log says so once."""

    async def call(channel: Any) -> None:
        wrong = grpc.intercept_channel(channel, interceptor)
        for _ in range(2):
            stream: Any = wrong.unary_stream("/pkg.S/M")(b"")
            stream.cancel()

    interceptor = CircuitBreakerInterceptor(telemetry=False)
    in_asyncio(call)
    (said,) = [record.getMessage() for record in caplog.records if record.name == "grpc_breaker"]
    assert INSTEAD in said
    assert interceptor.breakers["pkg.S/M"].in_flight == 0
