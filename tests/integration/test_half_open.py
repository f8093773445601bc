"""Probing: who passes, who is refused, and what counts as the server's answer, against real servers."""

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
from tests.support.echo import PATIENCE, STREAM_STREAM, UNARY_STREAM, UNARY_UNARY, Process, Server


@pytest.fixture
def server() -> Iterator[Server]:
    """A real server."""
    started = Server()
    yield started
    started.stop()


@pytest.fixture
def clock() -> FakeClock:
    """The breakers' clock; the server's is real."""
    return FakeClock()


@pytest.fixture
def breakers(clock: FakeClock) -> BreakerRegistry:
    """One failure opens, one probe at a time, one success closes."""
    policy = BreakerPolicy(consecutive_failures=1, half_open_max_calls=1, reset_timeout=10, reset_timeout_jitter=0)
    return BreakerRegistry(default=policy, clock=clock)


def guarded(target: str, breakers: BreakerRegistry) -> grpc.Channel:
    """A channel with the interceptor."""
    return grpc.intercept_channel(grpc.insecure_channel(target), CircuitBreakerInterceptor(breakers, telemetry=False))


def await_state(breakers: BreakerRegistry, method: str, state: State) -> None:
    """Wait until the breaker is in `state`: its callbacks run on the channel's thread."""
    reached = threading.Event()
    breaker = breakers[method]
    end = breaker.on_state_change(lambda change: reached.set() if change.state is state else None)
    if breaker.state is not state:
        assert reached.wait(PATIENCE), breaker
    end()


def open_and_wait(breakers: BreakerRegistry, clock: FakeClock, method: str) -> None:
    """Open a breaker and let its open period pass."""
    breakers[method].admit().failure("UNAVAILABLE")
    clock.advance(10)


def test_ten_threads_one_slow_probe(server: Server, breakers: BreakerRegistry, clock: FakeClock) -> None:
    """Of ten threads at a half-open breaker one passes; nine are refused while it is still under way."""
    open_and_wait(breakers, clock, UNARY_UNARY)
    channel = guarded(server.target, breakers)
    method = channel.unary_unary(UNARY_UNARY)
    gate = threading.Barrier(10)

    def call(_: int) -> str:
        gate.wait(PATIENCE)
        try:
            return str(method(b"held", timeout=PATIENCE).decode())
        except CircuitOpenError as refused:
            return str(refused.state)

    with futures.ThreadPoolExecutor(10) as pool:
        calls = [pool.submit(call, n) for n in range(10)]
        ended = futures.wait(calls, PATIENCE, return_when=futures.FIRST_COMPLETED).done
        while len(ended) < 9:
            ended = futures.wait(set(calls) - ended, PATIENCE, futures.FIRST_COMPLETED).done | ended
        assert [it.result() for it in ended] == ["half_open"] * 9
        server.echo.release.set()
        assert [it.result(PATIENCE) for it in set(calls) - ended] == ["answer"]
    assert breakers[UNARY_UNARY].state is State.CLOSED
    assert server.echo.calls == 1
    channel.close()


def test_ten_coroutines_one_slow_probe(server: Server, breakers: BreakerRegistry, clock: FakeClock) -> None:
    """Of ten coroutines at a half-open breaker one passes; nine are refused while it is still under way."""

    async def story() -> None:
        open_and_wait(breakers, clock, UNARY_UNARY)
        interceptors = aio.interceptors(breakers, telemetry=False)
        async with grpc.aio.insecure_channel(server.target, interceptors=interceptors) as channel:
            method = channel.unary_unary(UNARY_UNARY)

            async def call() -> str:
                try:
                    return str((await method(b"held", timeout=PATIENCE)).decode())
                except CircuitOpenError as refused:
                    assert isinstance(refused, grpc.aio.AioRpcError)
                    return str(refused.state)

            pending = {asyncio.ensure_future(call()) for _ in range(10)}
            results: list[str] = []
            while len(results) < 9:
                done, pending = await asyncio.wait(pending, timeout=PATIENCE, return_when=asyncio.FIRST_COMPLETED)
                results += [task.result() for task in done]
            assert results == ["half_open"] * 9
            server.echo.release.set()
            assert [await task for task in pending] == ["answer"]

    asyncio.run(story())
    assert breakers[UNARY_UNARY].state is State.CLOSED
    assert server.echo.calls == 1


@pytest.mark.parametrize("method", [UNARY_STREAM, STREAM_STREAM])
def test_headers_of_a_stream_close_the_breaker(
    method: str, server: Server, breakers: BreakerRegistry, clock: FakeClock
) -> None:
    """A stream that is a probe closes the breaker when its headers come, while it is still open and silent."""
    open_and_wait(breakers, clock, method)
    channel = guarded(server.target, breakers)
    call: Any
    if method == UNARY_STREAM:
        call = channel.unary_stream(method)(b"headers hang")
    else:
        call = channel.stream_stream(method)(iter([b"headers hang"]))
    await_state(breakers, method, State.CLOSED)
    assert call.is_active()
    call.cancel()
    channel.close()


