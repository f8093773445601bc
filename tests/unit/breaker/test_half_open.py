"""A half-open breaker: its probes, their slots and leases, and what their results do."""

from __future__ import annotations

from dataclasses import replace

import pytest

from grpc_breaker import BreakerPolicy, BreakerRegistry, CircuitBreaker, Outcome, Permit, Reason, Rejection, State
from grpc_breaker.testing import EventRecorder, FakeClock
from tests.unit.breaker.calls import probe_of, trip

ONE_SLOT = BreakerPolicy(
    consecutive_failures=1, reset_timeout=10, reset_timeout_jitter=0, half_open_max_calls=1, half_open_successes=2
)


def one_slot(clock: FakeClock, successes: int = 2, half_open_for: float = 0) -> CircuitBreaker:
    """A breaker with one slot for a probe, whose open period is over, or that has been half-open for so long."""
    breaker = CircuitBreaker("slot", replace(ONE_SLOT, half_open_successes=successes), clock=clock)
    breaker.admit().failure()
    clock.advance(10)
    if half_open_for:
        breaker.admit(timeout=1)
        clock.advance(half_open_for)
    return breaker


def test_no_more_probes_than_the_limit(clock: FakeClock) -> None:
    """As many probes are in flight as `half_open_max_calls` says; the next call is refused until one of them ends."""
    policy = BreakerPolicy(consecutive_failures=1, reset_timeout=10, reset_timeout_jitter=0, half_open_max_calls=2)
    breaker = CircuitBreaker("prices", policy, clock=clock)
    breaker.admit().failure()
    clock.advance(10)
    probes = [breaker.admit(), breaker.admit()]
    assert [probe.is_probe for probe in probes] == [True, True]
    refusal = breaker.try_admit()
    assert isinstance(refusal, Rejection)
    assert refusal.details == "circuit breaker half_open for prices; 2 probes in flight"
    probes[0].ignore()
    assert isinstance(breaker.try_admit(), Permit)
    assert isinstance(breaker.try_admit(), Rejection)


def test_enough_successes_close_it(clock: FakeClock) -> None:
    """A breaker closes after `half_open_successes` probes, fewer of them in flight at once or not."""
    policy = BreakerPolicy(
        consecutive_failures=1, reset_timeout=10, reset_timeout_jitter=0, half_open_max_calls=1, half_open_successes=3
    )
    breaker = CircuitBreaker("prices", policy, clock=clock)
    breaker.admit().failure()
    clock.advance(10)
    rows = []
    for _ in range(3):
        rows.append(breaker.snapshot()["window"]["consecutive_failures"])
        assert breaker.admit().success()
    assert breaker.state is State.CLOSED
    assert rows == [1, 0, 0], "a success ends the row, for display, too"


def test_one_failure_reopens_it(breaker: CircuitBreaker, clock: FakeClock) -> None:
    """A failed probe opens the breaker for another open period, and says why."""
    events = EventRecorder(breaker)
    probe_of(breaker, clock).failure("UNAVAILABLE")
    assert events.states == [State.OPEN, State.HALF_OPEN, State.OPEN]
    assert (events.changes[-1].reason, breaker.retry_after) == (Reason.PROBE_FAILED, 10)
    assert [reason.status for reason in events.changes[-1].last_failures] == ["UNAVAILABLE"] * 3


def test_probe_that_fails_with_the_incident_that_opened_it(clock: FakeClock) -> None:
    """A probe that the same lost connection fails opens the breaker again, and the row stays one failure long."""
    policy = BreakerPolicy(consecutive_failures=1, reset_timeout=0.125, reset_timeout_jitter=0)
    breaker = CircuitBreaker("prices", policy, clock=clock)
    rows = []
    for _ in range(3):
        breaker.admit().settle(Outcome.FAILURE, "UNAVAILABLE", incident=0.25)
        assert breaker.state is State.OPEN
        rows.append(breaker.snapshot()["window"]["consecutive_failures"])
        clock.advance(breaker.retry_after or 0)
    assert rows == [1, 1, 2], "the third is more than a quarter of a second after the first"


