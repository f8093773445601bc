"""Calls of one request and one answer in asyncio, which the interceptor awaits: what that gives, and what it changes."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable, Coroutine
from typing import Any

import grpc
import pytest

from grpc_breaker import BreakerPolicy, BreakerRegistry, CircuitOpenError, aio
from tests.integration.endings_table import await_settled
from tests.integration.test_abandoned import call_with, totals
from tests.support.server import METHODS, PATIENCE, Server

METHOD = METHODS["uu"]


@pytest.fixture
def breakers() -> BreakerRegistry:
    """Five failures in a row open."""
    return BreakerRegistry(default=BreakerPolicy(consecutive_failures=5))


def run(server: Server, interceptors: list[Any], story: Callable[[Any], Coroutine[Any, Any, Any]]) -> Any:
    """Run a story with the method on a channel of its own."""

    async def whole() -> Any:
        async with grpc.aio.insecure_channel(server.target, interceptors=interceptors) as channel:
            return await asyncio.wait_for(story(channel.unary_unary(METHOD)), 2 * PATIENCE)

    return asyncio.run(whole())


def guarded(breakers: BreakerRegistry) -> list[Any]:
    """Our interceptors."""
    return list(aio.interceptors(breakers, telemetry=False))


def test_result_counts_before_the_caller_goes_on(server: Server, breakers: BreakerRegistry) -> None:
    """Of a caller's calls one after another exactly five fail before a breaker that opens at five refuses."""

    async def story(method: Any) -> list[str]:
        saw = []
        for _ in range(8):
            with pytest.raises(grpc.aio.AioRpcError) as failed:
                await method(b"error INTERNAL ill", timeout=PATIENCE)
            saw.append("refused" if isinstance(failed.value, CircuitOpenError) else failed.value.details())
        return saw

    assert run(server, guarded(breakers), story) == ["ill"] * 5 + ["refused"] * 3


class Around(grpc.aio.UnaryUnaryClientInterceptor):  # type: ignore[misc]
    """An interceptor around ours that looks at what it is handed."""

    def __init__(self) -> None:
        self.saw: list[object] = []

    async def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        call = await continuation(client_call_details, request)
        self.saw.append((call.done(), await call.code()))
        return call


@pytest.mark.parametrize(
    ("script", "code"), [(b"ok", grpc.StatusCode.OK), (b"error ABORTED no", grpc.StatusCode.ABORTED)]
)
def test_interceptor_around_ours_gets_an_ended_call(
    script: bytes, code: grpc.StatusCode, server: Server, breakers: BreakerRegistry
) -> None:
    """An interceptor around ours is handed the call when it has ended, with its status and not as an exception."""
    around = Around()

    async def story(method: Any) -> grpc.StatusCode:
        status: grpc.StatusCode = await method(script, timeout=PATIENCE).code()
        return status

    assert run(server, [around, *guarded(breakers)], story) is code
    assert around.saw == [(True, code)]


def test_cancelled_again_while_it_ends(server: Server, breakers: BreakerRegistry) -> None:
    """Each `cancel()` of a running call returns True until it has ended; it is cancelled at the server, and ignored."""
    entry, keywords = call_with(server, "hang")

    async def story(method: Any) -> None:
        call = method(b"", **keywords)
        assert await asyncio.to_thread(entry.began.wait, PATIENCE)
        assert (call.cancel(), call.cancel()) == (True, True)
        with pytest.raises(asyncio.CancelledError):
            await call
        assert (call.cancel(), call.done(), call.cancelled()) == (False, True, True)
        assert await call.code() is grpc.StatusCode.CANCELLED
        assert await call.details() == "Locally cancelled by application!"
        assert (await call.initial_metadata(), await call.trailing_metadata()) == (None, None)
        assert await asyncio.to_thread(entry.cancelled.wait, PATIENCE)

    run(server, guarded(breakers), story)
    assert (totals(breakers, "uu"), breakers[METHOD].in_flight) == ({"ignored": 1}, 0)


