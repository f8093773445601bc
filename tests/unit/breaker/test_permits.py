"""The permit of one call: settled once, by anything that ends the call, or given up with its lease."""

from __future__ import annotations

import gc
from typing import Any

import pytest

from grpc_breaker import BreakerPolicy, CircuitBreaker, Outcome, Permit, State
from grpc_breaker.testing import FakeClock
from tests.support.memory import memory_grown
from tests.unit.breaker.calls import CallingClock, probe_of, trip


def test_permit_knows_its_call(breaker: CircuitBreaker, clock: FakeClock) -> None:
    """A permit has what its call was admitted with: breaker, policy, method, context, when, and in which generation."""
    trip(breaker)
    breaker.reset()
    clock.advance(5)
    permit = breaker.admit("S/M", "context", timed=False)
    assert (permit.breaker, permit.policy) == (breaker, breaker.policy)
    assert (permit.method, permit.context, permit.timed, permit.started) == ("S/M", "context", False, 5)
    assert (permit.settled, permit.is_probe, permit.generation) == (False, False, breaker.generation)
    clock.advance(2)
    assert permit.elapsed == 2.0


def test_permit_is_settled_once(breaker: CircuitBreaker) -> None:
    """The first result of a permit counts; every later one returns False and changes nothing."""
    permit = breaker.admit()
    assert permit.ignore()
    assert permit.settled
    assert not permit.failure()
    assert not permit.success()
    assert breaker.tallies() == {("ignored", ""): 1}


def test_expired_probe_is_settled(breaker: CircuitBreaker, clock: FakeClock) -> None:
    """A probe whose lease has ended counts as settled; its late result is taken once, as stale."""
    probe = probe_of(breaker, clock)
    assert (probe.settled, probe.is_probe) == (False, True)
    clock.advance(30)
    assert breaker.in_flight == 0
    assert (probe.settled, probe.is_probe) == (True, False)
    assert probe.success()
    assert not probe.success()
    assert breaker.snapshot()["totals"]["stale"] == 1


def test_in_flight_counts_permits(breaker: CircuitBreaker) -> None:
    """`in_flight` is the number of calls that were admitted and have not ended, across changes of state."""
    permits = [breaker.admit() for _ in range(3)]
    assert breaker.in_flight == 3
    trip(breaker)
    assert breaker.in_flight == 3
    for permit in permits:
        permit.success()
    assert breaker.in_flight == 0


# ── Deadlines ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_permit_with_a_deadline_comes_back(breaker: CircuitBreaker, clock: FakeClock) -> None:
    """A call that was admitted with a time-out is in flight until 5 s after its deadline at the latest."""
    permit = breaker.admit("S/M", timeout=10)
    clock.advance(14.75)
    assert (breaker.in_flight, permit.settled) == (1, False)
    clock.advance(0.25)
    assert (breaker.in_flight, permit.settled) == (0, True)


def test_permit_without_a_deadline_stays(breaker: CircuitBreaker, clock: FakeClock) -> None:
    """A call without a deadline is in flight until it ends, however long that takes."""
    permit = breaker.admit()
    clock.advance(1e6)
    assert breaker.in_flight == 1
    assert permit.success()
    assert (breaker.in_flight, breaker.snapshot()["totals"]["success"]) == (0, 1)


@pytest.mark.parametrize("status", ["OK", "OTHER"])
@pytest.mark.parametrize("outcome", list(Outcome))
def test_result_after_the_lease_is_stale(
    breaker: CircuitBreaker, clock: FakeClock, outcome: Outcome, status: str
) -> None:
    """A result that comes when the lease of its permit has ended changes nothing."""
    permits = [breaker.try_admit("", None, True, 1) for _ in range(3)]
    clock.advance(6)
    for permit in permits:
        assert permit.settle(outcome, status)  # type: ignore[union-attr]
    snapshot = breaker.snapshot()
    assert (snapshot["state"], snapshot["window"]["calls"]) == ("closed", 0)
    assert snapshot["totals"] == {"success": 0, "failure": 0, "ignored": 0, "rejected": 0, "stale": 3, "unenforced": 0}


def test_result_within_the_grace_counts(breaker: CircuitBreaker, clock: FakeClock) -> None:
    """A result that comes a little after the deadline counts: gRPC says late that a call is over."""
    permits = [breaker.admit(timeout=1) for _ in range(2)]
    clock.advance(5.75)
    for permit in permits:
        assert permit.failure("DEADLINE_EXCEEDED")
    assert breaker.state is State.OPEN


def test_probe_with_a_deadline_has_the_shorter_lease(breaker: CircuitBreaker, clock: FakeClock) -> None:
    """A probe comes back a grace after its deadline where that is before `probe_timeout`."""
    trip(breaker)
    clock.advance(10)
    breaker.admit(timeout=1)
    clock.advance(5.75)
    assert breaker.in_flight == 1
    clock.advance(0.25)
    assert breaker.in_flight == 0
    assert breaker.admit().is_probe


