"""Calls that the application makes wrongly, or slowly: the same as without us, and nothing that speaks against the server."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import grpc
import pytest

from grpc_breaker import BreakerPolicy, BreakerRegistry, CircuitBreakerInterceptor, EndedCall, Outcome, State, aio
from tests.integration.endings_table import OLD_GRPCIO, await_settled
from tests.integration.test_abandoned import start, start_aio
from tests.support.server import METHODS, PATIENCE, Server

KINDS = tuple(METHODS)
ODD_METADATA: list[Any] = [[("Bad Key", "x")], [("k",)], [("k", 5)], 5, {"k": "v"}]


@pytest.fixture
def breakers() -> BreakerRegistry:
    """One failure opens."""
    return BreakerRegistry(default=BreakerPolicy(consecutive_failures=1))


def what_comes(make: Callable[[], Any], streams: bool) -> str:
    """The answer to a call, or what it raised, in words."""
    try:
        call = make()
        return str(list(call) if streams else call.result())
    except grpc.RpcError as error:
        return f"{error.code()} {error.details()}"
    except Exception as error:
        return f"{type(error).__name__} {error}"


@pytest.mark.parametrize("metadata", ODD_METADATA, ids=repr)
@pytest.mark.parametrize("kind", KINDS)
def test_odd_metadata(kind: str, metadata: Any, server: Server, breakers: BreakerRegistry) -> None:
    """Metadata that cannot be sent ends as it does without us, and is not the server's fault."""
    with grpc.insecure_channel(server.target) as bare:
        guarded = grpc.intercept_channel(bare, CircuitBreakerInterceptor(breakers))
        keywords = {"metadata": metadata, "timeout": PATIENCE}
        saw = [
            what_comes(lambda channel=channel: start(channel, kind, keywords), kind[1] == "s")
            for channel in (bare, guarded)
        ]
        assert saw[0] == saw[1]
        breaker = breakers[METHODS[kind]]
        await_settled(breaker)
        assert breaker.state is State.CLOSED
        assert breaker.snapshot()["totals"]["failure"] == 0


@pytest.mark.parametrize("metadata", ODD_METADATA, ids=repr)
@pytest.mark.parametrize("kind", KINDS)
def test_odd_metadata_in_asyncio(kind: str, metadata: Any, server: Server, breakers: BreakerRegistry) -> None:
    """The same in asyncio: and the permit comes back although grpcio never ends such a call."""
    # An old grpcio sends nothing of such a stream and lets it hang to its deadline: no field distinguishes it from a hung server.
    hangs = OLD_GRPCIO and kind != "uu" and metadata == [("Bad Key", "x")]

    async def call(interceptors: Any) -> str:
        async with grpc.aio.insecure_channel(server.target, interceptors=interceptors) as channel:
            try:
                made = start_aio(channel, kind, {"metadata": metadata, "timeout": 0.5 if hangs else PATIENCE})
                answer = str([message async for message in made] if kind[1] == "s" else await made)
            except grpc.RpcError as error:
                answer = f"{error.code()} {error.details()}"
            except Exception as error:
                answer = f"{type(error).__name__} {error}".partition(": (<")[0]
            await asyncio.to_thread(await_settled, breakers[METHODS[kind]])
            assert breakers[METHODS[kind]].in_flight == 0
            return answer

    passing = aio.interceptors(BreakerRegistry(default=None))
    assert asyncio.run(call(aio.interceptors(breakers))) == asyncio.run(call(passing))
    assert breakers[METHODS[kind]].snapshot()["totals"]["failure"] == int(hangs)


@pytest.mark.parametrize("kind", KINDS)
def test_metadata_that_the_server_finds_too_large(kind: str, server: Server, breakers: BreakerRegistry) -> None:
    """More metadata than the server reads, a cookie that grew, is the request's fault: others' calls go on."""
    too_much = {"metadata": [("cookie", "x" * 200_000)], "timeout": PATIENCE}

    async def call() -> None:
        async with grpc.aio.insecure_channel(server.target, interceptors=aio.interceptors(breakers)) as channel:
            made = start_aio(channel, kind, too_much)
            with pytest.raises(grpc.RpcError):
                assert [message async for message in made] if kind[1] == "s" else await made
            await asyncio.to_thread(await_settled, breakers[METHODS[kind]])

    with grpc.insecure_channel(server.target) as bare:
        channel = grpc.intercept_channel(bare, CircuitBreakerInterceptor(breakers))
        assert "RESOURCE_EXHAUSTED" in what_comes(lambda: start(channel, kind, too_much), kind[1] == "s")
        await_settled(breakers[METHODS[kind]])
    asyncio.run(call())
    totals = breakers[METHODS[kind]].snapshot()["totals"]
    assert (totals["ignored"], totals["failure"]) == (2, 0)


