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
