"""User code in the middle of a change of state, on the same thread or another, as finalizers and signal handlers are.

The hook is `random`, which a breaker calls while it makes the change to open. `tests/model/test_reentrant_callers.py`
does the same at every line.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from grpc_breaker import BreakerPolicy, CircuitBreaker, Outcome, Permit, State
from grpc_breaker.testing import EventRecorder, FakeClock
from tests.support.transitions import check_events


class Hook:
    """A source of chance that calls a function the next time it is asked."""

    then: Callable[[], object] | None = None

    def __init__(self) -> None:
        self.returned: list[Any] = []

    def __call__(self) -> float:
        if self.then is not None:
            act, self.then = self.then, None
            self.returned.append(act())
        return 0.0


@pytest.fixture
def hook() -> Hook:
    """What the breaker calls in the middle of an opening."""
    return Hook()


@pytest.fixture
def breaker(hook: Hook, clock: FakeClock) -> CircuitBreaker:
    """One failure opens it."""
    policy = BreakerPolicy(consecutive_failures=1, reset_timeout=10, half_open_max_calls=1)
    return CircuitBreaker("entered", policy, clock=clock, random=hook)


@pytest.fixture
def events(breaker: CircuitBreaker) -> EventRecorder:
    """Its events."""
    return EventRecorder(breaker)


def on_another_thread(act: Callable[[], object]) -> Callable[[], object]:
    """The same, on a thread that is waited for: it must not wait for this one."""

    def run() -> bool:
        thread = threading.Thread(target=act)
        thread.start()
        thread.join(10)
        return thread.is_alive()

    return run


@pytest.mark.parametrize("outcome", list(Outcome))
@pytest.mark.parametrize("elsewhere", [False, True])
def test_call_ends_in_the_middle_of_an_opening(
    breaker: CircuitBreaker, hook: Hook, events: EventRecorder, outcome: Outcome, elsewhere: bool
) -> None:
    """A call that ends in the middle of an opening is counted once, and waits for nothing."""
    late = breaker.admit()
    hook.then = lambda: late.settle(outcome)
    if elsewhere:
        hook.then = on_another_thread(hook.then)
    breaker.admit().failure()
    assert hook.returned == [not elsewhere]
    totals = breaker.snapshot()["totals"]
    assert totals["stale"] + sum(totals[str(it)] for it in Outcome) == 2
    assert (breaker.state, events.states, breaker.in_flight) == (State.OPEN, [State.OPEN], 0)
    assert not late.success()


def test_call_begins_in_the_middle_of_an_opening(breaker: CircuitBreaker, hook: Hook) -> None:
    """A call that begins in the middle of an opening passes, and its result is stale once the breaker is open."""
    hook.then = breaker.try_admit
    breaker.admit().failure()
    (permit,) = hook.returned
    assert isinstance(permit, Permit)
    assert breaker.in_flight == 1
    permit.success()
    assert breaker.snapshot()["totals"]["stale"] == 1


def test_call_begins_as_a_probe_fails(breaker: CircuitBreaker, hook: Hook, clock: FakeClock) -> None:
    """A call that begins while a failed probe opens the breaker again leaves no more probes than the limit."""
    breaker.admit().failure()
    clock.advance(10)
    probe = breaker.admit()
    hook.then = breaker.try_admit
    probe.failure()
    (answer,) = hook.returned
    assert breaker.state is State.OPEN
    assert breaker.in_flight == isinstance(answer, Permit)


def test_operator_in_the_middle_of_an_opening(breaker: CircuitBreaker, hook: Hook, events: EventRecorder) -> None:
    """A command given in the middle of an opening is obeyed, and events have no gap."""
    hook.then = breaker.force_open
    breaker.admit().failure()
    assert (breaker.state, breaker.in_flight) == (State.FORCED_OPEN, 0)
    assert events.states[-1] is State.FORCED_OPEN
    assert [change.sequence for change in events.changes] == list(range(1, len(events.changes) + 1))


def test_call_in_the_middle_of_the_first_probes_change(
    breaker: CircuitBreaker, events: EventRecorder, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two calls that find the open period over, one in the middle of the other, one is the probe."""
    inner: list[object] = []

    def interrupted() -> float:
        monkeypatch.undo()
        inner.append(breaker.try_admit())
        return 0.0

    breaker.admit().failure()
    clock.advance(10)
    monkeypatch.setattr(time, "time", interrupted)  # read once for each event
    outer = breaker.try_admit()
    assert [isinstance(answer, Permit) for answer in (outer, *inner)] == [False, True]
    assert (events.states, breaker.in_flight) == ([State.OPEN, State.HALF_OPEN], 1)


@pytest.mark.parametrize("command", ["force_open", "disable", "reset"])
@pytest.mark.parametrize("another", ["force_open", "disable", "reset"])
def test_command_in_the_middle_of_another(
    breaker: CircuitBreaker, events: EventRecorder, command: str, another: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two commands, the one that is given in the middle of the other is carried out first, and both are obeyed."""

    def interrupted() -> float:
        monkeypatch.undo()
        getattr(breaker, another)()
        return 0.0

    breaker.admit().failure()
    monkeypatch.setattr(time, "time", interrupted)  # read once for each event
    getattr(breaker, command)()
    states = {"force_open": State.FORCED_OPEN, "disable": State.DISABLED, "reset": State.CLOSED}
    assert events.states == [State.OPEN, states[another], *([states[command]] if command != another else [])]
    check_events(events.changes)


def test_snapshot_in_the_middle_of_an_opening(breaker: CircuitBreaker, hook: Hook) -> None:
    """A snapshot taken in the middle of an opening shows the breaker before it."""
    hook.then = breaker.snapshot
    breaker.admit().failure()
    assert (hook.returned[0]["state"], hook.returned[0]["sequence"]) == ("closed", 0)


def test_first_answer_in_the_middle_of_an_opening(breaker: CircuitBreaker, hook: Hook, clock: FakeClock) -> None:
    """The first answer of one probe, in the middle of an opening by another, leaves one legal story."""
    breaker.reconfigure(
        BreakerPolicy(consecutive_failures=1, reset_timeout=10, half_open_max_calls=2, half_open_successes=2)
    )
    events = EventRecorder(breaker)
    breaker.admit().failure()
    clock.advance(10)
    probe, other = breaker.admit(), breaker.admit()
    hook.then = other.answered
    probe.failure()
    assert events.states == [State.OPEN, State.HALF_OPEN, State.OPEN]
    assert breaker.state is State.OPEN
