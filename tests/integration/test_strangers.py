"""What `test_neighbours.py` does not cover: what interceptors around us get to see, for every RPC kind and both worlds."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
from opentelemetry.instrumentation.grpc import aio_client_interceptors
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from grpc_breaker import BreakerPolicy, BreakerRegistry, CircuitBreakerInterceptor, CircuitOpenError, aio
from tests.integration.endings_table import OLD_GRPCIO, await_settled
from tests.integration.test_abandoned import call_with, start, start_aio, totals
from tests.support.server import METHODS, PATIENCE, Server

KINDS = tuple(METHODS)
NAMES = {"uu": "unary_unary", "us": "unary_stream", "su": "stream_unary", "ss": "stream_stream"}
ILL = "error UNAVAILABLE ill"
Act = Callable[[Any, Any, Any], Any]


@pytest.fixture
def breakers() -> BreakerRegistry:
    """Breakers that stay closed."""
    return BreakerRegistry(default=BreakerPolicy(consecutive_failures=1000))


def sync_one(act: Act) -> Any:
    """A sync interceptor of all kinds that does with a call what `act` does."""

    def intercept(self: object, continuation: Any, client_call_details: Any, request: Any) -> Any:
        return act(continuation, client_call_details, request)

    bases = (
        grpc.UnaryUnaryClientInterceptor,
        grpc.UnaryStreamClientInterceptor,
        grpc.StreamUnaryClientInterceptor,
        grpc.StreamStreamClientInterceptor,
    )
    return type("Stranger", bases, {f"intercept_{name}": intercept for name in NAMES.values()})()


def aio_four(act: Act) -> list[Any]:
    """The same for asyncio, one for each kind."""

    async def intercept(self: object, continuation: Any, client_call_details: Any, request: Any) -> Any:
        return await act(continuation, client_call_details, request)

    bases = {
        "unary_unary": grpc.aio.UnaryUnaryClientInterceptor,
        "unary_stream": grpc.aio.UnaryStreamClientInterceptor,
        "stream_unary": grpc.aio.StreamUnaryClientInterceptor,
        "stream_stream": grpc.aio.StreamStreamClientInterceptor,
    }
    return [type(name, (base,), {f"intercept_{name}": intercept})() for name, base in bases.items()]


def ours(breakers: BreakerRegistry) -> CircuitBreakerInterceptor:
    """Our sync interceptor."""
    return CircuitBreakerInterceptor(breakers, telemetry=False)


def use(call: Any, kind: str) -> Any:
    """What the application does with a sync call."""
    return call.result(timeout=PATIENCE) if kind.endswith("u") else list(call)


async def use_aio(call: Any, kind: str) -> Any:
    """What the application does with an asyncio call."""
    return await call if kind.endswith("u") else [message async for message in call]


def run_aio(server: Server, interceptors: list[Any], story: Callable[[Any], Any]) -> None:
    """Run a story with a channel of its own."""

    async def whole() -> None:
        async with grpc.aio.insecure_channel(server.target, interceptors=interceptors) as channel:
            await asyncio.wait_for(story(channel), 2 * PATIENCE)

    asyncio.run(whole())


@pytest.mark.parametrize("kind", KINDS)
def test_refusal_is_a_call_to_the_interceptor_around_us(kind: str, server: Server, breakers: BreakerRegistry) -> None:
    """An interceptor around us is handed a refusal, not hit by it, and may ask it everything a failed call can be asked."""
    breakers[METHODS[kind]].force_open()
    got: list[Any] = []

    def keep(continuation: Any, details: Any, request: Any) -> Any:
        got.append(continuation(details, request))
        return got[-1]

    with grpc.insecure_channel(server.target) as channel:
        call = start(grpc.intercept_channel(channel, sync_one(keep), ours(breakers)), kind, call_with(server, "ok")[1])
        with pytest.raises(CircuitOpenError):
            use(call, kind)
    (refused,) = got
    called_with: list[Any] = []
    refused.add_done_callback(called_with.append)
    assert called_with == [refused], "its end was seen, so it is called at once"
    assert refused.code() is grpc.StatusCode.UNAVAILABLE
    assert refused.details().startswith("circuit breaker forced_open")
    assert (refused.done(), refused.running(), refused.cancelled(), refused.is_active()) == (True, False, False, False)
    assert (refused.cancel(), refused.add_callback(list), refused.time_remaining()) == (False, False, None)
    assert not refused.initial_metadata()
    assert not refused.trailing_metadata()
    assert isinstance(refused.exception(timeout=1), grpc.RpcError)
    with pytest.raises(CircuitOpenError):
        refused.result(timeout=1)
    with pytest.raises(CircuitOpenError):
        next(refused)


@pytest.mark.parametrize("kind", KINDS)
def test_aio_refusal_is_a_call_to_the_interceptor_around_us(
    kind: str, server: Server, breakers: BreakerRegistry
) -> None:
    """The asyncio interceptor around us is handed a refusal as a call of the right kind that can be asked everything."""
    breakers[METHODS[kind]].force_open()
    bases = {
        "uu": grpc.aio.UnaryUnaryCall,
        "us": grpc.aio.UnaryStreamCall,
        "su": grpc.aio.StreamUnaryCall,
        "ss": grpc.aio.StreamStreamCall,
    }
    got: list[Any] = []

    async def keep(continuation: Any, details: Any, request: Any) -> Any:
        got.append(await continuation(details, request))
        return got[-1]

    async def story(channel: Any) -> None:
        with pytest.raises(CircuitOpenError) as raised:
            await use_aio(start_aio(channel, kind, call_with(server, "ok")[1]), kind)
        assert isinstance(raised.value, grpc.aio.AioRpcError)
        (refused,) = got
        assert isinstance(refused, bases[kind])
        called_with: list[Any] = []
        refused.add_done_callback(called_with.append)
        assert called_with == [], "it is the loop that calls back"
        await asyncio.sleep(0)
        assert called_with == [refused]
        assert await refused.code() is grpc.StatusCode.UNAVAILABLE
        assert (await refused.details()).startswith("circuit breaker forced_open")
        assert (refused.done(), refused.cancelled(), refused.cancel()) == (True, False, False)
        assert refused.time_remaining() is None
        assert not list(await refused.initial_metadata())
        assert not list(await refused.trailing_metadata())
        with pytest.raises(CircuitOpenError):
            await refused.wait_for_connection()
        with pytest.raises(CircuitOpenError):
            await (refused if kind.endswith("u") else refused.read())
        if kind.startswith("s"):
            with pytest.raises(asyncio.InvalidStateError):
                await refused.write(b"")
            await refused.done_writing()

    run_aio(server, [*aio_four(keep), *aio.interceptors(breakers, telemetry=False)], story)


@pytest.mark.skipif(OLD_GRPCIO, reason="the instrumentation of that age takes no metadata in tuples")
@pytest.mark.parametrize("kind", KINDS)
def test_aio_refusal_leaves_no_span_open_in_opentelemetry(kind: str, server: Server, breakers: BreakerRegistry) -> None:
    """OpenTelemetry's asyncio interceptors around us end and export the span of a refused call."""
    breakers[METHODS[kind]].force_open()
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))

    async def story(channel: Any) -> None:
        with pytest.raises(CircuitOpenError):
            await use_aio(start_aio(channel, kind, call_with(server, "ok")[1]), kind)

    theirs = aio_client_interceptors(tracer_provider=provider)
    run_aio(server, [*theirs, *aio.interceptors(breakers, telemetry=False)], story)
    provider.shutdown()
    assert len(exporter.get_finished_spans()) == 1


