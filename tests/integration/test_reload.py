"""A registry that is reloaded again and again in the middle of calls, retries, probes and streams."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any

import grpc
import pytest

from grpc_breaker import BreakerRegistry, CircuitBreaker, CircuitBreakerInterceptor, State, aio
from tests.integration.endings_table import await_settled
from tests.support.server import METHODS, PATIENCE, Server

RELOADS = 200
CALLERS = 4
SERVICE = METHODS["uu"].strip("/").rpartition("/")[0]


def document(number: int) -> dict[str, Any]:
    """One of many documents, which differ in all they say."""
    retry = {
        "maxAttempts": 2 + number % 3,
        "initialBackoff": "0.01s",
        "maxBackoff": "0.02s",
        "backoffMultiplier": 1 + number % 2,
        "retryableStatusCodes": ["UNAVAILABLE"],
    }
    parts: dict[str, Any] = {
        "timeout": f"{30 + number % 7}s",
        "retryPolicy": retry,
        "circuitBreaker": {"consecutiveFailures": 100 + number, "failureRate": None, "hungAfter": "60s"},
        "bulkhead": {"maxConcurrentCalls": 1000 + number},
        "rateLimit": {"callsPerSecond": 1_000_000 + number},
        "fallback": {"lastGood": {"maxEntries": 1 + number % 5}, "when": ["DATA_LOSS"]},
    }
    left_out = sorted(set(parts) - {"circuitBreaker"})[number % 5]
    return {
        "methodConfig": [{"name": [{"service": SERVICE}], **{key: it for key, it in parts.items() if key != left_out}}],
        "retryThrottling": {"maxTokens": 10 + number, "tokenRatio": 0.5},
    }


def reload_while(breakers: BreakerRegistry, work: Callable[[Callable[[], bool]], list[BaseException]]) -> None:
    """Reload as fast as it goes while calls are made, each of which must end well."""
    over = threading.Event()
    failures: list[BaseException] = []
    worker = threading.Thread(target=lambda: failures.extend(work(over.is_set)))
    worker.start()
    wait_for_calls(breakers[METHODS["uu"]])
    for number in range(RELOADS):
        breakers.reload(document(number))
    over.set()
    worker.join(PATIENCE)
    assert not worker.is_alive()
    assert failures == []


def wait_for_calls(breaker: CircuitBreaker) -> None:
    """Wait until calls have been made."""
    until = time.monotonic() + PATIENCE
    while not breaker.snapshot()["totals"]["success"]:
        assert time.monotonic() < until, "no call was made"
        time.sleep(0.001)


@pytest.fixture
def breakers() -> BreakerRegistry:
    """A registry made from the first document."""
    return BreakerRegistry.from_service_config(document(0))


def check(breakers: BreakerRegistry, before: Any) -> None:
    """Nothing was lost: the same breaker in the same state with the last policy, and no permit out."""
    breaker = breakers[METHODS["uu"]]
    for each in breakers:
        await_settled(each)
        assert each.in_flight == 0
    assert breaker is before
    assert (breaker.state, breaker.generation, breaker.policy.consecutive_failures) == (State.CLOSED, 0, 99 + RELOADS)
    totals = breaker.snapshot()["totals"]
    assert totals["success"] > 0
    assert {name: calls for name, calls in totals.items() if calls and name not in {"success", "failure"}} == {}


def test_reload_in_the_middle_of_calls(server: Server, breakers: BreakerRegistry) -> None:
    """Blocking calls, futures and streams see no error, and no state, result or permit is lost."""
    before = breakers[METHODS["uu"]]
    with grpc.insecure_channel(server.target) as bare:
        channel = grpc.intercept_channel(bare, CircuitBreakerInterceptor(breakers, telemetry=False))

        def call(over: Callable[[], bool], failures: list[BaseException]) -> None:
            try:
                while not over():
                    assert channel.unary_unary(METHODS["uu"])(b"ok", timeout=PATIENCE) == b"answer"
                    assert channel.unary_unary(METHODS["uu"]).future(b"ok", timeout=PATIENCE).result() == b"answer"
                    assert len(list(channel.unary_stream(METHODS["us"])(b"messages 3", timeout=PATIENCE))) == 3
            except BaseException as error:
                failures.append(error)

        def work(over: Callable[[], bool]) -> list[BaseException]:
            failures: list[BaseException] = []
            threads = [threading.Thread(target=call, args=(over, failures)) for _ in range(CALLERS)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            return failures

        reload_while(breakers, work)
    check(breakers, before)


def test_reload_in_the_middle_of_asyncio_calls(server: Server, breakers: BreakerRegistry) -> None:
    """The same for calls of asyncio."""
    before = breakers[METHODS["uu"]]

    async def call(channel: grpc.aio.Channel, over: Callable[[], bool]) -> None:
        while not over():
            assert await channel.unary_unary(METHODS["uu"])(b"ok", timeout=PATIENCE) == b"answer"
            stream = channel.unary_stream(METHODS["us"])(b"messages 3", timeout=PATIENCE)
            assert len([message async for message in stream]) == 3

    async def calls(over: Callable[[], bool]) -> list[BaseException]:
        interceptors = aio.interceptors(breakers, telemetry=False)
        async with grpc.aio.insecure_channel(server.target, interceptors=interceptors) as channel:
            ended = await asyncio.gather(*(call(channel, over) for _ in range(CALLERS)), return_exceptions=True)
        return [it for it in ended if it is not None]

    reload_while(breakers, lambda over: asyncio.run(calls(over)))
    check(breakers, before)


def test_reload_in_the_middle_of_a_pause(server: Server, breakers: BreakerRegistry) -> None:
    """A call keeps the retries that it began with, and the next one has those of the new document."""
    with grpc.insecure_channel(server.target) as bare:
        channel = grpc.intercept_channel(bare, CircuitBreakerInterceptor(breakers, telemetry=False))
        method = channel.unary_unary(METHODS["uu"])
        entry = server.journal["paused"]
        ended: list[Any] = []

        def call() -> None:
            try:
                method(b"error UNAVAILABLE ill", timeout=PATIENCE, metadata=(("call-key", "paused"),))
            except grpc.RpcError as error:
                ended.append(error)

        caller = threading.Thread(target=call)
        caller.start()
        assert entry.began.wait(PATIENCE)
        breakers.reload({"methodConfig": [{"name": [{"service": SERVICE}], "circuitBreaker": {}}]})
        caller.join(PATIENCE)
    assert [error.code() for error in ended] == [grpc.StatusCode.UNAVAILABLE]
    snapshot = breakers[METHODS["uu"]].snapshot()
    assert (snapshot["totals"]["failure"], snapshot["retries"], snapshot["in_flight"]) == (2, 1, 0)