def test_probe_with_a_long_deadline_has_the_lease_of_a_probe(breaker: CircuitBreaker, clock: FakeClock) -> None:
    """A probe gives its slot back after `probe_timeout`, however long its deadline."""
    trip(breaker)
    clock.advance(10)
    breaker.admit(timeout=1000)
    clock.advance(30)
    assert breaker.admit().is_probe


def test_permits_that_nobody_settles_are_forgotten(breaker: CircuitBreaker, clock: FakeClock) -> None:
    """Permits whose lease has ended leave no memory behind: traffic removes them."""

    def unsettled() -> int:
        gc.collect()
        return sum(type(it) is Permit for it in gc.get_objects())

    before = unsettled()
    for _ in range(1000):
        breaker.admit(timeout=1)
        clock.advance(1)
    assert unsettled() - before < 100


def test_permit_that_outlives_many_changes(breaker: CircuitBreaker) -> None:
    """A call of days, a watch, costs no memory for each change of state that it lives through; its result is stale."""

    def changes(numbers: range) -> None:
        for _ in numbers:
            breaker.force_open()
            breaker.reset()

    watch = breaker.admit()
    grown = memory_grown(changes, range(200), range(1000))
    assert grown < 20_000  # what 1,000 would leave is more
    assert watch.success()
    assert breaker.snapshot()["totals"]["stale"] == 1


# ── What is settled with ──────────────────────────────────────────────────────────────────────────────────────────


def test_settled_with_nonsense(breaker: CircuitBreaker) -> None:
    """An outcome may be its name; what is no outcome changes nothing; words of another type are turned into strings."""
    permit = breaker.admit()
    with pytest.raises(ValueError, match="nonsense"):
        permit.settle("nonsense")  # type: ignore[arg-type]
    assert breaker.in_flight == 1
    assert permit.settle("failure", "X", LookupError("gone"))  # type: ignore[arg-type]
    snapshot = breaker.snapshot()
    assert (snapshot["totals"]["failure"], snapshot["window"]["failures"]) == (1, 1)
    assert snapshot["last_failures"] == [{"status": "X", "details": "gone"}]


def test_what_is_not_said_is_empty(breaker: CircuitBreaker) -> None:
    """A failure without words has none; a status that is no string is counted by its name."""
    status: Any = 5
    breaker.admit().settle(Outcome.FAILURE)
    breaker.admit().settle(Outcome.IGNORED, status, "words")
    assert breaker.snapshot()["last_failures"] == [{"status": "", "details": ""}]
    assert breaker.tallies() == {("failure", ""): 1, ("ignored", "5"): 1}


# ── In the middle of something else ───────────────────────────────────────────────────────────────────────────────


def test_permit_is_given_back_without_a_clock() -> None:
    """A clock that begins to raise costs no permit: it is given back first, and giving back alone needs no time."""

    class Breaking(FakeClock):
        broken = False

        def __call__(self) -> float:
            if self.broken:
                raise OSError
            return super().__call__()

    clock = Breaking()
    breaker = CircuitBreaker("prices", clock=clock)
    settled, given_back = breaker.admit(), breaker.admit()
    clock.broken = True
    with pytest.raises(OSError):
        settled.success()
    assert (settled.settled, settled.ignore(), given_back.ignore()) == (True, False, True)
    clock.broken = False
    assert (breaker.in_flight, breaker.snapshot()["totals"]["ignored"]) == (0, 1)
    for _ in range(5):
        breaker.admit().failure()
    clock.advance(2)
    probe = breaker.admit()
    clock.broken = True
    assert (probe.ignore(), probe.is_probe) == (True, False)


def test_permit_settled_while_it_is_settled() -> None:
    """A finalizer or signal handler that settles the very permit that is being settled leaves one result."""
    clock = CallingClock()
    breaker = CircuitBreaker("prices", clock=clock)
    permit = breaker.admit()
    results: list[bool] = []
    clock.then = lambda: results.append(permit.ignore())
    results.append(permit.failure("UNAVAILABLE"))
    assert sorted(results) == [False, True]
    assert sum(breaker.tallies().values()) == 1


def test_finalizer_settles_in_the_middle_of_a_change(clock: FakeClock) -> None:
    """A permit settled by the garbage collector, wherever it runs, is settled once, and nothing hangs."""
    breaker = CircuitBreaker("collected", BreakerPolicy(consecutive_failures=1), clock=clock)

    class Owner:
        def __init__(self) -> None:
            self.me = self
            self.permit = breaker.admit()

        def __del__(self) -> None:
            self.permit.ignore()

    before = gc.get_threshold()
    gc.set_threshold(1)
    try:
        for _ in range(200):
            Owner()
            breaker.admit().failure()
            breaker.reset()
    finally:
        gc.set_threshold(*before)
    gc.collect()
    assert breaker.in_flight == 0