def test_slow_probe_says_so(clock: FakeClock) -> None:
    """A probe that was slow opens the breaker for that reason, and grows the period as a failed one does."""
    policy = BreakerPolicy(
        consecutive_failures=1,
        slow_call_duration=1,
        reset_timeout=10,
        reset_timeout_jitter=0,
        reset_timeout_multiplier=2,
        half_open_max_calls=1,
    )
    breaker = CircuitBreaker("prices", policy, clock=clock)
    events = EventRecorder(breaker)
    for _ in range(2):  # growth is forgotten after a close
        breaker.admit().failure()
        clock.advance(10)
        probe = breaker.admit()
        clock.advance(2)
        probe.success()
        assert (events.changes[-1].reason, breaker.retry_after) == (Reason.PROBE_SLOW, 20)
        assert breaker.snapshot()["window"]["consecutive_failures"] == 0
        clock.advance(20)
        breaker.admit().success()
        assert breaker.state is State.CLOSED


@pytest.mark.parametrize("status", ["OK", "NOT_FOUND"])
def test_probe_as_slow_as_allowed(clock: FakeClock, status: str) -> None:
    """A probe that took just as long as a call may is not slow."""
    policy = BreakerPolicy(
        consecutive_failures=1, slow_call_duration=1, reset_timeout=10, reset_timeout_jitter=0, half_open_max_calls=1
    )
    breaker = CircuitBreaker("prices", policy, clock=clock)
    breaker.admit().failure()
    clock.advance(10)
    probe = breaker.admit()
    clock.advance(1)
    probe.settle(Outcome.SUCCESS, status)
    assert breaker.state is State.CLOSED


def test_refusal_while_probes_are_in_flight(breaker: CircuitBreaker, clock: FakeClock) -> None:
    """A half-open breaker refuses with its policy's code, for the reason that opened it, and says how many probes fly."""
    breaker.reconfigure(replace(breaker.policy, refusal_code="ABORTED"))
    probe_of(breaker, clock)
    refusal = breaker.try_admit()
    assert isinstance(refusal, Rejection)
    assert (refusal.code, refusal.condition, refusal.probes) == ("ABORTED", Reason.CONSECUTIVE_FAILURES, 1)
    assert repr(refusal) == "<Rejection: circuit breaker half_open for prices; 1 probe in flight>"


def test_probe_that_closes_it_ended_with_ok(breaker: CircuitBreaker, clock: FakeClock) -> None:
    """The event of the close has the status of the probe, OK for a success and a block that ended well, and no details."""
    events = EventRecorder(breaker)
    probe_of(breaker, clock).success()
    with probe_of(breaker, clock):
        pass
    closes = [(change.status, change.details) for change in events.changes if change.state is State.CLOSED]
    assert closes == [("OK", ""), ("OK", "")]


def test_ignored_probe_frees_its_slot(breaker: CircuitBreaker, clock: FakeClock) -> None:
    """A probe that says nothing about the server neither closes nor opens the breaker; the next call is a probe again."""
    probe_of(breaker, clock).ignore()
    assert breaker.state is State.HALF_OPEN
    assert breaker.admit().is_probe


# ── Streams ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_first_answer_of_a_stream_is_its_success(clock: FakeClock) -> None:
    """A probe stream whose first answer has come frees its slot and counts as a success, once."""
    breaker = one_slot(clock)
    stream = breaker.admit()
    stream.answered()
    stream.answered()
    assert (breaker.state, stream.is_probe, stream.settled) == (State.HALF_OPEN, False, False)
    assert breaker.admit().is_probe
    assert stream.success()
    assert breaker.state is State.HALF_OPEN


def test_answered_stream_that_fails_reopens(clock: FakeClock) -> None:
    """A failing end of a stream that was answered opens a breaker that is still half-open."""
    breaker = one_slot(clock)
    stream = breaker.admit()
    stream.answered()
    assert stream.failure()
    assert breaker.state is State.OPEN


def test_answered_stream_that_fails_after_the_close_is_stale(breaker: CircuitBreaker, clock: FakeClock) -> None:
    """A failing end of a probe stream that comes when the breaker has closed is stale."""
    stream = probe_of(breaker, clock)
    stream.answered()
    assert breaker.state is State.CLOSED
    assert stream.failure()
    assert breaker.snapshot()["totals"]["stale"] == 1


