"""What begins while a probe is made inherits its context, and must not pass for the probe itself.

A probe passes a registry that guards a channel twice, which a context variable says. Threads and tasks of grpcio's that
begin meanwhile keep that context as long as they live: the application's calls on them are calls like any other.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import grpc
import pytest

from grpc_breaker import BreakerPolicy, BreakerRegistry, CircuitBreaker, CircuitBreakerInterceptor, State, aio
from grpc_breaker import CircuitOpenError as Refused
from grpc_breaker.testing import FakeClock
from tests.integration.endings_table import await_settled
from tests.support.server import METHODS, PATIENCE, Server


@pytest.fixture
def clock() -> FakeClock:
    """The registry's clock."""
    return FakeClock()


@pytest.fixture
def breakers(clock: FakeClock) -> BreakerRegistry:
    """A half-open breaker lets one probe pass."""
    return BreakerRegistry(default=BreakerPolicy(consecutive_failures=1, half_open_max_calls=1), clock=clock)


def ready_for_a_probe(breakers: BreakerRegistry, clock: FakeClock, kind: str) -> CircuitBreaker:
    """The kind's breaker, open, its period over."""
    breaker = breakers[METHODS[kind]]
    breaker.admit().failure()
    clock.advance(100)
    return breaker


def outcome(call: Callable[[], Any]) -> str:
    """Whether a call was refused."""
    return "refused" if isinstance(call(), Refused) else "passed"


def test_callbacks_on_a_thread_that_a_probe_began(server: Server, breakers: BreakerRegistry, clock: FakeClock) -> None:
    """The channel's own thread began with the probe. Callbacks that make calls there are refused while it is under way."""
    breaker = ready_for_a_probe(breakers, clock, "us")
    seen: list[str] = []
    with grpc.insecure_channel(server.target) as bare:
        guarded = grpc.intercept_channel(bare, CircuitBreakerInterceptor(breakers)).unary_stream(METHODS["us"])
        probe = guarded(b"hang", timeout=PATIENCE)
        heard = threading.Event()

        def again(_: Any) -> None:
            seen.extend(outcome(lambda: guarded(b"ok", timeout=PATIENCE)) for _ in range(3))
            heard.set()

        bare.unary_unary(METHODS["uu"]).future(b"ok", timeout=PATIENCE).add_done_callback(again)
        assert heard.wait(PATIENCE)
        assert (seen, breaker.state) == (["refused"] * 3, State.HALF_OPEN)
        probe.cancel()
    await_settled(breaker)


@pytest.mark.parametrize("kind", ["su", "ss"])
def test_requests_of_a_probe_that_make_calls(
    kind: str, server: Server, breakers: BreakerRegistry, clock: FakeClock
) -> None:
    """An iterator of requests that calls the very method being probed is refused: one probe is one call."""
    breaker = ready_for_a_probe(breakers, clock, kind)
    seen: list[str] = []
    with grpc.insecure_channel(server.target) as bare:
        guarded = grpc.intercept_channel(bare, CircuitBreakerInterceptor(breakers))
        method = guarded.stream_unary(METHODS[kind]) if kind == "su" else guarded.stream_stream(METHODS[kind])

        def requests() -> Iterator[bytes]:
            start = method.future if kind == "su" else method
            seen.append(outcome(lambda: start(iter([b"ok"]), timeout=PATIENCE)))
            yield b"ok"

        answer = method(requests(), timeout=PATIENCE)
        assert kind == "su" or list(answer) == []
        await_settled(breaker)
    assert (seen, breaker.state) == (["refused"], State.CLOSED)


@pytest.mark.parametrize("kind", ["su", "ss"])
def test_requests_of_an_asyncio_probe_that_make_calls(
    kind: str, server: Server, breakers: BreakerRegistry, clock: FakeClock
) -> None:
    """The same in asyncio."""
    breaker = ready_for_a_probe(breakers, clock, kind)
    seen: list[str] = []

    async def story() -> None:
        async with grpc.aio.insecure_channel(server.target, interceptors=aio.interceptors(breakers)) as channel:
            method: Any = channel.stream_unary if kind == "su" else channel.stream_stream

            async def requests() -> AsyncIterator[bytes]:
                nested = method(METHODS[kind])(iter([b"ok"]), timeout=PATIENCE)
                seen.append("refused" if (await nested.code()) is grpc.StatusCode.UNAVAILABLE else "passed")
                yield b"ok"

            call = method(METHODS[kind])(requests(), timeout=PATIENCE)
            assert (await call if kind == "su" else [message async for message in call]) in (b"answer", [])
            await asyncio.to_thread(await_settled, breaker)

    asyncio.run(story())
    assert (seen, breaker.state) == (["refused"], State.CLOSED)
