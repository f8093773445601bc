"""What begins while a probe is made inherits its context, and must not pass for the probe itself.

A probe passes a registry that guards a channel twice, which a context variable says. Threads and tasks of grpcio's that
begin meanwhile keep that context as long as they live: the application's calls on them are calls like any other.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextvars import Context, copy_context
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


class Inside(grpc.UnaryUnaryClientInterceptor):  # type: ignore[misc]
    """A sync interceptor inside ours that does with a call what `act` does."""

    def __init__(self, act: Callable[[Callable[[], Any]], Any]) -> None:
        self.act = act

    def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        return self.act(lambda: continuation(client_call_details, request))


class InsideAio(grpc.aio.UnaryUnaryClientInterceptor):  # type: ignore[misc]
    """The same in asyncio."""

    def __init__(self, act: Callable[[Callable[[], Any]], Any]) -> None:
        self.act = act

    async def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        return await self.act(lambda: continuation(client_call_details, request))


async def ended(call: Any) -> str:
    """How an asyncio call ends."""
    try:
        return str(await call)
    except Refused:
        return "refused"
    except grpc.RpcError as error:
        return error.code().name


def guard_aio(server: Server, *interceptors: Any) -> grpc.aio.Channel:
    """An asyncio channel with interceptors."""
    return grpc.aio.insecure_channel(server.target, interceptors=list(interceptors))


def test_tasks_that_an_asyncio_probe_begins(server: Server, breakers: BreakerRegistry, clock: FakeClock) -> None:
    """Twenty calls that an interceptor begins in tasks while it makes the one probe are refused, and the probe closes."""
    breaker = ready_for_a_probe(breakers, clock, "uu")
    seen: list[str] = []

    async def story() -> None:
        first = iter([True])

        async def begin_twenty(make: Callable[[], Any]) -> Any:
            if next(first, False):
                others = [asyncio.ensure_future(ended(method(b"ok", timeout=PATIENCE))) for _ in range(20)]
                seen.extend(await asyncio.gather(*others))
            return await make()

        channel = guard_aio(server, *aio.interceptors(breakers), InsideAio(begin_twenty))
        method: Any = channel.unary_unary(METHODS["uu"])
        assert await method(b"ok", timeout=PATIENCE) == b"answer"
        await channel.close()

    asyncio.run(story())
    assert seen == ["refused"] * 20
    totals = breaker.snapshot()["totals"]
    assert (breaker.state, totals["rejected"], totals["success"]) == (State.CLOSED, 20, 1)


@pytest.mark.parametrize("at_once", [True, False], ids=["in tasks", "in turn"])
def test_probe_that_is_made_twenty_times_in_asyncio(
    at_once: bool, server: Server, breakers: BreakerRegistry, clock: FakeClock
) -> None:
    """Where an interceptor between two of ours repeats the one probe, one of its calls goes to the server."""
    breaker = ready_for_a_probe(breakers, clock, "uu")
    seen: list[str] = []

    async def story() -> None:
        async def one(make: Callable[[], Any]) -> str:
            return await ended(await make())

        async def repeat(make: Callable[[], Any]) -> Any:
            call = await make() if not at_once else None
            if at_once:
                seen.extend(await asyncio.gather(*(one(make) for _ in range(20))))
            else:
                seen.extend([await one(make) for _ in range(19)])
            return call or await make()

        interceptors = [*aio.interceptors(breakers), InsideAio(repeat), *aio.interceptors(breakers)]
        channel = guard_aio(server, *interceptors)
        seen.append(await ended(channel.unary_unary(METHODS["uu"])(b"error UNAVAILABLE ill", timeout=PATIENCE)))
        await channel.close()

    asyncio.run(story())
    assert sorted(seen) == ["UNAVAILABLE", *["refused"] * (20 if at_once else 19)]
    assert (breaker.state, breaker.snapshot()["totals"]["failure"]) == (State.OPEN, 2)


def test_probe_that_is_made_twenty_times(server: Server, breakers: BreakerRegistry, clock: FakeClock) -> None:
    """The same of sync interceptors, in turn and on threads that inherit the context."""
    breaker = ready_for_a_probe(breakers, clock, "uu")
    seen: list[Any] = []

    def repeat(make: Callable[[], Any]) -> Any:
        def on_a_thread(context: Context) -> None:
            seen.append(context.run(make))

        threads = [threading.Thread(target=on_a_thread, args=(copy_context(),)) for _ in range(10)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)
        call = make()
        seen.extend(make() for _ in range(10))
        return call

    with grpc.insecure_channel(server.target) as bare:
        ours = CircuitBreakerInterceptor(breakers)
        guarded = grpc.intercept_channel(bare, ours, Inside(repeat), ours)
        with pytest.raises(grpc.RpcError, match="ill"):
            guarded.unary_unary(METHODS["uu"])(b"error UNAVAILABLE ill", timeout=PATIENCE)
    assert [type(call) is type(seen[0]) and isinstance(call, Refused) for call in seen] == [True] * 20
    assert (breaker.state, breaker.snapshot()["totals"]["failure"]) == (State.OPEN, 2)
