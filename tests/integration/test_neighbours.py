"""Other people's interceptors, and the breaker between them."""

from __future__ import annotations

import asyncio
import collections
import threading
from collections.abc import Callable
from typing import Any

import grpc
import pytest
from grpc_interceptor import ClientCallDetails, ClientInterceptor
from opentelemetry.instrumentation.grpc import aio_client_interceptors, client_interceptor
from opentelemetry.instrumentation.grpc.grpcext import intercept_channel as otel_intercept_channel

from grpc_breaker import BreakerPolicy, BreakerRegistry, CircuitBreakerInterceptor, CircuitOpenError, State, aio
from grpc_breaker.testing import FakeClock
from tests.integration.endings_table import await_settled
from tests.support.server import PATIENCE, STREAM_STREAM, STREAM_UNARY, UNARY_STREAM, UNARY_UNARY, Server


@pytest.fixture
def breakers() -> BreakerRegistry:
    """One failure opens."""
    return BreakerRegistry(default=BreakerPolicy(consecutive_failures=1))


def ours(breakers: BreakerRegistry) -> CircuitBreakerInterceptor:
    """Our sync interceptor."""
    return CircuitBreakerInterceptor(breakers, telemetry=False)


def totals(breakers: BreakerRegistry, method: str) -> dict[str, int]:
    """What was counted, without the zeros."""
    counted: dict[str, int] = breakers[method].snapshot()["totals"]
    return {name: calls for name, calls in counted.items() if calls}


def fail_then_be_refused(channel: grpc.Channel) -> None:
    """Each kind fails once, and is refused then."""
    attempts: dict[str, Callable[[], Any]] = {
        UNARY_UNARY: lambda: channel.unary_unary(UNARY_UNARY)(b"error UNAVAILABLE ill"),
        UNARY_STREAM: lambda: list(channel.unary_stream(UNARY_STREAM)(b"error UNAVAILABLE ill")),
        STREAM_UNARY: lambda: channel.stream_unary(STREAM_UNARY)(iter([b"error UNAVAILABLE ill"])),
        STREAM_STREAM: lambda: list(channel.stream_stream(STREAM_STREAM)(iter([b"error UNAVAILABLE ill"]))),
    }
    for method, attempt in attempts.items():
        with pytest.raises(grpc.RpcError) as failed:
            attempt()
        assert failed.value.details() == "ill", method
    for method, attempt in attempts.items():
        with pytest.raises(grpc.RpcError) as refused:
            until_refused(attempt)
        assert isinstance(refused.value, CircuitOpenError), method


def until_refused(attempt: Callable[[], Any]) -> None:
    """A stream's failure is seen by the application microseconds before the breaker sees it."""
    for _ in range(100):
        try:
            attempt()
        except CircuitOpenError:
            raise
        except grpc.RpcError:
            continue


class Passing(ClientInterceptor):
    """grpc-interceptor's own way of intercepting."""

    def intercept(self, method: Callable[..., Any], request_or_iterator: Any, call_details: ClientCallDetails) -> Any:
        return method(request_or_iterator, call_details)


@pytest.mark.parametrize("outside", [True, False])
def test_next_to_grpc_interceptor(outside: bool, server: Server, breakers: BreakerRegistry) -> None:
    """Beside grpc-interceptor's client interceptors, in either order, failures open and refusals are refusals."""
    order = [ours(breakers), Passing()] if outside else [Passing(), ours(breakers)]
    with grpc.insecure_channel(server.target) as channel:
        fail_then_be_refused(grpc.intercept_channel(channel, *order))


@pytest.mark.parametrize("outside", [True, False])
def test_next_to_opentelemetry(outside: bool, server: Server, breakers: BreakerRegistry) -> None:
    """Beside OpenTelemetry's sync interceptor, in either order, failures open and refusals are refusals."""
    with grpc.insecure_channel(server.target) as channel:
        if outside:
            mixed = grpc.intercept_channel(otel_intercept_channel(channel, client_interceptor()), ours(breakers))
        else:
            mixed = otel_intercept_channel(grpc.intercept_channel(channel, ours(breakers)), client_interceptor())
        fail_then_be_refused(mixed)