def test_serializers_that_raise(server: Server, breakers: BreakerRegistry) -> None:
    """A request that does not serialise is the client's fault; an answer that cannot be read is the server's."""

    def broken(message: Any) -> Any:
        raise LookupError

    with grpc.insecure_channel(server.target) as bare:
        channel = grpc.intercept_channel(bare, CircuitBreakerInterceptor(breakers))
        breaker = breakers[METHODS["uu"]]
        for keywords, failures in (({"request_serializer": broken}, 0), ({"response_deserializer": broken}, 1)):
            with pytest.raises(grpc.RpcError, match="INTERNAL"):
                channel.unary_unary(METHODS["uu"], **keywords)(b"ok", timeout=PATIENCE)
            assert breaker.snapshot()["totals"]["failure"] == failures


def test_slow_sender_is_no_slow_server(server: Server) -> None:
    """The time a client takes to send its stream says nothing about the server."""
    breakers = BreakerRegistry(default=BreakerPolicy(slow_call_duration=0.000001, minimum_calls=1))
    breaker = breakers[METHODS["su"]]
    with grpc.insecure_channel(server.target) as bare:
        channel = grpc.intercept_channel(bare, CircuitBreakerInterceptor(breakers))
        assert channel.stream_unary(METHODS["su"])(iter([b"ok"]), timeout=PATIENCE) == b"answer"
    asyncio.run(_slow_sender(server, breakers))
    assert breaker.state is State.CLOSED
    assert breaker.snapshot()["totals"]["success"] == 2


async def _slow_sender(server: Server, breakers: BreakerRegistry) -> None:
    async with grpc.aio.insecure_channel(server.target, interceptors=aio.interceptors(breakers)) as channel:
        assert await channel.stream_unary(METHODS["su"])(iter([b"ok"]), timeout=PATIENCE) == b"answer"


@pytest.mark.parametrize("kind", KINDS)
def test_classifier_sees_the_callers_exception(kind: str, server: Server) -> None:
    """A classifier sees the exception the caller sees, sync and asyncio, and none where the call ended well."""
    seen: list[EndedCall] = []
    called = threading.Semaphore(0)

    def classify(call: EndedCall) -> Outcome | None:
        seen.append(call)
        called.release()
        return None

    breakers = BreakerRegistry(default=BreakerPolicy(classify=classify))
    with grpc.insecure_channel(server.target) as bare:
        channel = grpc.intercept_channel(bare, CircuitBreakerInterceptor(breakers))
        for script in ("ok", "error ABORTED no"):
            keywords = {"metadata": [("script", script)], "timeout": PATIENCE}
            what_comes(lambda keywords=keywords: start(channel, kind, keywords), kind[1] == "s")
            assert called.acquire(timeout=PATIENCE)

    async def main() -> None:
        async with grpc.aio.insecure_channel(server.target, interceptors=aio.interceptors(breakers)) as channel:
            for script in ("ok", "error ABORTED no"):
                made = start_aio(channel, kind, {"metadata": [("script", script)], "timeout": PATIENCE})
                try:
                    _ = [message async for message in made] if kind[1] == "s" else await made
                except grpc.RpcError:
                    assert script != "ok"

    asyncio.run(main())
    assert [call.error is not None for call in seen] == [False, True] * 2
    assert all(isinstance(call.error, grpc.RpcError) for call in seen[1::2])
    assert isinstance(seen[3].error, grpc.aio.AioRpcError)
    assert [(call.error.code(), call.error.details()) for call in seen[1::2]] == [  # type: ignore[union-attr]
        (grpc.StatusCode.ABORTED, "no")
    ] * 2
