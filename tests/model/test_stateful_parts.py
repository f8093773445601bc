"""A breaker with its parts (bulkhead, rate limit, throttle, hung calls, ramp, trial, pushback) against the reference.

To look at a breaker makes it forget the calls whose lease has ended, so half of the histories are not looked at before
their end: there only what callers and listeners are told is compared. In these all times are whole seconds, because a
breaker that nobody looks at may notice the end of a lease up to a second late.
"""

from __future__ import annotations

import math
import os
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from grpc_breaker import Outcome, State
from tests.model.both import Both
from tests.model.reference import Rules
from tests.model.reference_parts import Parts

pytestmark = pytest.mark.timeout(600)  # minutes beside three other suites, with coverage

LONG = bool(os.environ.get("LONG"))

# Multiples of a power of two are exact in binary, so both sides agree on which bucket a result falls into, and rates are
# powers of two. Lengths of windows are multiples of ten times the unit of time.
rules = st.builds(
    Rules,
    failure_threshold=st.none() | st.integers(2, 4),
    failure_rate=st.none() | st.sampled_from([0.5, 1.0]),
    minimum_calls=st.integers(2, 4),
    consecutive_failures=st.integers(1, 3),
    slow_call_duration=st.none() | st.sampled_from([1.0, 2.5]),
    slow_call_rate=st.none() | st.sampled_from([0.5, 1.0]),
    window_seconds=st.sampled_from([10.0, 30.0]),
    window_calls=st.none() | st.integers(4, 6),
    reset_timeout=st.sampled_from([1.0, 5.0]),
    reset_timeout_multiplier=st.sampled_from([1.0, 2.0]),
    max_reset_timeout=st.sampled_from([5.0, 16.0]),
    half_open_max_calls=st.integers(1, 3),
    half_open_successes=st.none() | st.integers(1, 3),
    probe_timeout=st.sampled_from([1.0, 3.0]),
)
parts = st.builds(
    Parts,
    max_concurrent_calls=st.none() | st.integers(1, 4),
    rate=st.one_of(*[st.none()] * 3, st.tuples(st.sampled_from([0.25, 0.5, 2.0]), st.integers(1, 4))),
    throttle=st.one_of(*[st.none()] * 4, st.tuples(st.sampled_from([1.0, 1.5, 2.0]), st.just(10.0), st.integers(1, 3))),
    hung_after=st.none() | st.sampled_from([1.0, 2.0, 6.0]),
    ramp=st.none() | st.sampled_from([4.0, 8.0]),
    enforcement_percentage=st.sampled_from([100.0, 100.0, 100.0, 50.0, 0.0]),
).flatmap(lambda it: st.just(it) if it.max_concurrent_calls is None else st.sampled_from([it, with_streams(it)]))
chances = st.sampled_from([0.0, 0.25, 0.4375, 0.5, 0.75, 0.96875])
outcomes = st.sampled_from([Outcome.SUCCESS, Outcome.FAILURE, Outcome.FAILURE, Outcome.IGNORED])
pushbacks = st.sampled_from([None, None, 0.0, 7.0, 1000.0])


def with_streams(it: Parts) -> Parts:
    """The same with a bulkhead that counts streams."""
    return replace(it, bulkhead_streams=True)