@pytest.mark.parametrize("messages", [0, 1])
def test_abandoned_stream_inside_opentelemetry(messages: int, server: Server, breakers: BreakerRegistry) -> None:
    """A stream that OpenTelemetry wraps in a generator gives its permit back when it is dropped, begun or not."""
    with grpc.insecure_channel(server.target) as channel:
        mixed = grpc.intercept_channel(otel_intercept_channel(channel, client_interceptor()), ours(breakers))
        stream = mixed.unary_stream(UNARY_STREAM)(b"messages 1;hang")
        assert [next(stream) for _ in range(messages)] == [b"0"] * messages
        assert breakers[UNARY_STREAM].in_flight == 1
        del stream
        assert breakers[UNARY_STREAM].in_flight == 0
    assert totals(breakers, UNARY_STREAM) == {"success" if messages else "ignored": 1}


@pytest.mark.parametrize("outside", [True, False])
def test_next_to_opentelemetry_in_asyncio(outside: bool, server: Server, breakers: BreakerRegistry) -> None:
    """Beside OpenTelemetry's asyncio interceptors, in either order, failures open and refusals are refusals."""
    mine = aio.interceptors(breakers, telemetry=False)
    order = [*mine, *aio_client_interceptors()] if outside else [*aio_client_interceptors(), *mine]

    async def story() -> None:
        async with grpc.aio.insecure_channel(server.target, interceptors=order) as channel:
            for expected in ("ill", "circuit breaker open"):
                with pytest.raises(grpc.aio.AioRpcError, match=expected):
                    await channel.unary_unary(UNARY_UNARY)(b"error UNAVAILABLE ill")
                with pytest.raises(grpc.aio.AioRpcError, match=expected):
                    async for _ in channel.unary_stream(UNARY_STREAM)(b"error UNAVAILABLE ill"):
                        pass
                with pytest.raises(grpc.aio.AioRpcError, match=expected):
                    await channel.stream_unary(STREAM_UNARY)(iter([b"error UNAVAILABLE ill"]))
                with pytest.raises(grpc.aio.AioRpcError, match=expected):
                    async for _ in channel.stream_stream(STREAM_STREAM)(iter([b"error UNAVAILABLE ill"])):
                        pass

    asyncio.run(story())
    for method in (UNARY_UNARY, UNARY_STREAM, STREAM_UNARY, STREAM_STREAM):
        assert totals(breakers, method) == {"failure": 1, "rejected": 1}


def test_nested_in_itself(server: Server, breakers: BreakerRegistry) -> None:
    """The refusal of an inner breaker is ignored by an outer one."""
    inner = BreakerRegistry()
    inner[UNARY_UNARY].force_open()
    with grpc.insecure_channel(server.target) as channel:
        method = grpc.intercept_channel(channel, ours(breakers), ours(inner)).unary_unary(UNARY_UNARY)
        with pytest.raises(CircuitOpenError, match="forced_open"):
            method(b"ok")
        with pytest.raises(CircuitOpenError, match="forced_open"):
            method.future(b"ok").result(timeout=PATIENCE)
    assert totals(breakers, UNARY_UNARY) == {"ignored": 2}


def test_nested_in_itself_in_asyncio(server: Server, breakers: BreakerRegistry) -> None:
    """The same in asyncio."""
    inner = BreakerRegistry()
    inner[UNARY_UNARY].force_open()
    order = [*aio.interceptors(breakers, telemetry=False), *aio.interceptors(inner, telemetry=False)]

    async def story() -> None:
        async with grpc.aio.insecure_channel(server.target, interceptors=order) as channel:
            with pytest.raises(CircuitOpenError, match="forced_open"):
                await channel.unary_unary(UNARY_UNARY)(b"ok")

    asyncio.run(story())
    assert totals(breakers, UNARY_UNARY) == {"ignored": 1}


class Sync(grpc.UnaryUnaryClientInterceptor, grpc.UnaryStreamClientInterceptor):
    """Does with a call whatever a test says."""

    def __init__(self, act: Callable[[Any, Any, Any], Any]) -> None:
        self.act = act

    def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        return self.act(continuation, client_call_details, request)

    intercept_unary_stream = intercept_unary_unary


