"""Hung calls: in flight for longer than `hung_after`, and so one failure each, before they end."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from grpc_breaker import BreakerPolicy, BreakerRegistry, CircuitBreaker, Outcome, Permit, Reason, State
from grpc_breaker.testing import EventRecorder, FakeClock
from tests.support.core import WATCHED
from tests.support.decisions import METHOD, Guarded, quick
from tests.support.lines import lines_run


def watched(failures: int = 3, **policy: object) -> Guarded:
    """A method whose calls hang after two seconds."""
    return Guarded(quick(consecutive_failures=failures, hung_after=2.0, **policy))


def ask(method: Guarded) -> None:
    """Another call comes, and ends without a result."""
    answer = method.breaker.try_admit(METHOD)
    if isinstance(answer, Permit):
        answer.ignore()


def test_hung_call_is_one_failure_now() -> None:
    """Once it has been in flight for longer, the next call that asks counts it."""
    method = watched()
    method.admit()
    method.clock.advance(2.0)
    ask(method)
    assert method.breaker.snapshot()["window"]["failures"] == 0
    method.clock.advance(0.25)
    ask(method)
    snapshot = method.breaker.snapshot()
    assert (snapshot["window"]["failures"], snapshot["hung"], snapshot["in_flight"]) == (1, 1, 1)


def test_hung_call_is_counted_once() -> None:
    """However many calls ask, and however long it hangs, it is one failure."""
    method = watched(failures=2)
    method.admit()
    for _ in range(10):
        method.clock.advance(3)
        ask(method)
    assert method.breaker.snapshot()["totals"]["failure"] == 1
    assert method.breaker.state is State.CLOSED


def test_it_is_counted_under_a_name_of_its_own() -> None:
    """The failure has the status HUNG, and says for how long there was no answer."""
    method = watched()
    method.admit()
    method.clock.advance(3)
    ask(method)
    assert method.breaker.tallies()["failure", "HUNG"] == 1
    assert method.breaker.snapshot()["last_failures"] == [{"status": "HUNG", "details": "no answer after 2 s"}]


def test_hung_calls_open_the_breaker() -> None:
    """So many hung calls as `consecutive_failures` open it, and the event says so; the call that asked is refused."""
    method = watched(failures=3)
    recorder = EventRecorder(method.breaker)
    for n in range(3):
        method.admit(context=f"call {n}")
    method.clock.advance(3)
    assert method.refusal()
    (change,) = recorder.changes
    assert (change.state, change.reason, change.failures) == (State.OPEN, Reason.CONSECUTIVE_FAILURES, 3)
    assert (change.status, change.method, change.context) == ("HUNG", METHOD, "call 2")
    assert method.breaker.snapshot()["hung"] == 3


@pytest.mark.parametrize("outcome", list(Outcome))
def test_later_end_is_stale(outcome: Outcome) -> None:
    """Whatever a hung call ends with, its end is counted as stale and changes nothing; it ends once."""
    method = watched()
    hung = method.admit()
    method.clock.advance(3)
    ask(method)
    assert not hung.settled
    assert hung.settle(outcome, "STATUS")
    assert not hung.settle(outcome, "STATUS")
    snapshot = method.breaker.snapshot()
    assert snapshot["totals"]["stale"] == 1
    assert snapshot["window"]["failures"] == snapshot["window"]["calls"] == 1
    assert (snapshot["hung"], snapshot["in_flight"]) == (0, 0)


def test_block_of_a_hung_call_ends_like_any_other() -> None:
    """A `with` block that hung and then raises gives its permit back."""
    method = watched()
    with pytest.raises(LookupError), method.admit():
        method.clock.advance(3)
        ask(method)
        raise LookupError
    assert method.breaker.in_flight == 0


def test_call_that_ends_in_time_is_not_hung() -> None:
    """A call that took long but has ended before another asked counts as what it ended with."""
    method = watched()
    slow = method.admit()
    method.clock.advance(60)
    slow.success()
    ask(method)
    totals = method.breaker.snapshot()["totals"]
    assert (totals["success"], totals["failure"]) == (1, 0)


def test_streams_are_not_judged() -> None:
    """How long a stream takes is its own."""
    method = watched(failures=1)
    method.admit(timed=False)
    method.clock.advance(1000)
    ask(method)
    assert method.breaker.snapshot()["hung"] == 0
    assert method.breaker.state is State.CLOSED


def test_calls_beside_streams_are_judged() -> None:
    """In a group calls of one answer are found among streams that came before them."""
    clock = FakeClock()
    policy = quick(consecutive_failures=2, hung_after=2, group="shared")
    breakers = BreakerRegistry({"pkg.S/Watch": policy, "pkg.S/Ask": policy}, clock=clock)
    breaker = breakers["shared"]
    for _ in range(3):
        breaker.admit("pkg.S/Watch", timed=False)
    breaker.admit("pkg.S/Ask")
    breaker.admit("pkg.S/Watch", timed=False)
    clock.advance(3)
    breaker.admit("pkg.S/Ask").ignore()
    assert breaker.snapshot()["hung"] == 1


def test_younger_calls_are_not_hung() -> None:
    """Only those are counted that have been there for too long; the others when their time comes."""
    method = watched(failures=9)
    method.admit()
    method.clock.advance(1.5)
    method.admit()
    method.clock.advance(1)
    ask(method)
    assert method.breaker.snapshot()["hung"] == 1
    method.clock.advance(1.25)
    ask(method)
    assert method.breaker.snapshot()["hung"] == 2


def test_hung_probe_opens_it_again() -> None:
    """A probe that hangs has failed, and its slot goes with the half-open state."""
    method = watched(failures=1)
    method.fail()
    method.clock.advance(10)
    probe = method.admit()
    method.clock.advance(3)
    assert method.refusal()
    assert method.breaker.changes[-1].reason is Reason.PROBE_FAILED
    assert (method.breaker.state, probe.is_probe) == (State.OPEN, False)
    assert probe.success()
    assert method.breaker.state is State.OPEN


def test_lease_of_a_hung_call_ends_like_any_other() -> None:
    """After its lease a hung call is in flight no more, and its end is stale."""
    method = watched()
    hung = method.admit(timeout=3)
    method.clock.advance(3)
    ask(method)
    assert method.breaker.snapshot()["hung"] == 1
    method.clock.advance(5)
    assert method.breaker.in_flight == 0
    assert hung.failure()
    assert method.breaker.snapshot()["totals"]["stale"] == 1


def test_call_whose_lease_has_ended_is_not_hung() -> None:
    """What was given up before it was found is no failure."""
    method = watched(failures=1)
    method.admit(timeout=1)
    method.clock.advance(60)
    ask(method)
    assert method.breaker.snapshot()["totals"]["failure"] == 0


def test_calls_of_an_earlier_generation_are_no_failures() -> None:
    """A call from before a reset that hangs says nothing about what was counted since."""
    method = watched(failures=1)
    method.admit()
    method.breaker.reset()
    method.clock.advance(3)
    ask(method)
    assert method.breaker.state is State.CLOSED
    assert method.breaker.snapshot()["totals"]["failure"] == 0


def test_hung_call_is_slow_too() -> None:
    """A hung call counts for the slow rate like a failure that took so long."""
    policy = BreakerPolicy(slow_call_duration=1, slow_call_rate=1.0, minimum_calls=1, hung_after=2)
    method = Guarded(policy)
    method.admit()
    method.clock.advance(3)
    assert method.refusal()
    assert method.breaker.changes[-1].reason is Reason.SLOW_CALL_RATE


def test_shorter_time_is_in_force_at_once() -> None:
    """Another `hung_after` judges the calls that are there."""
    method = Guarded(quick(hung_after=1000, consecutive_failures=5))
    method.admit()
    method.clock.advance(5)
    ask(method)
    method.breaker.reconfigure(quick(hung_after=2, consecutive_failures=5))
    ask(method)
    assert method.breaker.snapshot()["hung"] == 1


def test_hung_calls_are_shown_whether_another_call_has_come_or_not() -> None:
    """What hangs is shown by its time alone, also while the breaker is open and calls find nothing; no stream is."""
    method = watched(failures=1)
    method.admit()
    method.admit(timed=False)
    method.fail()
    method.clock.advance(2.0)
    assert method.breaker.snapshot()["hung"] == 0
    method.clock.advance(0.25)
    assert method.refusal()
    assert (method.breaker.state, method.breaker.snapshot()["hung"]) == (State.OPEN, 1)
    method.breaker.force_open()
    assert method.breaker.snapshot()["hung"] == 1
    assert method.breaker.snapshot()["totals"]["failure"] == 1


def test_hook_that_calls_again_counts_each_once() -> None:
    """A listener of the change that hung calls cause asks again in the middle: none is counted twice."""
    method = watched(failures=2)
    for _ in range(4):
        method.admit()
    method.clock.advance(3)
    method.breaker.on_state_change(lambda _: ask(method))
    ask(method)
    totals = method.breaker.snapshot()["totals"]
    assert totals["failure"] == 2
    assert method.breaker.snapshot()["hung"] == 4


def test_interrupted_search_leaves_the_breaker_whole() -> None:
    """What a listener of the opening raises, like Ctrl-C, reaches the caller that asked; no place was taken for it."""
    method = watched(failures=1)
    method.admit()
    method.admit()
    method.clock.advance(3)

    def interrupt(_: object) -> None:
        raise KeyboardInterrupt

    end = method.breaker.on_state_change(interrupt)
    with pytest.raises(KeyboardInterrupt):
        method.admit()
    end()
    ask(method)
    snapshot = method.breaker.snapshot()
    assert (snapshot["state"], snapshot["hung"], snapshot["in_flight"]) == ("open", 2, 2)


def crowd(breaker: CircuitBreaker, kinds: Callable[[int], bool], calls: int) -> None:
    """So many calls in flight, streams where `kinds` says False."""
    for n in range(calls):
        breaker.admit(timed=kinds(n))


@pytest.mark.parametrize("timed", [True, False], ids=["calls", "streams"])
def test_admission_costs_the_same_whatever_is_in_flight(timed: bool) -> None:
    """While none may be hung, an admission looks at no call in flight."""

    def cost(calls: int) -> int:
        method = watched()
        crowd(method.breaker, lambda _: timed, calls)
        method.clock.advance(1.5)
        ask(method)
        return sum(lines_run(WATCHED, lambda: ask(method)).values())

    assert cost(10) == cost(1000)


def test_admission_costs_the_same_with_streams_that_are_old() -> None:
    """Streams that have lived for long are looked at once in a while, not by each call."""

    def cost(calls: int) -> int:
        method = watched()
        crowd(method.breaker, lambda _: False, calls)
        method.clock.advance(100)
        ask(method)
        method.clock.advance(0.5)
        return sum(lines_run(WATCHED, lambda: ask(method)).values())

    assert cost(10) == cost(1000)


def test_admission_costs_the_same_with_calls_that_were_counted() -> None:
    """Hung calls that were counted are not looked at again by each call."""

    def cost(calls: int) -> int:
        method = watched(failures=1_000_000)
        crowd(method.breaker, lambda _: True, calls)
        method.clock.advance(3)
        ask(method)
        method.clock.advance(0.5)
        return sum(lines_run(WATCHED, lambda: ask(method)).values())

    assert cost(10) == cost(1000)