def test_first_answer_means_nothing_outside_half_open(breaker: CircuitBreaker) -> None:
    """The first answer of a stream in a closed breaker is no result."""
    stream = breaker.admit()
    stream.answered()
    assert (stream.settled, breaker.snapshot()["totals"]["success"]) == (False, 0)


def test_answer_of_a_probe_from_before_a_reset_changes_nothing(breaker: CircuitBreaker, clock: FakeClock) -> None:
    """The first answer of a probe that comes after an operator closed the breaker is no result of the closed breaker."""
    stream = probe_of(breaker, clock)
    breaker.reset()
    breaker.admit().failure()
    stream.answered()
    assert breaker.snapshot()["window"] == {"calls": 1, "failures": 1, "slow": 0, "consecutive_failures": 1}


def test_when_an_answer_is_awaited(breaker: CircuitBreaker, clock: FakeClock) -> None:
    """A first answer is news for a probe and after a failure, once; not in a breaker where all went well."""
    first, second = breaker.admit(), breaker.admit()
    assert not first.awaits_answer
    breaker.admit().failure()
    assert (first.awaits_answer, second.awaits_answer) == (True, True)
    first.answered()
    second.success()
    assert (first.awaits_answer, second.awaits_answer) == (False, False)
    probe = probe_of(breaker, clock)
    assert probe.awaits_answer
    breaker.reset()
    assert not probe.awaits_answer


# ── Leases ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_expired_probe_frees_its_slot(breaker: CircuitBreaker, clock: FakeClock) -> None:
    """A probe not heard of for `probe_timeout` holds its slot until then, and no longer."""
    lost = probe_of(breaker, clock)
    clock.advance(29.75)
    assert (lost.is_probe, lost.settled, breaker.in_flight) == (True, False, 1)
    assert isinstance(breaker.try_admit(), Rejection)
    clock.advance(0.25)
    assert (lost.is_probe, breaker.in_flight) == (False, 0)
    assert repr(breaker) == "<CircuitBreaker 'prices' half_open: 0 of 1 probes succeeded, 0 in flight>"
    breaker.admit().success()
    assert breaker.state is State.CLOSED


@pytest.mark.parametrize("outcome", list(Outcome))
@pytest.mark.parametrize("looked_at", [False, True])
def test_result_of_an_expired_probe_is_stale(
    breaker: CircuitBreaker, clock: FakeClock, outcome: Outcome, looked_at: bool
) -> None:
    """A result that comes after its probe's lease has ended changes nothing, whether the breaker was read meanwhile."""
    lost = probe_of(breaker, clock)
    clock.advance(30)
    if looked_at:
        assert breaker.in_flight == 0
    assert lost.settle(outcome)
    assert not lost.settle(outcome)
    totals = breaker.snapshot()["totals"]
    assert (breaker.state, totals["stale"], totals["success"]) == (State.HALF_OPEN, 1, 0)


@pytest.mark.parametrize("looked_at", [False, True])
def test_silent_stream_that_stays_open_is_a_success(clock: FakeClock, looked_at: bool) -> None:
    """A watch that waits for news, and has not failed for `probe_timeout`, holds no other watch back: when so many have
    stayed as must succeed, the next call finds the breaker closed.
    """
    breaker = one_slot(clock)
    watches = []
    for _ in range(2):
        watches.append(breaker.admit(timed=False))
        clock.advance(29.75)
        assert (breaker.state, isinstance(breaker.try_admit(timed=False), Rejection)) == (State.HALF_OPEN, True)
        clock.advance(0.25)
        if looked_at:
            breaker.snapshot()
    assert not breaker.admit(timed=False).is_probe
    assert (breaker.state, breaker.changes[-1].reason) == (State.CLOSED, Reason.PROBES_SUCCEEDED)
    assert all(watch.failure("UNAVAILABLE") for watch in watches)
    assert (breaker.state, breaker.tallies()) == (
        State.CLOSED,
        {("failure", ""): 1, ("stale", "UNAVAILABLE"): 2, ("rejected", "breaker"): 2},
    )


def test_silent_stream_that_is_answered_after_its_lease(clock: FakeClock) -> None:
    """It has stayed open like any other: the next call counts it."""
    breaker = one_slot(clock, successes=1)
    watch = breaker.admit(timed=False)
    clock.advance(30)
    watch.answered()
    assert breaker.state is State.HALF_OPEN
    assert not breaker.admit(timed=False).is_probe