class Aio(grpc.aio.UnaryUnaryClientInterceptor):
    """The same in asyncio."""

    def __init__(self, act: Callable[[Any, Any, Any], Any]) -> None:
        self.act = act

    async def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        return await self.act(continuation, client_call_details, request)


def test_bare_call_details(server: Server, breakers: BreakerRegistry) -> None:
    """Call details that have a method and nothing else are enough; odd timeouts and metadata do no harm."""
    bare = collections.namedtuple("bare", "method timeout metadata credentials")  # noqa: PYI024
    odd = bare(UNARY_UNARY, None, None, None)
    with grpc.insecure_channel(server.target) as channel:
        before = Sync(lambda continuation, details, request: continuation(odd, request))
        method = grpc.intercept_channel(channel, before, ours(breakers)).unary_unary(UNARY_UNARY)
        assert method(b"ok") == b"answer"
    assert totals(breakers, UNARY_UNARY) == {"success": 1}


def raise_this(error: BaseException) -> Callable[[Any, Any, Any], Any]:
    """An interceptor's act that raises."""

    def act(continuation: Any, details: Any, request: Any) -> Any:
        raise error

    return act


@pytest.mark.parametrize("error", [ValueError("a bug"), KeyError("another")])
def test_inner_interceptor_that_raises(error: Exception, server: Server, breakers: BreakerRegistry) -> None:
    """The exception of an inner interceptor reaches the application as it is, and is ignored."""
    with grpc.insecure_channel(server.target) as channel:
        guarded = grpc.intercept_channel(channel, ours(breakers), Sync(raise_this(error)))
        for attempt in (
            lambda: guarded.unary_unary(UNARY_UNARY)(b"ok"),
            lambda: guarded.unary_unary(UNARY_UNARY).future(b"ok").result(),
        ):
            with pytest.raises(type(error)):
                attempt()
    assert totals(breakers, UNARY_UNARY) == {"ignored": 2}


def test_ctrl_c_in_a_call_passes_untouched(server: Server, breakers: BreakerRegistry) -> None:
    """KeyboardInterrupt out of a call is the caller's, and gives its permit back."""
    with grpc.insecure_channel(server.target) as channel:
        guarded = grpc.intercept_channel(channel, ours(breakers), Sync(raise_this(KeyboardInterrupt())))
        with pytest.raises(KeyboardInterrupt):
            guarded.unary_unary(UNARY_UNARY)(b"ok")
    assert totals(breakers, UNARY_UNARY) == {"ignored": 1}
    assert breakers[UNARY_UNARY].in_flight == 0


def test_inner_interceptor_that_raises_the_failed_call(server: Server, breakers: BreakerRegistry) -> None:
    """An inner interceptor that raises the failed call instead of returning it does not hide the failure."""

    def act(continuation: Any, details: Any, request: Any) -> Any:
        raise continuation(details, request)

    with grpc.insecure_channel(server.target) as channel:
        guarded = grpc.intercept_channel(channel, ours(breakers), Sync(act))
        with pytest.raises(grpc.RpcError):
            guarded.unary_unary(UNARY_UNARY)(b"error UNAVAILABLE ill")
        with pytest.raises(CircuitOpenError):
            guarded.unary_unary(UNARY_UNARY)(b"error UNAVAILABLE ill")
    assert totals(breakers, UNARY_UNARY) == {"failure": 1, "rejected": 1}


def test_inner_aio_interceptor_that_answers_by_itself(server: Server, breakers: BreakerRegistry) -> None:
    """A bare value from an inner asyncio interceptor is an answer, and counts as a success."""

    async def act(continuation: Any, details: Any, request: Any) -> Any:
        return b"from a cache"

    async def story() -> None:
        order = [*aio.interceptors(breakers, telemetry=False), Aio(act)]
        async with grpc.aio.insecure_channel(server.target, interceptors=order) as channel:
            assert await channel.unary_unary(UNARY_UNARY)(b"ok") == b"from a cache"

    asyncio.run(story())
    assert totals(breakers, UNARY_UNARY) == {"success": 1}
    assert breakers[UNARY_UNARY].in_flight == 0


