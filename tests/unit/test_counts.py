"""What a registry counted: under a bounded number of labels, and never lost with a breaker that is evicted."""

from __future__ import annotations

import sys
import threading
from collections import Counter
from itertools import count

import pytest

from grpc_breaker import BreakerPolicy, BreakerRegistry, CircuitBreaker, Outcome
from grpc_breaker._core.breaker import counts_of
from grpc_breaker._core.counts import LabelledCounts, summed
from grpc_breaker.testing import FakeClock
from tests.support.core import WATCHED
from tests.support.lines import act_at

POLICY = BreakerPolicy(reset_timeout=1)


def totals(breakers: BreakerRegistry) -> Counter[tuple[str, str]]:
    """How many calls ended how: by label and outcome."""
    counted: Counter[tuple[str, str]] = Counter()
    for label, outcome, _, calls in breakers.counts.tallies():
        counted[label, outcome] += calls
    return counted


def test_counts_of_evicted_breakers_are_kept() -> None:
    """What evicted breakers counted stays in the totals, under their name or as `other`."""
    breakers = BreakerRegistry(max_breakers=2, clock=FakeClock())
    for n in range(10):
        breaker = breakers[f"pkg.S/M{n}"]
        breaker.admit().success()
        breaker.admit().failure("INTERNAL")
    counted = totals(breakers)
    assert counted == {
        (label, outcome): calls
        for label, calls in (("pkg.S/M0", 1), ("pkg.S/M1", 1), ("other", 8))
        for outcome in ("success", "failure")
    }
    assert breakers.counts.label("pkg.S/M0") == "pkg.S/M0"


def test_configured_names_have_labels() -> None:
    """A method or group that was configured is counted by name, however many others came first."""
    policies = {"pkg.S/Named": POLICY, "pkg.T": BreakerPolicy(group="prices")}
    breakers = BreakerRegistry(policies, max_breakers=2, clock=FakeClock())
    for n in range(5):
        breakers[f"flood.S/M{n}"]
    names = ("pkg.S/Named", "prices", "flood.S/M0", "flood.S/M1", "flood.S/M2", "flood.S/M4")
    labels = [breakers.counts.label(name) for name in names]
    assert labels == ["pkg.S/Named", "prices", "flood.S/M0", "flood.S/M1", "other", "other"]


def test_configured_names_take_no_label_away() -> None:
    """As many others are counted by name as there may be, however many configured ones came first."""
    breakers = BreakerRegistry({"pkg.S/A": POLICY, "pkg.S/B": POLICY}, max_breakers=2, clock=FakeClock())
    for name in ("pkg.S/A", "pkg.S/B", "pkg.S/C", "pkg.S/D", "pkg.S/E"):
        breakers[name]
    assert [breakers.counts.label(f"pkg.S/{it}") for it in "CDE"] == ["pkg.S/C", "pkg.S/D", "other"]


def test_name_that_comes_back_goes_on_counting() -> None:
    """A name that is evicted and comes back goes on counting where it was, the same breaker or a new one."""
    breakers = BreakerRegistry(max_breakers=1, clock=FakeClock())
    held = breakers["pkg.S/Held"]
    for _ in range(3):
        held.admit().success()
    breakers["pkg.S/Other"]
    assert "pkg.S/Held" not in breakers
    held.admit().success()
    held.force_open()
    held.try_admit()
    held.reset()
    breakers["pkg.S/Held"].admit().success()
    assert sorted(breakers.counts.tallies()) == [
        ("pkg.S/Held", "rejected", "breaker", 1),
        ("pkg.S/Held", "success", "OK", 5),
    ]


def test_call_of_a_breaker_that_was_evicted_counts() -> None:
    """A call that found its breaker just before it was evicted is counted all the same."""
    breakers = BreakerRegistry(max_breakers=1, clock=FakeClock())
    breaker = breakers["pkg.S/Old"]
    breakers["pkg.S/New"]
    assert "pkg.S/Old" not in breakers
    breaker.admit().success()
    del breaker
    assert totals(breakers) == {("pkg.S/Old", "success"): 1}


@pytest.mark.parametrize("ending", ["success", "failure", "ignore"])
def test_breaker_evicted_at_any_line_of_a_call(ending: str) -> None:
    """A call whose breaker is evicted in the middle of it, at whatever line, is counted once."""

    def call() -> None:
        breaker = breakers.breaker_for("/pkg.S/Old")
        assert breaker is not None
        getattr(breaker.admit(), ending)()

    def evict() -> None:
        for n in range(3):
            breakers[f"pkg.S/M{n}"]

    for at in count(1):
        breakers = BreakerRegistry(max_breakers=2, clock=FakeClock())
        if not act_at(WATCHED, call, evict, at):
            break
        assert sum(totals(breakers).values()) == 1
    assert at > 20


def test_no_count_is_lost_while_names_churn() -> None:
    """Threads that call far more methods than there may be breakers lose no count."""
    breakers = BreakerRegistry(max_breakers=20)
    calls, threads = 3000, 4

    def work(seed: int) -> None:
        for n in range(calls):
            breaker = breakers.breaker_for(f"/pkg.S/M{(n * 7919 + seed) % 900}")
            assert breaker is not None
            breaker.admit().success()

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        workers = [threading.Thread(target=work, args=(n * 31,)) for n in range(threads)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join(50)
    finally:
        sys.setswitchinterval(interval)
    assert sum(totals(breakers).values()) == calls * threads


def test_counts_of_registries_add_up() -> None:
    """What several registries counted adds up, by label, outcome and status, also in one that goes on counting."""

    def counted() -> LabelledCounts:
        breakers = BreakerRegistry(default=BreakerPolicy(consecutive_failures=1), clock=FakeClock())
        breaker = breakers["pkg.S/M"]
        breaker.admit().success()
        breaker.admit().settle(Outcome.SUCCESS, "NOT_FOUND")
        breaker.admit().failure("INTERNAL")
        breaker.try_admit()
        breakers["pkg.S/N"].admit().success()
        return breakers.counts

    once = {
        ("pkg.S/M", "success", "OK"): 1,
        ("pkg.S/M", "success", "NOT_FOUND"): 1,
        ("pkg.S/M", "failure", "INTERNAL"): 1,
        ("pkg.S/M", "rejected", "breaker"): 1,
        ("pkg.S/N", "success", "OK"): 1,
    }
    assert summed([]) == {}
    assert summed([counted()]) == once
    assert summed([counted(), counted()]) == dict.fromkeys(once, 2)
    for counts in (counted(), LabelledCounts((), 10)):
        before = summed([counts])
        for times in (1, 2):
            counts.add_all(once)
            assert summed([counts]) == {key: before.get(key, 0) + times for key in once}


def test_counts_of_a_breaker_without_a_registry() -> None:
    """A breaker without a registry is counted by its name; one of a registry is counted there."""
    breaker = CircuitBreaker("prices", clock=FakeClock())
    counts = counts_of(breaker)
    assert counts is not None
    breaker.admit().success()
    breaker.admit().failure("INTERNAL")
    assert summed([counts]) == {("prices", "success", "OK"): 1, ("prices", "failure", "INTERNAL"): 1}
    assert (counts.label("prices"), counts.label("orders")) == ("prices", "other")
    assert counts_of(BreakerRegistry(clock=FakeClock())["pkg.S/M"]) is None
