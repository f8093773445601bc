"""Half-open breakers before real servers: one slow probe, streams that answer, servers killed, stopped and started again."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent import futures
from typing import Any

import grpc
import pytest

from grpc_breaker import BreakerPolicy, BreakerRegistry, CircuitBreakerInterceptor, CircuitOpenError, State, aio
from grpc_breaker.testing import EventRecorder, FakeClock
from tests.integration.endings_table import await_settled
from tests.integration.test_abandoned import call_with, start, start_aio
from tests.integration.test_strangers import KINDS, use, use_aio
from tests.support.server import FAR, METHODS, PATIENCE, Server, ServerProcess


@pytest.fixture
def server() -> Iterator[Server]:
    """A real server."""
    with Server() as running:
        yield running


@pytest.fixture
def clock() -> FakeClock:
    """The breakers' clock; the server's is real."""
    return FakeClock()


def registry(clock: FakeClock, **policy: Any) -> BreakerRegistry:
    """One failure opens, one probe at a time; one success closes unless the policy says otherwise."""
    defaults: dict[str, Any] = {"consecutive_failures": 1, "half_open_max_calls": 1, "reset_timeout": 10}
    return BreakerRegistry(default=BreakerPolicy(**defaults, reset_timeout_jitter=0, **policy), clock=clock)


def probe_next(breakers: BreakerRegistry, clock: FakeClock, kind: str) -> None:
    """Open a breaker and let its open period pass."""
    breakers[METHODS[kind]].admit().failure("UNAVAILABLE")
    clock.advance(10)


def await_state(breakers: BreakerRegistry, kind: str, state: State) -> None:
    """Wait until the breaker is in `state`."""
    breaker = breakers[METHODS[kind]]
    reached = threading.Event()
    end = breaker.on_state_change(lambda change: reached.set() if change.state is state else None)
    if breaker.state is not state:
        assert reached.wait(PATIENCE), breaker
    end()


def guard(channel: grpc.Channel, breakers: BreakerRegistry) -> grpc.Channel:
    """The channel with our interceptor."""
    return grpc.intercept_channel(channel, CircuitBreakerInterceptor(breakers, telemetry=False))


@pytest.mark.parametrize("kind", KINDS)
def test_one_probe_of_ten_threads(kind: str, server: Server, clock: FakeClock) -> None:
    """Of ten threads one probe of any kind reaches the server; nine are refused while the server still holds it."""
    breakers = registry(clock)
    probe_next(breakers, clock, kind)
    together = threading.Barrier(10)
    with grpc.insecure_channel(server.target) as channel, futures.ThreadPoolExecutor(10) as pool:
        guarded = guard(channel, breakers)

        def call(_: int) -> str:
            keywords = call_with(server, "held;messages 1")[1]
            together.wait(PATIENCE)
            try:
                use(start(guarded, kind, keywords), kind)
            except CircuitOpenError as refused:
                return str(refused.state)
            return "answered"

        calls = [pool.submit(call, number) for number in range(10)]
        first = futures.as_completed(calls, PATIENCE)
        try:
            refused = [next(first).result() for _ in range(9)]
        finally:
            server.journal.release.set()
        assert refused == ["half_open"] * 9
        assert next(first).result() == "answered"
    await_settled(breakers[METHODS[kind]])
    assert breakers[METHODS[kind]].state is State.CLOSED
    assert server.journal.began() == 1


@pytest.mark.parametrize("kind", KINDS)
def test_one_probe_of_ten_coroutines(kind: str, server: Server, clock: FakeClock) -> None:
    """The same of ten coroutines."""
    breakers = registry(clock)
    probe_next(breakers, clock, kind)

    async def call(channel: Any) -> str:
        try:
            await use_aio(start_aio(channel, kind, call_with(server, "held;messages 1")[1]), kind)
        except CircuitOpenError as refused:
            return str(refused.state)
        return "answered"

    async def story() -> None:
        interceptors = aio.interceptors(breakers, telemetry=False)
        async with grpc.aio.insecure_channel(server.target, interceptors=interceptors) as channel:
            first = asyncio.as_completed([call(channel) for _ in range(10)], timeout=PATIENCE)
            try:
                refused = [await next(first) for _ in range(9)]
            finally:
                server.journal.release.set()
            assert refused == ["half_open"] * 9
            assert await next(first) == "answered"

    asyncio.run(story())
    assert breakers[METHODS[kind]].state is State.CLOSED
    assert server.journal.began() == 1


@pytest.mark.parametrize("kind", KINDS)
def test_probe_that_outlives_its_lease(kind: str, server: Server, clock: FakeClock) -> None:
    """A silent stream was a success then, and the next call finds the breaker closed. After a call of one answer the next
    probe has twice the time, and its answer closes it.
    """
    breakers = registry(clock)
    probe_next(breakers, clock, kind)
    breaker = breakers[METHODS[kind]]
    with grpc.insecure_channel(server.target) as channel, futures.ThreadPoolExecutor(2) as pool:
        guarded = guard(channel, breakers)

        def begin() -> futures.Future[Any]:
            entry, keywords = call_with(server, "held;messages 1")
            ended = pool.submit(lambda: use(start(guarded, kind, keywords), kind))
            assert entry.began.wait(PATIENCE)
            return ended

        calls = [begin()]
        clock.advance(30)
        calls.append(begin())
        if kind in ("us", "ss"):
            assert breaker.state is State.CLOSED
        clock.advance(59)
        server.journal.release.set()
        for call in calls:
            call.result(PATIENCE)
        await_settled(breaker)
    assert breaker.state is State.CLOSED


@pytest.mark.parametrize("kind", ["us", "ss"])
@pytest.mark.parametrize("successes", [1, 2])
def test_late_end_of_an_answered_probe(kind: str, successes: int, server: Server, clock: FakeClock) -> None:
    """A probe stream that answers and fails later reopens a breaker that still probes, and no breaker that has closed."""
    breakers = registry(clock, half_open_successes=successes)
    probe_next(breakers, clock, kind)
    events = EventRecorder(breakers)
    breaker = breakers[METHODS[kind]]
    with grpc.insecure_channel(server.target) as channel:
        call = start(guard(channel, breakers), kind, call_with(server, "headers;held;error UNAVAILABLE ill")[1])
        if successes == 1:
            await_state(breakers, kind, State.CLOSED)
        else:
            pause = threading.Event()
            tries = iter(range(int(PATIENCE * 1000)))
            while breaker.snapshot()["window"]["calls"] == 0 and next(tries, None) is not None:  # no event says so
                pause.wait(0.001)
            window = breaker.snapshot()["window"]
            assert (breaker.state, window["calls"], window["failures"]) == (State.HALF_OPEN, 1, 0)
        assert call.is_active()
        server.journal.release.set()
        with pytest.raises(grpc.RpcError):
            list(call)
        await_settled(breaker)
    if successes == 1:
        assert events.states == [State.HALF_OPEN, State.CLOSED]
        assert breaker.snapshot()["totals"]["stale"] == 1
    else:
        assert events.states == [State.HALF_OPEN, State.OPEN]
        assert events.changes[-1].reason == "probe_failed"


@pytest.mark.parametrize("kind", ["us", "ss"])
def test_probe_stream_that_fails_at_once(kind: str, server: Server, clock: FakeClock) -> None:
    """A probe stream whose headers come with its failure never closes the breaker, sync or asyncio."""
    for world in ("sync", "aio"):
        breakers = registry(clock)
        probe_next(breakers, clock, kind)
        events = EventRecorder(breakers)
        keywords = call_with(server, "headers;error UNAVAILABLE ill")[1]
        with pytest.raises(grpc.RpcError, match="ill"):
            if world == "sync":
                with grpc.insecure_channel(server.target) as channel:
                    list(start(guard(channel, breakers), kind, keywords))
            else:
                asyncio.run(one_aio(server.target, breakers, kind, keywords))
        await_settled(breakers[METHODS[kind]])
        assert events.states == [State.HALF_OPEN, State.OPEN]


@pytest.mark.parametrize("kind", ["us", "ss"])
def test_headers_of_a_stream_close_the_breaker(kind: str, server: Server, clock: FakeClock) -> None:
    """A stream that is a probe closes the breaker when its headers come, while it is still open and silent."""
    breakers = registry(clock)
    probe_next(breakers, clock, kind)
    with grpc.insecure_channel(server.target) as channel:
        call = start(guard(channel, breakers), kind, call_with(server, "headers;hang")[1])
        await_state(breakers, kind, State.CLOSED)
        assert call.is_active()
        call.cancel()


@pytest.mark.parametrize("kind", ["us", "ss"])
def test_headers_of_an_aio_stream_close_the_breaker(kind: str, server: Server, clock: FakeClock) -> None:
    """The same in asyncio."""
    breakers = registry(clock)
    probe_next(breakers, clock, kind)

    async def story() -> None:
        interceptors = aio.interceptors(breakers, telemetry=False)
        async with grpc.aio.insecure_channel(server.target, interceptors=interceptors) as channel:
            call = start_aio(channel, kind, call_with(server, "headers;hang")[1])
            await asyncio.to_thread(await_state, breakers, kind, State.CLOSED)
            assert not call.done()
            call.cancel()

    asyncio.run(story())


def test_task_group_that_is_refused_a_call(server: Server, clock: FakeClock) -> None:
    """A page makes its calls in a TaskGroup, more than there are slots: one is refused, and the group cancels the probe.
    The breaker closes all the same, once no probe has failed for `probe_timeout`.
    """
    breakers = registry(clock)
    probe_next(breakers, clock, "uu")
    breaker = breakers[METHODS["uu"]]

    async def page(get: Any, script: bytes) -> None:
        async with asyncio.TaskGroup() as calls:
            for _ in range(2):
                calls.create_task(use_aio(get(script, timeout=FAR), "uu"))

    async def story() -> None:
        interceptors = aio.interceptors(breakers, telemetry=False)
        async with grpc.aio.insecure_channel(server.target, interceptors=interceptors) as channel:
            get = channel.unary_unary(METHODS["uu"])
            for state in (State.HALF_OPEN, State.CLOSED):
                with pytest.RaisesGroup(CircuitOpenError):
                    await page(get, b"hang")
                assert breaker.state is state
                clock.advance(30)
            await page(get, b"ok")

    asyncio.run(story())


async def one_aio(target: str, breakers: BreakerRegistry, kind: str, keywords: dict[str, Any]) -> Any:
    """One asyncio call on a channel of its own."""
    interceptors = aio.interceptors(breakers, telemetry=False)
    async with grpc.aio.insecure_channel(target, interceptors=interceptors) as channel:
        return await use_aio(start_aio(channel, kind, keywords), kind)


def test_killed_and_restarted(clock: FakeClock) -> None:
    """A server that is killed opens the breaker; once it is back, the next probe closes it."""
    breakers = registry(clock)
    with ServerProcess() as server, grpc.insecure_channel(server.target) as channel:
        method = guard(channel, breakers).unary_unary(METHODS["uu"])
        assert method(b"ok", timeout=FAR) == b"answer"
        server.kill()
        with pytest.raises(grpc.RpcError) as failed:
            method(b"ok", timeout=FAR)
        assert failed.value.code() is grpc.StatusCode.UNAVAILABLE
        with pytest.raises(CircuitOpenError):
            method(b"ok", timeout=FAR)
        server.restart()
        clock.advance(10)
        assert method(b"ok", timeout=FAR, wait_for_ready=True) == b"answer"
    assert breakers[METHODS["uu"]].state is State.CLOSED


def test_stopped_server_opens_by_deadlines(clock: FakeClock) -> None:
    """A server that hangs (SIGSTOP) opens the breaker through the deadlines of its calls."""
    breakers = registry(clock)
    with ServerProcess() as server, grpc.insecure_channel(server.target) as channel:
        method = guard(channel, breakers).unary_unary(METHODS["uu"])
        assert method(b"ok", timeout=FAR) == b"answer"
        server.pause()
        with pytest.raises(grpc.RpcError) as failed:
            method(b"ok", timeout=0.2)
        assert failed.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        with pytest.raises(CircuitOpenError) as refused:
            method(b"ok", timeout=0.2)
        assert refused.value.condition == "consecutive_failures"


def test_killed_and_restarted_in_asyncio(clock: FakeClock) -> None:
    """A killed server opens the breaker of an asyncio channel; once it is back the next probe closes it."""
    breakers = registry(clock)
    events = EventRecorder(breakers)

    async def story(server: ServerProcess) -> None:
        interceptors = aio.interceptors(breakers, telemetry=False)
        async with grpc.aio.insecure_channel(server.target, interceptors=interceptors) as channel:
            method: Any = channel.unary_unary(METHODS["uu"])
            assert await method(b"ok", timeout=FAR) == b"answer"
            await asyncio.to_thread(server.kill)
            with pytest.raises(grpc.aio.AioRpcError) as failed:
                await method(b"ok", timeout=FAR)
            assert failed.value.code() is grpc.StatusCode.UNAVAILABLE
            with pytest.raises(CircuitOpenError):
                await method(b"ok", timeout=FAR)
            await asyncio.to_thread(server.restart)
            with pytest.raises(CircuitOpenError):
                await method(b"ok", timeout=FAR)
            clock.advance(10)
            assert await method(b"ok", timeout=FAR, wait_for_ready=True) == b"answer"

    with ServerProcess() as server:
        asyncio.run(asyncio.wait_for(story(server), 2 * PATIENCE))
    assert events.states == [State.OPEN, State.HALF_OPEN, State.CLOSED]


def test_stopped_server_in_asyncio(clock: FakeClock) -> None:
    """A server that hangs (SIGSTOP) opens the breaker by deadlines, and closes it by a probe once it goes on."""
    breakers = registry(clock)
    events = EventRecorder(breakers)

    async def story(server: ServerProcess) -> None:
        interceptors = aio.interceptors(breakers, telemetry=False)
        async with grpc.aio.insecure_channel(server.target, interceptors=interceptors) as channel:
            method: Any = channel.unary_unary(METHODS["uu"])
            assert await method(b"ok", timeout=FAR) == b"answer"
            server.pause()
            with pytest.raises(grpc.aio.AioRpcError) as failed:
                await method(b"ok", timeout=0.2)
            assert failed.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            with pytest.raises(CircuitOpenError):
                await method(b"ok", timeout=FAR)
            server.resume()
            clock.advance(10)
            assert await method(b"ok", timeout=FAR) == b"answer"

    with ServerProcess() as server:
        asyncio.run(asyncio.wait_for(story(server), 2 * PATIENCE))
    assert events.states == [State.OPEN, State.HALF_OPEN, State.CLOSED]