@pytest.mark.parametrize("error", [ValueError("a bug"), asyncio.CancelledError()])
def test_inner_aio_interceptor_that_raises(error: BaseException, server: Server, breakers: BreakerRegistry) -> None:
    """What an inner asyncio interceptor raises reaches the application, and is ignored."""

    async def act(continuation: Any, details: Any, request: Any) -> Any:
        raise error

    async def story() -> None:
        order = [*aio.interceptors(breakers, telemetry=False), Aio(act)]
        async with grpc.aio.insecure_channel(server.target, interceptors=order) as channel:
            with pytest.raises(type(error)):
                await channel.unary_unary(UNARY_UNARY)(b"ok")

    asyncio.run(story())
    assert totals(breakers, UNARY_UNARY) == {"ignored": 1}


def test_inner_aio_interceptor_that_raises_an_rpc_error(server: Server, breakers: BreakerRegistry) -> None:
    """An RPC error raised by an inner asyncio interceptor counts by its status."""

    async def act(continuation: Any, details: Any, request: Any) -> Any:
        call = await continuation(details, request)
        await call
        return call

    async def story() -> None:
        order = [*aio.interceptors(breakers, telemetry=False), Aio(act)]
        async with grpc.aio.insecure_channel(server.target, interceptors=order) as channel:
            with pytest.raises(grpc.aio.AioRpcError):
                await channel.unary_unary(UNARY_UNARY)(b"error UNAVAILABLE ill")

    asyncio.run(story())
    assert totals(breakers, UNARY_UNARY) == {"failure": 1}


def test_cancelled_while_an_inner_interceptor_waits(server: Server, breakers: BreakerRegistry) -> None:
    """A call cancelled before its RPC began gives its permit back."""

    async def story() -> None:
        waiting = asyncio.Event()

        async def act(continuation: Any, details: Any, request: Any) -> Any:
            waiting.set()
            await asyncio.Event().wait()

        order = [*aio.interceptors(breakers, telemetry=False), Aio(act)]
        async with grpc.aio.insecure_channel(server.target, interceptors=order) as channel:
            call = channel.unary_unary(UNARY_UNARY)(b"ok")
            await asyncio.wait_for(waiting.wait(), PATIENCE)
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call

    asyncio.run(story())
    assert breakers[UNARY_UNARY].in_flight == 0
    assert totals(breakers, UNARY_UNARY) == {"ignored": 1}


def test_many_threads_at_once(server: Server, breakers: BreakerRegistry) -> None:
    """Two thousand calls from twenty threads are counted, each once, and leave nothing behind."""
    with grpc.insecure_channel(server.target) as channel:
        method = grpc.intercept_channel(channel, ours(breakers)).unary_unary(UNARY_UNARY)
        threads = [threading.Thread(target=lambda: [method(b"ok") for _ in range(100)]) for _ in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)
    assert totals(breakers, UNARY_UNARY) == {"success": 2000}
    assert breakers[UNARY_UNARY].in_flight == 0


@pytest.mark.parametrize("limit", [1, 2])
def test_probe_through_the_same_registry_twice(limit: int, server: Server) -> None:
    """A registry that guards a channel twice lets its probe through both times, and closes; other calls are refused."""
    clock = FakeClock()
    policy = BreakerPolicy(consecutive_failures=1, half_open_max_calls=limit)
    for world in ("sync", "asyncio"):
        breakers = BreakerRegistry(default=policy, clock=clock)
        breaker = breakers[UNARY_UNARY]
        breaker.admit().failure()
        clock.advance(100)
        call = _twice if world == "sync" else _twice_in_asyncio
        for _ in range(limit):
            assert call(server, breakers) == b"answer"
        assert (breaker.state, breaker.in_flight) == (State.CLOSED, 0)


