"""The breaker against the reference, under whatever Hypothesis thinks of."""

from __future__ import annotations

import json
import math
import os
from dataclasses import asdict
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from grpc_breaker import BreakerPolicy, CircuitBreaker, Outcome, Permit, State
from grpc_breaker.testing import EventRecorder, FakeClock
from tests.model.reference import Call, Reference, Rules
from tests.support.transitions import check_events

pytestmark = pytest.mark.timeout(600)  # minutes beside three other suites, with coverage


LONG = bool(os.environ.get("LONG"))

# Quarters of a second are exact in binary, so both sides agree on which bucket a result falls into. Window lengths are
# multiples of ten quarters, so that a bucket is a whole number of them.
quarters = st.integers(0, 80).map(lambda n: n / 4)
timeouts = st.integers(0, 16).map(lambda n: n / 4)
rules = st.builds(
    Rules,
    failure_threshold=st.none() | st.integers(1, 4),
    failure_rate=st.none() | st.sampled_from([0.25, 0.5, 1.0]),
    minimum_calls=st.integers(1, 4),
    consecutive_failures=st.integers(1, 4),
    slow_call_duration=st.none() | st.sampled_from([1.0, 2.5]),
    slow_call_rate=st.none() | st.sampled_from([0.5, 1.0]),
    window_seconds=st.sampled_from([2.5, 10.0, 30.0]),
    window_calls=st.none() | st.integers(4, 6),
    reset_timeout=st.sampled_from([1.0, 5.0]),
    reset_timeout_multiplier=st.sampled_from([1.0, 2.0]),
    max_reset_timeout=st.sampled_from([5.0, 16.0]),
    half_open_max_calls=st.integers(1, 3),
    half_open_successes=st.none() | st.integers(1, 4),
    probe_timeout=st.sampled_from([1.0, 3.0]),
)


def policy_of(it: Rules) -> BreakerPolicy:
    """The same rules as the package takes them."""
    return BreakerPolicy(reset_timeout_jitter=0.0, **asdict(it))