class Method(RuleBasedStateMachine):
    """Does the same to both, and compares everything that can be seen."""

    @initialize(rules=rules, parts=parts, unseen=st.booleans())
    def begin(self, rules: Rules, parts: Parts, unseen: bool) -> None:
        self.both, self.in_force = Both(rules, parts), rules
        self.unseen = unseen
        self.unit = 1.0 if unseen else 0.25

    @property
    def model(self) -> Any:
        return self.both.model

    def pass_time(self, seconds: float) -> None:
        """Wait, and look."""
        self.both.wait(seconds)
        self.same()

    @rule(chance=chances, timed=st.sampled_from([True, True, True, False]), timeout=st.none() | st.integers(0, 4))
    def ask(self, chance: float, timed: bool, timeout: int | None) -> None:
        self.both.ask(chance, timed=timed, timeout=None if timeout is None else timeout * self.unit)

    @rule(chance=chances, kinds=st.lists(st.sampled_from([True, True, False]), min_size=2, max_size=6))
    def ask_together(self, chance: float, kinds: list[bool]) -> None:
        """Calls and streams at one moment, of which limits admit some."""
        for timed in kinds:
            self.both.ask(chance, timed=timed)

    @rule(chance=chances, ends=st.lists(outcomes, max_size=6))
    def traffic(self, chance: float, ends: list[Outcome]) -> None:
        """Calls that end as soon as they began, as most do."""
        for outcome in ends:
            if self.both.ask(chance):
                self.both.settle(self.both.pairs.pop(), outcome)

    @rule(chance=chances)
    def ask_whether(self, chance: float) -> None:
        """Somebody waits until a call would be admitted."""
        self.both.ask_whether(chance)

    @precondition(lambda self: self.both.pairs)
    @rule(outcome=outcomes, pushback=pushbacks, data=st.data())
    def settle(self, outcome: Outcome, pushback: float | None, data: Any) -> None:
        """In any order, late, twice, or after the lease."""
        self.both.settle(data.draw(st.sampled_from(self.both.pairs)), outcome, pushback)

    @precondition(lambda self: self.both.pairs)
    @rule(outcome=st.sampled_from([Outcome.SUCCESS, Outcome.FAILURE]))
    def settle_all(self, outcome: Outcome) -> None:
        """An outage ends all calls alike, or its end does."""
        while self.both.pairs:
            self.both.settle(self.both.pairs.pop(0), outcome)

    @precondition(lambda self: any(not call.timed for _, call in self.both.pairs))
    @rule(data=st.data())
    def answer(self, data: Any) -> None:
        """A stream is answered."""
        self.both.answer(data.draw(st.sampled_from([it for it in self.both.pairs if not it[1].timed])))

    @precondition(lambda self: self.both.pairs)
    @rule(data=st.data())
    def abandon(self, data: Any) -> None:
        """Nobody will settle this one."""
        self.both.pairs.remove(data.draw(st.sampled_from(self.both.pairs)))

    @rule(units=st.integers(0, 12) | st.just(1) | st.sampled_from([40, 1000]))
    def wait(self, units: int) -> None:
        self.pass_time(units * self.unit)

    @precondition(lambda self: self.model.state == "open")
    @rule(early=st.booleans(), chance=chances, outcome=outcomes, pushback=pushbacks)
    def probe(self, early: bool, chance: float, outcome: Outcome, pushback: float | None) -> None:
        """A call at the end of the open period, or just before it."""
        self.pass_time(max(0.0, self.model.open_until - self.model.now - (self.unit if early else 0.0)))
        if self.both.ask(chance):
            self.both.settle(self.both.pairs[-1], outcome, pushback)

    @rule(chance=chances, pushback=pushbacks, lost=st.booleans())
    def outage(self, chance: float, pushback: float | None, lost: bool) -> None:
        """Calls fail until the breaker opens, or a throttle or a rate limit lets no more pass. The end of one is lost."""
        if lost and self.both.ask(chance, timeout=0.0):
            self.both.pairs.pop()
        for _ in range(4):
            if self.model.state == "closed" and self.both.ask(chance):
                self.both.settle(self.both.pairs.pop(), Outcome.FAILURE, pushback)

    @precondition(lambda self: self.model.state in {"open", "half_open"})
    @rule(chance=chances, together=chances, later=st.integers(0, 5))
    def recovery(self, chance: float, together: float, later: int) -> None:
        """The server is well again: probes close the breaker, and calls come together, of which a ramp admits some."""
        self.pass_time(max(0.0, self.model.open_until - self.model.now))
        for _ in range(3):
            if self.model.state in {"open", "half_open"} and self.both.ask(chance):
                self.both.settle(self.both.pairs.pop(), Outcome.SUCCESS)
        self.pass_time(later * self.unit)
        for _ in range(4):
            self.both.ask(together)

    @precondition(lambda self: self.model.parts.hung_after is not None)
    @rule(early=st.booleans(), chance=chances, calls=st.integers(1, 3), others=st.integers(0, 2))
    def hang(self, early: bool, chance: float, calls: int, others: int) -> None:
        """Calls hang, or nearly, when another one comes; others began meanwhile. The first may be a probe."""
        self.pass_time(max(0.0, self.model.open_until - self.model.now) if self.model.state == "open" else 0.0)
        for _ in range(calls):
            self.both.ask(chance)
        self.pass_time(self.model.parts.hung_after)
        for _ in range(others):
            self.both.ask(chance)
        self.pass_time(0.0 if early else self.unit)
        self.both.ask(chance)

    @precondition(lambda self: any(math.isfinite(call.lease_end) for call in self.model.under_way()))
    @rule(early=st.booleans(), chance=chances)
    def ask_at_the_end_of_a_lease(self, early: bool, chance: float) -> None:
        """What a call without an end has held is free when its lease is over, and not before."""
        ends = max(call.lease_end for call in self.model.under_way() if math.isfinite(call.lease_end))
        seconds = max(0.0, ends - self.model.now - (self.unit if early else 0.0))
        self.pass_time(math.ceil(seconds / self.unit) * self.unit)
        self.both.ask(chance)

    @rule(order=st.sampled_from(["force_open", "disable", "reset", *[""] * 9]), ttl=st.sampled_from([None, 2.0, 20.0]))
    def operate(self, order: str, ttl: float | None) -> None:
        """Seldom, because an order wipes out what led to it. Forced states are left at once as often as not."""
        if self.both.real.state in {State.FORCED_OPEN, State.DISABLED}:
            order = order or "reset"
        if order:
            self.both.operate(order, None if order == "reset" else ttl)

    @rule(rules=rules, parts=parts, which=st.integers(0, 9))
    def configure(self, rules: Rules, parts: Parts, which: int) -> None:
        """Seldom, too: other parts, or other rules with them."""
        if which < 2:
            self.in_force = rules if which else self.in_force
            self.both.configure(self.in_force, parts)

    @invariant()
    def same(self) -> None:
        self.both.compare_events() if self.unseen else self.both.compare()

    def teardown(self) -> None:
        """At the end everything is looked at, and every place that a call had is free again once all calls have ended."""
        if not hasattr(self, "both"):
            return
        self.both.compare()
        for pair in self.both.pairs:
            self.both.settle(pair, Outcome.IGNORED)
        self.both.compare()


TestMethod = Method.TestCase
TestMethod.settings = settings(
    max_examples=5000 if LONG else 800,
    stateful_step_count=60 if LONG else 40,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    derandomize=not LONG,
)
