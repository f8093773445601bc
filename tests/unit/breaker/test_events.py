"""Events: what listeners receive, in which order, and what their trouble costs."""

from __future__ import annotations

import logging
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from itertools import count
from typing import Any
from unittest.mock import Mock

import pytest

from grpc_breaker import BreakerPolicy, CircuitBreaker, Outcome, Permit, State
from grpc_breaker.testing import EventRecorder, FakeClock
from tests.support.core import CORE
from tests.support.lines import act_at
from tests.unit.breaker.calls import trip


def test_every_change_says_which_call_caused_it(clock: FakeClock) -> None:
    """A change names method, context, status and details of the very call that caused it, and what had been counted."""
    policy = BreakerPolicy(
        consecutive_failures=1,
        slow_call_duration=1,
        half_open_max_calls=1,
        half_open_successes=2,
        reset_timeout=10,
        reset_timeout_jitter=0,
    )
    breaker = CircuitBreaker("prices", policy, clock=clock)
    events = EventRecorder(breaker)
    breaker.admit("S/A", "a").failure("INTERNAL", "ill")
    clock.advance(10)
    breaker.admit("S/B", "b").success()
    breaker.admit("S/C", "c").failure("UNKNOWN", "still ill")
    clock.advance(10)
    probe = breaker.admit("S/D", "d")
    clock.advance(2)
    probe.settle(Outcome.SUCCESS, "NOT_FOUND", "slow")
    clock.advance(10)
    breaker.admit("S/E", "e").success()
    breaker.admit("S/F", "f").settle(Outcome.SUCCESS, "NOT_FOUND")
    breaker.admit("S/G", "g").failure()
    clock.advance(10)
    breaker.admit("S/H", "h").ignore()
    breaker.admit("S/I", "i").answered()
    breaker.admit("S/J", "j").answered()
    received = [
        (it.state, it.method, it.context, it.status, it.details, it.calls, it.failures, it.slow)
        for it in events.changes
    ]
    assert received == [
        ("open", "S/A", "a", "INTERNAL", "ill", 1, 1, 0),
        ("half_open", "S/B", "b", "", "", 1, 1, 0),
        ("open", "S/C", "c", "UNKNOWN", "still ill", 2, 1, 0),
        ("half_open", "S/D", "d", "", "", 1, 1, 0),
        ("open", "S/D", "d", "NOT_FOUND", "slow", 1, 0, 1),
        ("half_open", "S/E", "e", "", "", 0, 0, 0),
        ("closed", "S/F", "f", "NOT_FOUND", "", 2, 0, 0),
        ("open", "S/G", "g", "", "", 1, 1, 0),
        ("half_open", "S/H", "h", "", "", 1, 1, 0),
        ("closed", "S/J", "j", "", "", 2, 0, 0),
    ]


def test_event_of_an_opening(breaker: CircuitBreaker, clock: FakeClock) -> None:
    """The event of an opening names the call that caused it, its context, and the failures before it."""
    clock.advance(3)
    events = EventRecorder(breaker)
    trip(breaker)
    (change,) = events.changes
    assert (change.sequence, change.breaker, change.method) == (1, "prices", "pkg.S/M")
    assert (change.previous, change.state, change.reason) == ("closed", "open", "consecutive_failures")
    assert (change.calls, change.failures, change.slow, change.retry_after) == (2, 2, 0, 10.0)
    assert (change.status, change.details, change.context, change.at) == ("UNAVAILABLE", "details 1", "context 1", 3.0)
    assert [reason.details for reason in change.last_failures] == ["details 0", "details 1"]


@pytest.mark.parametrize("window_calls", [None, 20])
def test_last_five_failures_cut_to_length(window_calls: int | None) -> None:
    """Five failures go with an event, the details of each cut to 200 characters."""
    policy = BreakerPolicy(consecutive_failures=7, window_calls=window_calls)
    breaker = CircuitBreaker("test", policy, clock=FakeClock())
    events = EventRecorder(breaker)
    for n in range(7):
        breaker.admit().failure("INTERNAL", str(n) * 1000)
    reasons = events.changes[0].last_failures
    assert [(reason.status, reason.details) for reason in reasons] == [("INTERNAL", str(n) * 200) for n in range(2, 7)]
    assert events.changes[0].details == "6" * 200