class Breaker(RuleBasedStateMachine):
    """Does the same to both, and compares everything that can be seen."""

    @initialize(it=rules)
    def begin(self, it: Rules) -> None:
        self.clock = FakeClock()
        self.real = CircuitBreaker("real", policy_of(it), clock=self.clock)
        self.model = Reference(it)
        self.events = EventRecorder(self.real)
        self.pairs: list[tuple[Permit, Call]] = []
        self.forgotten = 0

    @rule(timeout=st.none() | st.none() | timeouts, timed=st.booleans())
    def admit(self, timeout: float | None = None, timed: bool = True) -> None:
        answer, call = self.real.try_admit(timed=timed, timeout=timeout), self.model.admit(timeout, timed=timed)
        assert isinstance(answer, Permit) == (call is not None)
        if isinstance(answer, Permit) and call is not None:
            self.pairs.append((answer, call))

    @rule(outcomes=st.lists(st.sampled_from([Outcome.SUCCESS, Outcome.FAILURE, Outcome.FAILURE]), max_size=6))
    def traffic(self, outcomes: list[Outcome]) -> None:
        """Calls that end as soon as they began, as most do."""
        for outcome in outcomes:
            before = len(self.pairs)
            self.admit()
            if len(self.pairs) > before:
                self.end(*self.pairs.pop(), outcome)
            self.same()

    @precondition(lambda self: self.model.state == "open")
    @rule(early=st.booleans())
    def wait_for_the_probe(self, early: bool) -> None:
        """To the end of the open period, or nearly."""
        self.wait(max(0.0, self.model.open_until - self.model.now - (0.25 if early else 0.0)))

    @precondition(lambda self: self.pairs)
    @rule(outcome=st.sampled_from(list(Outcome)), data=st.data())
    def settle(self, outcome: Outcome, data: Any) -> None:
        """In any order, late, twice, or after the lease."""
        permit, call = data.draw(st.sampled_from(self.pairs))
        self.end(permit, call, outcome)

    def end(self, permit: Permit, call: Call, outcome: Outcome) -> None:
        """End a call on both sides. The real breaker may have forgotten one whose lease has ended; then it is not counted."""
        first, expired = not call.settled, self.model.expired(call)
        self.model.settle(call, str(outcome))
        taken = permit.settle(outcome)
        if first and expired and not taken:
            self.forgotten += 1
        else:
            assert taken == first

    @precondition(lambda self: self.pairs)
    @rule(data=st.data())
    def answer(self, data: Any) -> None:
        permit, call = data.draw(st.sampled_from(self.pairs))
        self.model.answer(call)
        permit.answered()

    @precondition(lambda self: any(math.isfinite(call.lease_end) for _, call in self.pairs))
    @rule(early=st.booleans(), asks=st.booleans())
    def wait_for_a_lease(self, early: bool, asks: bool) -> None:
        """To the very end of a lease, or nearly; then a call may come, which a freed slot admits."""
        lease_end = max(call.lease_end for _, call in self.pairs if math.isfinite(call.lease_end))
        self.wait(max(0.0, lease_end - self.model.now - (0.25 if early else 0.0)))
        if asks:
            self.admit()

    @precondition(lambda self: self.model.state in {"open", "half_open"})
    @rule(last=st.sampled_from(list(Outcome)))
    def stream(self, last: Outcome) -> None:
        """A stream that is answered, and ends later."""
        self.wait_for_the_probe(early=False) if self.model.state == "open" else None
        before = len(self.pairs)
        self.admit()
        if len(self.pairs) > before:
            permit, call = self.pairs[-1]
            self.model.answer(call)
            permit.answered()
            self.same()
            self.end(permit, call, last)

    @precondition(lambda self: self.pairs)
    @rule(data=st.data())
    def abandon(self, data: Any) -> None:
        """Nobody will settle this one."""
        self.pairs.remove(data.draw(st.sampled_from(self.pairs)))

    @rule(seconds=quarters | st.just(0.25) | st.sampled_from([1e3, 1e6]))
    def wait(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.model.wait(seconds)
        assert self.real.state == self.model.state  # to look ends a hold whose time is over

    @rule(
        command=st.sampled_from(["force_open", "disable", "reset", "reset", *[""] * 6]),
        ttl=st.sampled_from([None, None, 0.25, 2.0, 20.0]),
    )
    def operate(self, command: str, ttl: float | None) -> None:
        """Seldom, because a command wipes out what led to it. Forced states are left at once as often as not."""
        if self.real.state in {State.FORCED_OPEN, State.DISABLED}:
            command = command or "reset"
        if not command:
            return
        getattr(self.real, command)(**({} if command == "reset" else {"ttl": ttl}))
        state, reason = {
            "force_open": ("forced_open", "forced_open"),
            "disable": ("disabled", "disabled"),
            "reset": ("closed", "reset"),
        }[command]
        self.model.command(state, reason, None if command == "reset" else ttl)

    @rule(it=rules, really=st.integers(0, 4))
    def reconfigure(self, it: Rules, really: int) -> None:
        if really:
            return
        old = self.model.rules
        self.model.rules = it
        if (old.window_calls or -old.window_seconds) != (it.window_calls or -it.window_seconds):
            self.model.results = []
            self.model.born = self.model.now
        self.real.reconfigure(policy_of(it))

    @rule()
    def recover(self) -> None:
        """Invariant 6: with a healthy server and calls that come, it closes, whatever was before."""
        if self.real.state in {State.FORCED_OPEN, State.DISABLED}:
            return
        for _ in range(20):
            if self.real.state is State.CLOSED:
                return
            wait = max(self.model.open_until - self.model.now, 0.0) if self.model.state == "open" else 0.0
            self.wait(max(wait, self.model.rules.probe_timeout))
            self.admit()
            if self.pairs:
                self.end(*self.pairs[-1], Outcome.SUCCESS)
        raise AssertionError(f"never closed: {self.real!r}")

    @invariant()
    def same(self) -> None:
        snapshot = self.real.snapshot()
        json.dumps(snapshot)
        assert snapshot["state"] == self.model.state == str(self.real.state)
        assert snapshot["totals"] == {**self.model.totals, "stale": self.model.totals["stale"] - self.forgotten}
        assert snapshot["in_flight"] == self.model.in_flight()
        assert self.real.generation == self.model.generation
        if self.model.state != "half_open":
            counted = (snapshot["window"]["calls"], snapshot["window"]["failures"], snapshot["window"]["slow"])
            assert counted == self.model.window()
        assert snapshot["window"]["consecutive_failures"] == self.model.in_a_row
        assert self.model.slots_taken() <= 3
        if self.model.state == "open":
            assert math.isclose(snapshot["retry_after"], max(0.0, self.model.open_until - self.model.now))

    @invariant()
    def one_legal_event_for_each_change(self) -> None:
        check_events(self.events.changes)
        assert [(c.previous, c.state, c.reason) for c in self.events.changes] == self.model.changes


TestBreaker = Breaker.TestCase
TestBreaker.settings = settings(
    max_examples=3000 if LONG else 250,
    stateful_step_count=60 if LONG else 40,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    derandomize=not LONG,
)