@pytest.mark.parametrize("outcome", list(Outcome))
def test_end_of_a_silent_stream_that_has_stayed(clock: FakeClock, outcome: Outcome) -> None:
    """It is stale, however long the breaker has been half-open."""
    breaker = one_slot(clock, successes=3, half_open_for=30)
    watch = breaker.admit(timed=False)
    clock.advance(30)
    breaker.admit(timed=False)
    assert watch.settle(outcome, "UNAVAILABLE")
    assert repr(breaker) == "<CircuitBreaker 'slot' half_open: 1 of 3 probes succeeded, 1 in flight>"
    assert breaker.tallies()["stale", "UNAVAILABLE"] == 1


@pytest.mark.parametrize("looked_at", [False, True])
@pytest.mark.parametrize(
    ("timed", "timeout", "end"),
    [
        (True, None, None),
        (False, 10, None),
        (False, None, "failure"),
        (False, None, "ignore"),
        (False, None, "answered"),
    ],
)
def test_what_is_no_silent_stream(
    clock: FakeClock, timed: bool, timeout: float | None, end: str | None, looked_at: bool
) -> None:
    """A call of one answer that hangs, a stream whose deadline has passed, and one that has ended, if only after its
    lease, are no success; a stream that was answered is one, once.
    """
    breaker = one_slot(clock)
    probe = breaker.admit(timed=timed, timeout=timeout)
    if end == "answered":
        probe.answered()
    clock.advance(30)
    if looked_at:
        breaker.snapshot()
    if end in ("failure", "ignore"):
        getattr(probe, end)()
    probes = 1 if end == "answered" else 0
    next_one = breaker.admit(timed=False)
    assert repr(breaker) == f"<CircuitBreaker 'slot' half_open: {probes} of 2 probes succeeded, 1 in flight>"
    assert next_one.is_probe


@pytest.mark.parametrize("looked_at", [False, True])
@pytest.mark.parametrize("took", [20.0, 45.0, 200.0])
def test_method_whose_calls_take_longer_than_a_probe_may(clock: FakeClock, took: float, looked_at: bool) -> None:
    """It closes all the same: the longer it is half-open, the longer are the leases of probes."""
    breaker = one_slot(clock)
    calls: list[tuple[float, Permit]] = []
    for _ in range(1000):
        while calls and calls[0][0] <= clock():
            calls.pop(0)[1].success()
        answer = breaker.try_admit(timeout=300)
        if isinstance(answer, Permit):
            calls.append((clock() + took, answer))
        if looked_at:
            breaker.snapshot()
        clock.advance(1)
    assert breaker.state is State.CLOSED
    assert [it.state for it in breaker.changes] == [State.OPEN, State.HALF_OPEN, State.CLOSED]


def lease_of_next_probe(breaker: CircuitBreaker, clock: FakeClock) -> float:
    """Seconds until a probe is given up."""
    probe, began = breaker.admit(), clock()
    assert probe.is_probe
    while not probe.settled:
        clock.advance(0.5)
    return clock() - began


@pytest.mark.parametrize("looked_at", [False, True])
def test_leases_grow_while_it_is_half_open(clock: FakeClock, looked_at: bool) -> None:
    """Those of calls of one answer last four times as long as it has been half-open, and in the next half-open state as
    long as ever.
    """
    breaker = one_slot(clock)
    leases = []
    for _ in range(3):
        leases.append(lease_of_next_probe(breaker, clock))
        if looked_at:
            breaker.snapshot()
    assert leases == [30, 4 * 30, 4 * 150]
    breaker.admit().failure()
    clock.advance(10)
    assert lease_of_next_probe(breaker, clock) == 30


