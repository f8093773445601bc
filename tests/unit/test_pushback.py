"""Pushback: the server asks to be left alone for a time, and an opening breaker stays open for so long."""

from __future__ import annotations

from typing import Any

import pytest

from grpc_breaker import Outcome, State
from grpc_breaker.testing import EventRecorder
from tests.support.decisions import Guarded, quick


def opened(pushback: float | None, **policy: Any) -> Guarded:
    """A method whose breaker was opened by a call with a pushback."""
    method = Guarded(quick(**policy))
    method.admit().settle(Outcome.FAILURE, "UNAVAILABLE", pushback=pushback)
    assert method.breaker.state is State.OPEN
    return method


@pytest.mark.parametrize(
    ("pushback", "period"),
    [(None, 10), (0.0, 10), (9.0, 10), (25.0, 25), (60.0, 60), (3600.0, 60), (float("inf"), 60), (-5.0, 10)],
)
def test_open_period_is_the_longer_one(pushback: float | None, period: float) -> None:
    """The period is the larger of pushback and `reset_timeout`, and a pushback counts up to `max_reset_timeout`."""
    method = opened(pushback, max_reset_timeout=60)
    assert method.breaker.retry_after == period


def test_event_and_refusals_name_the_longer_period() -> None:
    """The event of the opening and every refusal say when the first probe comes."""
    method = Guarded(quick())
    recorder = EventRecorder(method.breaker)
    method.admit().settle(Outcome.FAILURE, "UNAVAILABLE", pushback=25)
    assert recorder.changes[0].retry_after == 25
    assert str(method.refusal()) == "circuit breaker open for pkg.S/M; next probe in 25.0 s"


def test_longer_reset_timeout_is_not_cut() -> None:
    """`max_reset_timeout` limits what is asked for, and no `reset_timeout` that does not grow."""
    method = opened(3600, reset_timeout=100, max_reset_timeout=60)
    assert method.breaker.retry_after == 100


def test_only_the_call_that_opens_counts() -> None:
    """The pushback of a failure that does not open it has no effect."""
    method = Guarded(quick(consecutive_failures=2))
    method.admit().settle(Outcome.FAILURE, "UNAVAILABLE", pushback=50)
    method.fail()
    assert method.breaker.retry_after == 10


def test_failed_probe_with_a_pushback() -> None:
    """A failed probe that was told to stay away opens it for so long."""
    method = opened(None)
    method.clock.advance(10)
    method.admit().settle(Outcome.FAILURE, "UNAVAILABLE", pushback=40)
    assert (method.breaker.state, method.breaker.retry_after) == (State.OPEN, 40)


def test_pushback_does_not_grow() -> None:
    """The next period is what it would have been without it."""
    method = opened(50, reset_timeout_multiplier=2, max_reset_timeout=100)
    method.clock.advance(50)
    method.fail()
    assert method.breaker.retry_after == 20


def test_success_with_a_pushback_changes_nothing() -> None:
    """A pushback beside a result that opens nothing is only a number."""
    method = Guarded(quick())
    method.admit().settle(Outcome.SUCCESS, "NOT_FOUND", pushback=50)
    method.admit().settle(Outcome.IGNORED, pushback=50)
    assert method.breaker.state is State.CLOSED