def bare_details(details: Any) -> Any:
    """Call details with the four fields grpcio itself reads, and none of the others."""
    fields = ("method", "timeout", "metadata", "credentials", "wait_for_ready")
    return SimpleNamespace(**{name: getattr(details, name) for name in fields})


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("script", "verdict"), [("ok", "success"), (ILL, "failure")])
def test_bare_details_of_every_kind(
    kind: str, script: str, verdict: str, server: Server, breakers: BreakerRegistry
) -> None:
    """Behind an interceptor that makes call details of its own, calls of every kind are counted as ever."""
    before = sync_one(lambda continuation, details, request: continuation(bare_details(details), request))
    with grpc.insecure_channel(server.target) as channel:
        call = start(grpc.intercept_channel(channel, before, ours(breakers)), kind, call_with(server, script)[1])
        try:
            use(call, kind)
        except grpc.RpcError as error:
            assert error.details() == "ill"
        await_settled(breakers[METHODS[kind]])
    assert totals(breakers, kind) == {verdict: 1}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("script", "verdict"), [("ok", "success"), (ILL, "failure")])
def test_bare_details_of_every_kind_in_asyncio(
    kind: str, script: str, verdict: str, server: Server, breakers: BreakerRegistry
) -> None:
    """The same in asyncio."""

    async def strip(continuation: Any, details: Any, request: Any) -> Any:
        return await continuation(bare_details(details), request)

    async def story(channel: Any) -> None:
        try:
            await use_aio(start_aio(channel, kind, call_with(server, script)[1]), kind)
        except grpc.aio.AioRpcError as error:
            assert error.details() == "ill"

    run_aio(server, [*aio_four(strip), *aio.interceptors(breakers, telemetry=False)], story)
    assert totals(breakers, kind) == {verdict: 1}
    assert breakers[METHODS[kind]].in_flight == 0


