"""A policy's classifier outside gRPC: what it sees, what it decides, and what it cannot."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from grpc_breaker import BreakerPolicy, CircuitBreaker, CircuitOpenError, EndedCall, Outcome
from grpc_breaker.testing import FakeClock


def test_classifier_of_plain_code() -> None:
    """A classifier may decide otherwise than the default: here a `LookupError` is a success."""
    breaker = CircuitBreaker(
        "test",
        BreakerPolicy(classify=lambda call: Outcome.SUCCESS if isinstance(call.error, LookupError) else None),
        clock=FakeClock(),
    )
    with pytest.raises(LookupError), breaker.admit():
        raise LookupError
    with breaker.admit():
        pass
    assert breaker.tallies() == {("success", "LookupError"): 1, ("success", "OK"): 1}


def test_what_a_classifier_sees_of_plain_code(clock: FakeClock) -> None:
    """Outside gRPC a classifier sees the time, the exception and its words."""
    ended: list[EndedCall] = []
    breaker = CircuitBreaker("seen", BreakerPolicy(classify=ended.append), clock=clock)
    gone = LookupError("gone")
    with pytest.raises(LookupError), breaker.admit():
        clock.advance(3)
        raise gone
    with breaker.admit():
        pass
    facts: dict[str, Any] = {"method": "", "code": None, "trailing_metadata": (), "timeout": None}
    assert ended == [
        EndedCall(**facts, details="gone", elapsed=3, error=gone),
        EndedCall(**facts, details="", elapsed=0, error=None),
    ]


def test_classifier_of_decorated_functions() -> None:
    """A classifier decides on the calls of decorated functions and coroutine functions, too, also those that end well."""
    breaker = CircuitBreaker("test", BreakerPolicy(classify=lambda call: Outcome.IGNORED), clock=FakeClock())

    @breaker
    def plain() -> int:
        return 1

    @breaker
    async def coroutine() -> int:
        return 2

    assert (plain(), asyncio.run(coroutine())) == (1, 2)
    assert breaker.tallies() == {("ignored", ""): 2}


def test_leaving_is_no_failure_for_a_classifier_either() -> None:
    """Ctrl-C and the refusal of another breaker are ignored, whatever a classifier would say."""
    breaker = CircuitBreaker("strict", BreakerPolicy(classify=lambda call: Outcome.FAILURE))
    inner = CircuitBreaker("inner")
    inner.force_open()
    with pytest.raises(KeyboardInterrupt), breaker.admit():
        raise KeyboardInterrupt
    with pytest.raises(CircuitOpenError), breaker.admit(), inner.admit():
        pass
    assert breaker.snapshot()["totals"]["ignored"] == 2


def test_classifier_that_is_interrupted() -> None:
    """Ctrl-C inside a classifier reaches the caller, and the permit comes back."""

    def interrupted(call: EndedCall) -> Outcome:
        raise KeyboardInterrupt

    breaker = CircuitBreaker("test", BreakerPolicy(classify=interrupted))
    with pytest.raises(KeyboardInterrupt), breaker.admit():
        pass
    assert (breaker.in_flight, breaker.snapshot()["totals"]["ignored"]) == (0, 1)


class Response:
    """What a client returns, also where the server failed."""

    def __init__(self, status: int) -> None:
        self.status = status


def by_status(call: EndedCall) -> Outcome | None:
    """A response of 500 or more is a failure."""
    return Outcome.FAILURE if isinstance(call.result, Response) and call.result.status >= 500 else None


def test_classifier_sees_what_functions_return() -> None:
    """What a decorated function or coroutine function returns can be a failure, named by its type."""
    breaker = CircuitBreaker("test", BreakerPolicy(classify=by_status), clock=FakeClock())

    @breaker
    def plain(status: int) -> Response:
        return Response(status)

    @breaker
    async def coroutine(status: int) -> Response:
        return Response(status)

    assert (plain(200).status, plain(503).status) == (200, 503)
    assert (asyncio.run(coroutine(200)).status, asyncio.run(coroutine(503)).status) == (200, 503)
    assert breaker.tallies() == {("success", "OK"): 2, ("failure", "Response"): 2}


def test_classifier_sees_what_a_block_says() -> None:
    """A block hands its result to the classifier; what it does afterwards counts for nothing."""
    breaker = CircuitBreaker("test", BreakerPolicy(classify=by_status), clock=FakeClock())
    for status in (200, 503):
        with breaker.admit() as permit:
            permit.conclude(result=Response(status))
            assert permit.settled
    with pytest.raises(LookupError), breaker.admit() as permit:
        permit.conclude(result=Response(200))
        raise LookupError
    assert breaker.tallies() == {("success", "OK"): 2, ("failure", "Response"): 1}


def test_result_without_a_classifier() -> None:
    """Without a classifier every result is a success."""
    breaker = CircuitBreaker("test", clock=FakeClock())
    with breaker.admit() as permit:
        permit.conclude(result=Response(503))
    assert breaker.tallies() == {("success", "OK"): 1}