@pytest.mark.parametrize("ask", ["initial_metadata", "trailing_metadata", "code", "details"])
def test_task_cancelled_while_it_waits_for_what_the_call_says(
    ask: str, server: Server, breakers: BreakerRegistry
) -> None:
    """Cancelling a task that waits for the metadata or the status of a running call cancels the call at the server."""
    entry, keywords = call_with(server, "hang")

    async def story(method: Any) -> None:
        call = method(b"", **keywords)
        asking = asyncio.ensure_future(getattr(call, ask)())
        assert await asyncio.to_thread(entry.began.wait, PATIENCE)
        asking.cancel()
        await asyncio.wait([asking], timeout=PATIENCE)
        assert await asyncio.to_thread(entry.cancelled.wait, PATIENCE)
        with pytest.raises(asyncio.CancelledError):
            await call

    run(server, guarded(breakers), story)
    assert (totals(breakers, "uu"), breakers[METHOD].in_flight) == ({"ignored": 1}, 0)


def test_done_callback_that_raises(server: Server, breakers: BreakerRegistry) -> None:
    """A done callback that raises leaves the call as it is; what it raised reaches the loop's exception handler."""
    reported: list[object] = []

    def bug(ended: Any) -> None:
        raise ValueError("a bug of the client")

    async def story(method: Any) -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda loop, context: reported.append(repr(context.get("exception"))))
        call = method(b"ok", timeout=PATIENCE)
        call.add_done_callback(bug)
        assert await call == b"answer"

    run(server, guarded(breakers), story)
    assert (
        reported.count("ValueError('a bug of the client')") == 1
    )  # grpcio reports what it finds of loops that are gone
    assert totals(breakers, "uu") == {"success": 1}


@pytest.mark.parametrize("bare", [True, False], ids=["bare", "guarded"])
def test_dropped_call_goes_on(bare: bool, server: Server, breakers: BreakerRegistry) -> None:
    """A running call that nobody holds any more runs to its end at the server, as without us, and is counted."""
    server.journal.release.clear()
    entry, keywords = call_with(server, "held")

    async def story(method: Any) -> None:
        call = method(b"", **keywords)
        assert await asyncio.to_thread(entry.began.wait, PATIENCE)
        del call
        gc.collect()
        await asyncio.sleep(0)
        server.journal.release.set()
        assert await asyncio.to_thread(entry.over.wait, PATIENCE)
        assert not entry.cancelled.is_set()
        if not bare:
            await asyncio.to_thread(await_settled, breakers[METHOD])

    run(server, [] if bare else guarded(breakers), story)
    assert totals(breakers, "uu") == ({} if bare else {"success": 1})


class AtTheEnd(grpc.aio.UnaryUnaryClientInterceptor):  # type: ignore[misc]
    """An interceptor inside ours that acts in the step of the loop in which the answer comes."""

    def __init__(self, act: Callable[[], object]) -> None:
        self.act = act

    async def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        call = await continuation(client_call_details, request)
        call.add_done_callback(lambda ended: self.act())
        return call


@pytest.mark.parametrize("script", [b"ok", b"error CANCELLED no", b"error INTERNAL ill"])
def test_cancellation_is_never_lost(script: bytes, server: Server, breakers: BreakerRegistry) -> None:
    """A task that is cancelled between the end of its call and its own next step ends as cancelled."""
    tasks: list[asyncio.Task[Any]] = []

    def cancel_soon() -> None:
        asyncio.get_running_loop().call_soon(tasks[0].cancel)

    async def await_it(method: Any) -> Any:
        return await method(script, timeout=PATIENCE)

    async def story(method: Any) -> None:
        tasks.append(asyncio.ensure_future(await_it(method)))
        await asyncio.wait(tasks, timeout=PATIENCE)
        assert tasks[0].cancelled()

    run(server, [*guarded(breakers), AtTheEnd(cancel_soon)], story)
    assert (totals(breakers, "uu"), breakers[METHOD].in_flight) == ({"ignored": 1}, 0)
