"""Visitors at every line: what a finalizer or a signal handler may do in the middle of the breaker's own code.

A story runs once for each line of the breaker that it executes; at that line, on the same thread, a visitor comes in, does
one thing, and leaves. Whatever the line, no call is lost or counted twice, nothing deadlocks, and the events are in order.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from grpc_breaker import BreakerPolicy, CircuitBreaker, Outcome, Permit, State
from grpc_breaker._core.state import TRANSITIONS
from grpc_breaker.testing import EventRecorder, FakeClock
from tests.model.scheduler import WATCHED
from tests.support.lines import visit_at

POLICY = BreakerPolicy(
    consecutive_failures=1, half_open_max_calls=1, reset_timeout=5, reset_timeout_jitter=0, probe_timeout=3
)


class Stage:
    """A breaker, and what is known of the calls made on it."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.breaker = CircuitBreaker("stage", POLICY, clock=self.clock)
        self.events = EventRecorder(self.breaker)
        self.admitted = 0
        self.held = [self.admit(), self.admit()]

    def admit(self) -> Permit | None:
        answer = self.breaker.try_admit()
        if not isinstance(answer, Permit):
            return None
        self.admitted += 1
        return answer

    def call(self, outcome: Outcome) -> None:
        permit = self.admit()
        if permit is not None:
            permit.settle(outcome, "STATUS")

    def check(self) -> None:
        assert (self.breaker._late, self.breaker._outbox) == ([], [])
        for permit in self.held:
            if permit is not None:
                permit.ignore()
        breaker, changes = self.breaker, self.events.changes
        totals = breaker.snapshot()["totals"]
        assert breaker.in_flight == 0
        assert totals["rejected"] == len(self.events.rejections)
        assert sum(totals.values()) - totals["rejected"] == self.admitted
        assert [change.sequence for change in changes] == list(range(1, len(changes) + 1))
        assert all(change.reason in TRANSITIONS[change.previous, change.state] for change in changes)
        assert [change.state for change in changes[-1:]] in ([], [breaker.state])
        assert not breaker._busy
        assert breaker._slots_taken() == 0


def calm(stage: Stage) -> None:
    """Two successes, the second one without the lock."""
    stage.call(Outcome.SUCCESS)
    stage.call(Outcome.SUCCESS)


def outage(stage: Stage) -> None:
    """Closed, open, refused, half-open, closed."""
    stage.call(Outcome.FAILURE)
    stage.call(Outcome.SUCCESS)
    stage.clock.advance(5)
    stage.call(Outcome.SUCCESS)
    stage.call(Outcome.SUCCESS)


def relapse(stage: Stage) -> None:
    """Open, half-open, a probe that is lost, another that fails."""
    stage.call(Outcome.FAILURE)
    stage.clock.advance(5)
    lost = stage.admit()
    stage.clock.advance(3)
    stage.call(Outcome.FAILURE)
    if lost is not None:
        lost.failure()


def stream(stage: Stage) -> None:
    """A probe that answers, and ends well."""
    stage.call(Outcome.FAILURE)
    stage.clock.advance(5)
    probe = stage.admit()
    if probe is not None:
        probe.answered()
        probe.success()


def operators(stage: Stage) -> None:
    """Every command, and every way to look."""
    stage.breaker.force_open()
    stage.call(Outcome.SUCCESS)
    stage.breaker.disable()
    stage.call(Outcome.FAILURE)
    stage.breaker.reset()
    stage.breaker.reconfigure(POLICY)
    stage.breaker.snapshot()
    stage.breaker.tallies()
    repr(stage.breaker)


STORIES: list[Callable[[Stage], None]] = [calm, outage, relapse, stream, operators]
VISITS: dict[str, Callable[[Stage], Any]] = {
    "a call of before succeeds": lambda stage: stage.held[0] and stage.held[0].success(),
    "a call of before fails": lambda stage: stage.held[0] and stage.held[0].failure("STATUS"),
    "a finalizer gives back": lambda stage: stage.held[0] and stage.held[0].settle(Outcome.IGNORED, blocking=False),
    "a call succeeds": lambda stage: stage.call(Outcome.SUCCESS),
    "a call fails": lambda stage: stage.call(Outcome.FAILURE),
    "an operator forces it open": lambda stage: stage.breaker.force_open(),
    "an operator resets": lambda stage: stage.breaker.reset(),
    "another policy": lambda stage: stage.breaker.reconfigure(BreakerPolicy(window_calls=20)),
    "somebody looks": lambda stage: (stage.breaker.snapshot(), stage.breaker.tallies(), repr(stage.breaker)),
}


def run(story: Callable[[Stage], None], visit: Callable[[Stage], Any], at: int) -> bool:
    """Tell the story, with a visit at its line number `at`; answers whether it was that long."""
    stage = Stage()
    long_enough = visit_at(WATCHED, lambda: story(stage), lambda: visit(stage), at)
    stage.check()
    return long_enough


@pytest.mark.parametrize("visit", VISITS)
@pytest.mark.parametrize("story", STORIES, ids=lambda story: story.__name__)
def test_visitor_at_every_line(story: Callable[[Stage], None], visit: str) -> None:
    """Whatever a visitor does, at whatever line, nothing is lost, doubled, or out of order."""
    at = 1
    while run(story, VISITS[visit], at):
        at += 1
    assert at > 20


def test_forced_by_a_visitor() -> None:
    """What an operator says in the middle of our own code is obeyed, whatever the line."""
    at = 1

    def force(stage: Stage) -> None:
        stage.breaker.force_open()
        states.append(stage)

    states: list[Stage] = []
    while run(outage, force, at):
        at += 1
    assert {stage.breaker.state for stage in states} == {State.FORCED_OPEN}


def test_picture_is_of_one_moment() -> None:
    """A snapshot shows the breaker before a visit or after it, whatever the line, and never half of each."""
    at = 1
    seen: list[tuple[Any, ...]] = []

    def look(stage: Stage) -> None:
        picture = stage.breaker.snapshot()
        seen.append((picture["state"], picture["generation"], picture["sequence"], picture["totals"]["failure"]))

    while run(look, VISITS["a call fails"], at):
        at += 1
    assert set(seen) == {("closed", 0, 0, 0), ("open", 1, 1, 1)}