@pytest.mark.parametrize("kind", KINDS)
def test_inner_refusal_is_ignored_for_every_kind(kind: str, server: Server, breakers: BreakerRegistry) -> None:
    """The refusal of a breaker inside ours reaches the application and says nothing to ours, sync and asyncio."""
    inner = BreakerRegistry()
    inner[METHODS[kind]].force_open()
    with grpc.insecure_channel(server.target) as channel:
        call = start(grpc.intercept_channel(channel, ours(breakers), ours(inner)), kind, call_with(server, "ok")[1])
        with pytest.raises(CircuitOpenError, match="forced_open"):
            use(call, kind)
        del call

    async def story(channel: Any) -> None:
        with pytest.raises(CircuitOpenError, match="forced_open"):
            await use_aio(start_aio(channel, kind, call_with(server, "ok")[1]), kind)

    mine = [*aio.interceptors(breakers, telemetry=False), *aio.interceptors(inner, telemetry=False)]
    run_aio(server, mine, story)
    gc.collect()
    assert totals(breakers, kind) == {"ignored": 2}
    assert totals(inner, kind) == {"rejected": 2}
    assert breakers[METHODS[kind]].in_flight == 0


class Wordless(grpc.RpcError):
    """An RpcError of somebody's own, without a code."""


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("error", [Wordless("no code"), ValueError("a bug"), KeyboardInterrupt()], ids=repr)
def test_inner_interceptor_that_raises(
    kind: str, error: BaseException, server: Server, breakers: BreakerRegistry
) -> None:
    """What an interceptor inside ours raises without a status reaches the application as without us; it is ignored."""

    def act(continuation: Any, details: Any, request: Any) -> Any:
        raise error

    seen = []
    for around in ([], [ours(breakers)]):
        with grpc.insecure_channel(server.target) as channel:
            try:
                use(
                    start(grpc.intercept_channel(channel, *around, sync_one(act)), kind, call_with(server, "ok")[1]),
                    kind,
                )
            except BaseException as raised:
                seen.append((type(raised), str(raised)))
    assert len(seen) == 2
    assert seen[0] == seen[1]
    assert totals(breakers, kind) == {"ignored": 1}
    assert breakers[METHODS[kind]].in_flight == 0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("error", [Wordless("no code"), ValueError("a bug")], ids=repr)
def test_inner_aio_interceptor_that_raises(
    kind: str, error: Exception, server: Server, breakers: BreakerRegistry
) -> None:
    """The same in asyncio."""

    async def act(continuation: Any, details: Any, request: Any) -> Any:
        raise error

    seen = []

    async def story(channel: Any) -> None:
        try:
            await use_aio(start_aio(channel, kind, call_with(server, "ok")[1]), kind)
        except Exception as raised:
            seen.append((type(raised), str(raised)))

    for around in ([], aio.interceptors(breakers, telemetry=False)):
        run_aio(server, [*around, *aio_four(act)], story)
    assert len(seen) == 2
    assert seen[0] == seen[1]
    assert totals(breakers, kind) == {"ignored": 1}
    assert breakers[METHODS[kind]].in_flight == 0


@pytest.mark.parametrize("kind", KINDS)
def test_aio_call_cancelled_inside_an_inner_interceptor(kind: str, server: Server, breakers: BreakerRegistry) -> None:
    """A call cancelled while an interceptor inside ours still waits gives its permit back, whatever its kind."""

    async def story(channel: Any) -> None:
        call = start_aio(channel, kind, call_with(server, "ok")[1])
        await asyncio.wait_for(waiting.wait(), PATIENCE)
        assert breakers[METHODS[kind]].in_flight == 1
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await use_aio(call, kind)

    waiting = asyncio.Event()

    async def act(continuation: Any, details: Any, request: Any) -> Any:
        waiting.set()
        await asyncio.Event().wait()

    run_aio(server, [*aio.interceptors(breakers, telemetry=False), *aio_four(act)], story)
    assert totals(breakers, kind) == {"ignored": 1}
    assert breakers[METHODS[kind]].in_flight == 0