@pytest.mark.parametrize("method", [UNARY_STREAM, STREAM_STREAM])
def test_headers_of_an_aio_stream_close_the_breaker(
    method: str, server: Server, breakers: BreakerRegistry, clock: FakeClock
) -> None:
    """The same in asyncio."""

    async def story() -> None:
        open_and_wait(breakers, clock, method)
        interceptors = aio.interceptors(breakers, telemetry=False)
        async with grpc.aio.insecure_channel(server.target, interceptors=interceptors) as channel:
            call: Any
            if method == UNARY_STREAM:
                call = channel.unary_stream(method)(b"headers hang")
            else:
                call = channel.stream_stream(method)(iter([b"headers hang"]))
            await asyncio.get_running_loop().run_in_executor(None, await_state, breakers, method, State.CLOSED)
            assert not call.done()
            call.cancel()

    asyncio.run(story())


def test_stream_that_fails_at_once_reopens(server: Server, breakers: BreakerRegistry, clock: FakeClock) -> None:
    """A probe stream whose headers and failing status come together is a failed probe."""
    open_and_wait(breakers, clock, UNARY_STREAM)
    events = EventRecorder(breakers)
    channel = guarded(server.target, breakers)
    with pytest.raises(grpc.RpcError):
        list(channel.unary_stream(UNARY_STREAM)(b"error UNAVAILABLE still ill"))
    await_state(breakers, UNARY_STREAM, State.OPEN)
    assert events.states == [State.HALF_OPEN, State.OPEN]
    assert events.changes[-1].details == "still ill"
    channel.close()


def test_aio_stream_that_fails_at_once_reopens(server: Server, breakers: BreakerRegistry, clock: FakeClock) -> None:
    """The same in asyncio."""

    async def story() -> None:
        open_and_wait(breakers, clock, UNARY_STREAM)
        interceptors = aio.interceptors(breakers, telemetry=False)
        async with grpc.aio.insecure_channel(server.target, interceptors=interceptors) as channel:
            with pytest.raises(grpc.aio.AioRpcError):
                async for _ in channel.unary_stream(UNARY_STREAM)(b"error UNAVAILABLE still ill"):
                    pass

    asyncio.run(story())
    assert breakers[UNARY_STREAM].state is State.OPEN


def test_abandoned_probe_stream_gives_its_slot_back_after_the_lease(
    server: Server, breakers: BreakerRegistry, clock: FakeClock
) -> None:
    """An asyncio probe stream that is abandoned without a word holds its slot for the lease at most."""

    async def story() -> None:
        open_and_wait(breakers, clock, UNARY_STREAM)
        interceptors = aio.interceptors(breakers, telemetry=False)
        async with grpc.aio.insecure_channel(server.target, interceptors=interceptors) as channel:
            channel.unary_stream(UNARY_STREAM)(b"hang")
            await asyncio.get_running_loop().run_in_executor(None, server.echo.began.acquire, True, PATIENCE)
            clock.advance(31)
            assert breakers[UNARY_STREAM].in_flight == 0
            breakers[UNARY_STREAM].admit().success()
            assert breakers[UNARY_STREAM].state is State.CLOSED

    asyncio.run(story())


def test_killed_and_restarted(breakers: BreakerRegistry, clock: FakeClock) -> None:
    """A server that is killed opens the breaker; once it is back, the next probe closes it."""
    process = Process()
    channel = guarded(process.target, breakers)
    method = channel.unary_unary(UNARY_UNARY)
    assert method(b"ok", timeout=PATIENCE) == b"answer"
    process.kill()
    with pytest.raises(grpc.RpcError) as failed:
        method(b"ok", timeout=PATIENCE)
    assert failed.value.code() is grpc.StatusCode.UNAVAILABLE
    with pytest.raises(CircuitOpenError):
        method(b"ok", timeout=PATIENCE)
    process = Process(process.port)
    clock.advance(10)
    assert method(b"ok", timeout=PATIENCE, wait_for_ready=True) == b"answer"
    assert breakers[UNARY_UNARY].state is State.CLOSED
    channel.close()
    process.kill()


def test_stopped_server_opens_by_deadlines(breakers: BreakerRegistry) -> None:
    """A server that hangs (SIGSTOP) opens the breaker through the deadlines of its calls."""
    process = Process()
    channel = guarded(process.target, breakers)
    method = channel.unary_unary(UNARY_UNARY)
    assert method(b"ok", timeout=PATIENCE) == b"answer"
    process.pause()
    with pytest.raises(grpc.RpcError) as failed:
        method(b"ok", timeout=0.2)
    assert failed.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    with pytest.raises(CircuitOpenError) as refused:
        method(b"ok", timeout=0.2)
    assert refused.value.reason == "consecutive_failures"
    process.resume()
    channel.close()
    process.kill()