@pytest.mark.parametrize("outcome", list(Outcome))
def test_slot_ends_before_the_lease(clock: FakeClock, outcome: Outcome) -> None:
    """A probe with a longer lease loses its slot as early as others, and its result counts when it comes."""
    breaker = one_slot(clock, successes=1, half_open_for=30)
    probe = breaker.admit()
    clock.advance(29.5)
    assert (probe.is_probe, isinstance(breaker.try_admit(), Rejection)) == (True, True)
    clock.advance(0.5)
    assert (probe.is_probe, probe.settled) == (False, False)
    next_one = breaker.admit()
    assert next_one.is_probe
    assert probe.settle(outcome)
    assert breaker.state is (State.OPEN if outcome is Outcome.FAILURE else State.CLOSED)
    assert not next_one.is_probe


def test_answer_and_success_of_one_call_are_one_success(clock: FakeClock) -> None:
    """Also where it was answered, and has lost its slot, before it ended."""
    breaker = one_slot(clock, half_open_for=30)
    probe = breaker.admit()
    probe.answered()
    clock.advance(30)
    probe.success()
    assert breaker.state is State.HALF_OPEN


def test_asking_whether_a_call_would_be_admitted_counts_no_silent_stream(clock: FakeClock) -> None:
    """Only a call that is made finds that a watch has stayed open; who asks before it changes nothing."""
    breakers = BreakerRegistry(default=ONE_SLOT, clock=clock)
    breaker = breakers["pkg.S/Watch"]
    breaker.admit().failure()
    for _ in range(2):
        clock.advance(30)
        assert breakers.wait_until_admitted("pkg.S/Watch", 0)
        assert breaker.admit(timed=False).is_probe
    clock.advance(30)
    assert breakers.wait_until_admitted("pkg.S/Watch", 0)
    assert breaker.state is State.HALF_OPEN
    assert not breaker.admit(timed=False).is_probe


def test_answer_of_an_expired_probe_counts_for_nothing(breaker: CircuitBreaker, clock: FakeClock) -> None:
    """The first answer of a stream whose probe has expired neither closes the breaker nor counts."""
    lost = probe_of(breaker, clock)
    clock.advance(30)
    lost.answered()
    assert breaker.state is State.HALF_OPEN


def test_probe_with_a_deadline_of_its_own(breaker: CircuitBreaker, clock: FakeClock) -> None:
    """It is given up, and its slot is free, five seconds after its deadline, where that is earlier."""
    probe_of(breaker, clock).ignore()
    clock.advance(10)
    lost = breaker.admit(timeout=10)
    clock.advance(14.5)
    assert (lost.settled, isinstance(breaker.try_admit(), Rejection)) == (False, True)
    clock.advance(0.5)
    assert (lost.settled, breaker.admit().is_probe) == (True, True)


def test_expired_probe_does_not_take_its_slot_from_the_next(breaker: CircuitBreaker, clock: FakeClock) -> None:
    """The late result of an expired probe leaves the slot to the probe that holds it now."""
    lost = probe_of(breaker, clock)
    clock.advance(30)
    probe = breaker.admit()
    lost.failure()
    assert (breaker.state, probe.is_probe, breaker.in_flight) == (State.HALF_OPEN, True, 1)
    assert isinstance(breaker.try_admit(), Rejection)
    assert probe.success()
    assert breaker.state is State.CLOSED


def test_refusal_says_how_many_probes_are_in_flight(breaker: CircuitBreaker, clock: FakeClock) -> None:
    """A half-open breaker refuses with `retry_after` 0, because a slot may be free at any moment."""
    probe_of(breaker, clock)
    rejection = breaker.try_admit()
    assert isinstance(rejection, Rejection)
    assert (rejection.retry_after, rejection.probes) == (0.0, 1)
    assert rejection.details == "circuit breaker half_open for prices; 1 probe in flight"
    assert rejection.condition == "consecutive_failures"


def test_probes_of_an_earlier_half_open_period_hold_no_slot(breaker: CircuitBreaker, clock: FakeClock) -> None:
    """A probe that is still in flight when the breaker has opened again holds no slot in its next half-open period."""
    breaker.reconfigure(
        BreakerPolicy(consecutive_failures=2, reset_timeout=10, reset_timeout_jitter=0, half_open_max_calls=2)
    )
    trip(breaker)
    clock.advance(10)
    old, failing = breaker.admit(), breaker.admit()
    failing.failure()
    clock.advance(10)
    assert [breaker.admit().is_probe for _ in range(2)] == [True, True]
    assert not old.is_probe
    old.success()
    assert breaker.snapshot()["totals"]["stale"] == 1
    assert breaker.state is State.HALF_OPEN