# ── Listeners ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_listener_that_raises_is_logged_once(breaker: CircuitBreaker, caplog: pytest.LogCaptureFixture) -> None:
    """A listener that raises is logged once; the others receive the event, and the call goes on."""

    def broken(change: object) -> None:
        raise LookupError

    breaker.on_state_change(broken)
    breaker.on_rejection(broken)
    events = EventRecorder(breaker)
    trip(breaker)
    breaker.reset()
    assert isinstance(breaker.try_admit(), Permit)
    breaker.force_open()
    breaker.try_admit()
    assert len(events.changes) == 3
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    assert f"listener {__name__}" in caplog.text
    assert "broken:" in caplog.text


def test_listener_must_be_callable(breaker: CircuitBreaker) -> None:
    """A listener that cannot be called, or would do nothing when called, is an error at once."""

    async def later(event: object) -> None:
        raise AssertionError(event)

    def never(event: object) -> Iterator[object]:
        yield event

    async def never_either(event: object) -> AsyncIterator[object]:
        yield event

    listener: Any
    for listener in ("print", later, never, never_either):
        for add in (breaker.on_state_change, breaker.on_rejection):
            with pytest.raises(
                TypeError, match="a listener must be callable with one event, and no coroutine or generator"
            ):
                add(listener)


def test_listener_can_be_removed(breaker: CircuitBreaker) -> None:
    """What `on_state_change` returns ends the listener; calling it twice does nothing more."""
    received: list[Any] = []
    end = breaker.on_state_change(received.append)
    breaker.force_open()
    end()
    end()
    breaker.reset()
    assert len(received) == 1


def test_listener_that_ends_itself(breaker: CircuitBreaker) -> None:
    """A listener may end itself while it runs, and the next one still receives the event."""
    received: list[Any] = []
    ends: list[Callable[[], None]] = []
    ends.append(breaker.on_state_change(lambda change: ends[0]()))
    breaker.on_state_change(received.append)
    breaker.force_open()
    breaker.reset()
    assert len(received) == 2


def test_listener_without_a_name(breaker: CircuitBreaker, caplog: pytest.LogCaptureFixture) -> None:
    """A listener that raises, also when asked for its name, is logged under the name of its type."""

    class Proxy:
        gone: type[Exception] = AttributeError

        def __getattr__(self, name: str) -> Any:
            raise self.gone(name)

        def __call__(self, event: object) -> None:
            raise LookupError

    breaker.on_state_change(Proxy())
    Proxy.gone = RuntimeError
    breaker.force_open()
    assert "Proxy raised" in caplog.text


# ── Order ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_listener_that_causes_changes_is_not_nested(breaker: CircuitBreaker) -> None:
    """A listener that causes the next change receives it after it has returned from this one."""
    story: list[str] = []

    def listener(change: Any) -> None:
        story.append(f"begin {change.state}")
        if change.state is State.OPEN:
            breaker.force_open()
        story.append(f"end {change.state}")

    breaker.on_state_change(listener)
    trip(breaker)
    assert story == ["begin open", "end open", "begin forced_open", "end forced_open"]


def test_listener_may_use_the_breaker(breaker: CircuitBreaker) -> None:
    """A listener may call whatever a breaker has, and makes a call like any other."""
    seen: list[Any] = []

    def listener(change: Any) -> None:
        answer = breaker.try_admit()
        seen.append((change.state, breaker.state, breaker.snapshot()["state"], isinstance(answer, Permit)))
        if isinstance(answer, Permit):
            answer.success()

    breaker.on_state_change(listener)
    breaker.force_open()
    breaker.reset()
    assert seen == [("forced_open", "forced_open", "forced_open", False), ("closed", "closed", "closed", True)]
    assert breaker.in_flight == 0


def test_other_threads_go_on_while_a_listener_runs(breaker: CircuitBreaker) -> None:
    """While a listener runs, another thread uses the breaker, and a change that it makes is delivered afterwards."""
    order: list[Any] = []

    def another_thread() -> None:
        order.append(breaker.snapshot()["state"])
        breaker.force_open()
        order.append("forced")

    def listener(change: Any) -> None:
        order.append(f"begin {change.state}")
        if change.state is State.OPEN:
            thread = threading.Thread(target=another_thread)
            thread.start()
            thread.join(10)
            assert not thread.is_alive()
        order.append(f"end {change.state}")

    breaker.on_state_change(listener)
    trip(breaker)
    assert order == ["begin open", "open", "forced", "end open", "begin forced_open", "end forced_open"]