def _twice(server: Server, breakers: BreakerRegistry) -> bytes:
    with grpc.insecure_channel(server.target) as channel:
        guarded = grpc.intercept_channel(channel, ours(breakers), ours(breakers))
        answer: bytes = guarded.unary_unary(UNARY_UNARY)(b"ok", timeout=PATIENCE)
        return answer


def _twice_in_asyncio(server: Server, breakers: BreakerRegistry) -> bytes:
    async def call() -> bytes:
        interceptors = aio.interceptors(breakers) + aio.interceptors(breakers)
        async with grpc.aio.insecure_channel(server.target, interceptors=interceptors) as channel:
            answer: bytes = await channel.unary_unary(UNARY_UNARY)(b"ok", timeout=PATIENCE)
            await asyncio.to_thread(await_settled, breakers[UNARY_UNARY])
            return answer

    return asyncio.run(call())


def test_inner_refusal_through_a_wrapper_is_ignored(server: Server) -> None:
    """The refusal of an inner breaker that reaches the outer one in OpenTelemetry's wrapping says nothing about the server."""
    outer = BreakerRegistry(default=BreakerPolicy(consecutive_failures=1))
    inner = BreakerRegistry()
    inner[UNARY_STREAM].force_open()

    async def story() -> None:
        interceptors = [*aio.interceptors(outer), *aio_client_interceptors(), *aio.interceptors(inner)]
        async with grpc.aio.insecure_channel(server.target, interceptors=interceptors) as channel:
            with pytest.raises(CircuitOpenError):
                async for _ in channel.unary_stream(UNARY_STREAM)(b"ok", timeout=PATIENCE):
                    pass

    asyncio.run(story())
    assert totals(outer, UNARY_STREAM) == {"ignored": 1}


class StreamElsewhere(grpc.aio.UnaryStreamClientInterceptor):  # type: ignore[misc]
    """Makes a stream on another channel, and cancels it before it begins."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.channel = channel

    async def intercept_unary_stream(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        stream = self.channel.unary_stream(UNARY_STREAM)(request, timeout=PATIENCE)
        stream.cancel()
        return stream


def test_stream_that_is_cancelled_elsewhere_is_ignored(server: Server) -> None:
    """A stream on another guarded channel that is cancelled before it begins says nothing about the server."""
    outer, inner = BreakerRegistry(), BreakerRegistry()

    async def story() -> None:
        async with grpc.aio.insecure_channel(server.target, interceptors=aio.interceptors(inner)) as other:
            interceptors = [*aio.interceptors(outer), StreamElsewhere(other)]
            async with grpc.aio.insecure_channel(server.target, interceptors=interceptors) as channel:
                with pytest.raises(asyncio.CancelledError):
                    async for _ in channel.unary_stream(UNARY_STREAM)(b"ok", timeout=PATIENCE):
                        pass
                await asyncio.to_thread(await_settled, outer[UNARY_STREAM])

    asyncio.run(story())
    assert totals(outer, UNARY_STREAM) == {"ignored": 1}


class Elsewhere(grpc.aio.UnaryUnaryClientInterceptor):  # type: ignore[misc]
    """Makes the call on another channel."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.channel = channel

    async def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        return self.channel.unary_unary(UNARY_UNARY)(request, timeout=PATIENCE)


def test_refusal_of_another_guarded_channel_is_ignored(server: Server) -> None:
    """A call that is sent to another channel, whose breaker refuses it, says nothing about the server of this one."""
    outer, inner = BreakerRegistry(default=BreakerPolicy(consecutive_failures=1)), BreakerRegistry()
    inner[UNARY_UNARY].force_open()

    async def story() -> None:
        async with grpc.aio.insecure_channel(server.target, interceptors=aio.interceptors(inner)) as other:
            interceptors = [*aio.interceptors(outer), Elsewhere(other)]
            async with grpc.aio.insecure_channel(server.target, interceptors=interceptors) as channel:
                with pytest.raises(CircuitOpenError):
                    await channel.unary_unary(UNARY_UNARY)(b"ok", timeout=PATIENCE)
                await asyncio.to_thread(await_settled, outer[UNARY_UNARY])

    asyncio.run(story())
    assert totals(outer, UNARY_UNARY) == {"ignored": 1}