def test_ignored_probes_let_traffic_through_at_a_pace_only(clock: FakeClock) -> None:
    """Probes that teach nothing hand their slots on, in each `reset_timeout` the first at once, the others at its end."""
    policy = BreakerPolicy(
        consecutive_failures=1, reset_timeout=10, reset_timeout_jitter=0, half_open_max_calls=3, probe_timeout=61
    )
    breaker = CircuitBreaker("cancelled", policy, clock=clock)
    breaker.admit().failure()
    clock.advance(13)
    passed: list[int] = []
    for _ in range(60):
        passed.append(0)
        for _ in range(10):
            permit = breaker.try_admit()
            if isinstance(permit, Permit):
                permit.ignore()
                passed[-1] += 1
        clock.advance(1)
    assert {second: calls for second, calls in enumerate(passed) if calls} == dict.fromkeys([0, *range(7, 60, 10)], 4)
    assert breaker.state is State.HALF_OPEN


def test_slots_of_ignored_probes_wait_no_longer_than_a_probe_may(clock: FakeClock) -> None:
    """With a `reset_timeout` of a minute, the slot of an ignored probe is free again after `probe_timeout`, too."""
    policy = BreakerPolicy(
        consecutive_failures=1, reset_timeout=60, reset_timeout_jitter=0, half_open_max_calls=1, probe_timeout=5
    )
    breaker = CircuitBreaker("slow to open", policy, clock=clock)
    breaker.admit().failure()
    clock.advance(61)
    for _ in range(2):  # the slot of the first is handed on at once
        breaker.admit().ignore()
    assert isinstance(breaker.try_admit(), Rejection)
    clock.advance(5)
    assert isinstance(breaker.try_admit(), Permit)


def test_callers_that_need_several_breakers_at_once(clock: FakeClock) -> None:
    """Pages of five calls, of as many methods, are given up where one call is refused: their breakers, which opened at
    different moments, hand on the slots of such probes together, so that a page finds a slot in each.
    """
    breakers = [CircuitBreaker(f"method {n}", BreakerPolicy(reset_timeout_jitter=0), clock=clock) for n in range(5)]
    for breaker in breakers:
        for _ in range(5):
            breaker.admit().failure()
        clock.advance(0.1875)
    for _ in range(3 * 32):
        answers = [breaker.try_admit() for breaker in breakers]
        refused = any(isinstance(answer, Rejection) for answer in answers)
        clock.advance(0.03125)
        for answer in answers:
            if isinstance(answer, Permit):
                answer.settle(Outcome.IGNORED if refused else Outcome.SUCCESS)
    assert {breaker.state for breaker in breakers} == {State.CLOSED}


@pytest.mark.parametrize("timed", [True, False])
def test_callers_that_give_up_every_call(clock: FakeClock, timed: bool) -> None:
    """They keep no breaker half-open for ever: once no probe has failed for `probe_timeout`, ignored ones close it."""
    breaker = one_slot(clock)
    probes: list[str] = []
    for _ in range(4):
        breaker.admit(timed=timed).settle(Outcome.IGNORED, "CANCELLED")
        probes.append(repr(breaker))
        clock.advance(10)
    words = "<CircuitBreaker 'slot' half_open: {} of 2 probes succeeded, 0 in flight>"
    assert probes == [words.format(successes) for successes in (0, 0, 0, 1)]
    breaker.admit(timed=timed).settle(Outcome.IGNORED, "CANCELLED")
    assert (breaker.state, breaker.changes[-1].reason) == (State.CLOSED, Reason.PROBES_SUCCEEDED)
    assert breaker.tallies() == {("failure", ""): 1, ("ignored", "CANCELLED"): 5}


def test_failure_that_says_no_more_is_no_success(clock: FakeClock) -> None:
    """A probe that failed with the incident that opened the breaker is ignored, and closes nothing however late."""
    breaker = one_slot(clock, successes=1, half_open_for=30)
    breaker.admit().settle(Outcome.FAILURE, "UNAVAILABLE", incident=100, counts_once=True)
    assert breaker.state is State.HALF_OPEN
    assert breaker.tallies()["ignored", "UNAVAILABLE"] == 1