def test_other_threads_go_on_while_a_refusal_is_delivered(breaker: CircuitBreaker) -> None:
    """While a listener of refusals runs, another thread uses the breaker."""
    seen: list[Any] = []

    def listener(rejection: Any) -> None:
        thread = threading.Thread(target=lambda: seen.append(breaker.snapshot()["state"]))
        thread.start()
        thread.join(10)

    breaker.on_rejection(listener)
    breaker.force_open()
    breaker.try_admit()
    assert seen == ["forced_open"]


# ── Interrupts ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_interrupted_listener_does_not_stop_the_next_delivery(breaker: CircuitBreaker) -> None:
    """KeyboardInterrupt in a listener reaches the caller; later events are delivered all the same."""
    received: list[Any] = []

    def interrupted(change: Any) -> None:
        received.append(change.state)
        if len(received) == 1:
            raise KeyboardInterrupt

    breaker.on_state_change(interrupted)
    with pytest.raises(KeyboardInterrupt):
        breaker.force_open()
    breaker.reset()
    assert received == [State.FORCED_OPEN, State.CLOSED]


def test_interrupted_listener_does_not_silence_the_others(breaker: CircuitBreaker) -> None:
    """Ctrl-C in a listener reaches the caller when every listener has received the event."""
    received: list[Any] = []
    breaker.on_state_change(Mock(side_effect=KeyboardInterrupt("first")))
    breaker.on_state_change(Mock(side_effect=KeyboardInterrupt("second")))
    breaker.on_state_change(received.append)
    with pytest.raises(KeyboardInterrupt, match="first"):
        breaker.force_open()
    assert [change.state for change in received] == [State.FORCED_OPEN]


def test_interrupted_listener_costs_no_permit(breaker: CircuitBreaker, clock: FakeClock) -> None:
    """Ctrl-C in a listener of the change to half-open reaches the caller, whose probe gives its slot back."""
    trip(breaker)
    clock.advance(10)
    breaker.on_state_change(Mock(side_effect=[KeyboardInterrupt, None, None]))
    with pytest.raises(KeyboardInterrupt):
        breaker.admit()
    assert (breaker.state, breaker.in_flight) == (State.HALF_OPEN, 0)
    breaker.admit().success()
    assert breaker.state is State.CLOSED


def test_interrupted_listener_that_outlasts_the_probe(breaker: CircuitBreaker, clock: FakeClock) -> None:
    """Ctrl-C in a listener that took longer than the lease of the probe that it interrupts reaches the caller."""
    trip(breaker)
    clock.advance(10)

    def listener(change: Any) -> None:
        clock.advance(30)
        assert breaker.in_flight == 0
        raise KeyboardInterrupt

    end = breaker.on_state_change(listener)
    with pytest.raises(KeyboardInterrupt):
        breaker.admit()
    end()
    assert breaker.admit().is_probe


def test_interrupted_listener_of_refusals(breaker: CircuitBreaker) -> None:
    """Ctrl-C in a listener of refusals reaches the refused caller; the refusal is counted."""
    breaker.on_rejection(Mock(side_effect=KeyboardInterrupt))
    breaker.force_open()
    with pytest.raises(KeyboardInterrupt):
        breaker.try_admit()
    assert breaker.snapshot()["totals"]["rejected"] == 1


def test_interrupted_delivery_does_not_stop_the_next(clock: FakeClock) -> None:
    """Ctrl-C at any line of a delivery reaches the caller and costs that event at most; the next change is delivered."""
    for at in count(1):
        breaker = CircuitBreaker("interrupted", clock=clock)
        events = EventRecorder(breaker)
        try:
            if not act_at({str(CORE / "delivery.py")}, breaker.force_open, Mock(side_effect=KeyboardInterrupt), at):
                break
        except KeyboardInterrupt:
            breaker.reset()
        assert events.states[-1] is State.CLOSED
        assert events.states.count(State.CLOSED) == 1
    assert at > 10
