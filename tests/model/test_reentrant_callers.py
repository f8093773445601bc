"""Re-entrant callers at every line: what a finalizer or signal handler may do in the middle of the breaker's own code.

A story runs once for each line of the core that it executes; at that line, on the same thread, something else is done to
the same breaker. Whatever the line, no call is lost or counted twice, nothing hangs, and the events are in order.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from grpc_breaker import BreakerPolicy, CircuitBreaker, Outcome, Permit, State
from grpc_breaker.testing import EventRecorder, FakeClock
from tests.support.core import WATCHED
from tests.support.lines import act_at
from tests.support.transitions import check_events

pytestmark = pytest.mark.timeout(600)  # minutes beside three other suites, with coverage


POLICY = BreakerPolicy(
    consecutive_failures=1, half_open_max_calls=1, reset_timeout=5, reset_timeout_jitter=0, probe_timeout=3
)


class Stage:
    """A breaker, and what is known of the calls made on it."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.breaker = CircuitBreaker("stage", POLICY, clock=self.clock)
        self.events = EventRecorder(self.breaker)
        self.counted = 0
        """Calls whose permits were settled and taken: those that must be in the totals."""
        self.held = [self.admit(), self.admit()]

    def admit(self) -> Permit | None:
        """Make a call; `None` if it is refused."""
        answer = self.breaker.try_admit()
        return answer if isinstance(answer, Permit) else None

    def end(self, permit: Permit | None, outcome: Outcome) -> None:
        """End it, where it was admitted."""
        if permit is not None:
            taken = permit.settle(outcome, "STATUS")
            self.counted += taken

    def call(self, outcome: Outcome) -> None:
        """A call that ends at once."""
        self.end(self.admit(), outcome)

    def check(self) -> None:
        """What holds after each story, whatever came in the middle of it."""
        for permit in self.held:
            self.end(permit, Outcome.IGNORED)
        breaker, changes = self.breaker, self.events.changes
        totals = breaker.snapshot()["totals"]
        assert breaker.in_flight == 0
        assert totals["rejected"] == len(self.events.rejections)
        assert sum(totals.values()) - totals["rejected"] == self.counted
        check_events(changes)
        assert [change.state for change in changes[-1:]] in ([], [breaker.state])
        self.recover()

    def recover(self) -> None:
        """The breaker can be closed, opens, lets one probe through, and closes again."""
        self.breaker.reset()
        self.call(Outcome.FAILURE)
        assert self.breaker.state is State.OPEN
        self.clock.advance(5)
        probe = self.admit()
        assert probe is not None
        assert self.admit() is None
        self.end(probe, Outcome.SUCCESS)
        assert self.breaker.state is State.CLOSED
        check_events(self.events.changes)


def successes(stage: Stage) -> None:
    """Two successes."""
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
    """Open, half-open, a probe that expires, another that fails."""
    stage.call(Outcome.FAILURE)
    stage.clock.advance(5)
    lost = stage.admit()
    stage.clock.advance(3)
    stage.call(Outcome.FAILURE)
    stage.end(lost, Outcome.FAILURE)


def stream(stage: Stage) -> None:
    """A probe that is answered, and ends well."""
    stage.call(Outcome.FAILURE)
    stage.clock.advance(5)
    probe = stage.admit()
    if probe is not None:
        probe.answered()
    stage.end(probe, Outcome.SUCCESS)


def operators(stage: Stage) -> None:
    """Every command, and every way to read the breaker."""
    stage.breaker.force_open()
    stage.call(Outcome.SUCCESS)
    stage.breaker.disable()
    stage.call(Outcome.FAILURE)
    stage.breaker.reset()
    stage.breaker.reconfigure(POLICY)
    stage.breaker.snapshot()
    stage.breaker.tallies()
    repr(stage.breaker)


STORIES: list[Callable[[Stage], None]] = [successes, outage, relapse, stream, operators]
ACTS: dict[str, Callable[[Stage], Any]] = {
    "an earlier call succeeds": lambda stage: stage.end(stage.held[0], Outcome.SUCCESS),
    "an earlier call fails": lambda stage: stage.end(stage.held[0], Outcome.FAILURE),
    "a finalizer gives a permit back": lambda stage: stage.end(stage.held[0], Outcome.IGNORED),
    "a call succeeds": lambda stage: stage.call(Outcome.SUCCESS),
    "a call fails": lambda stage: stage.call(Outcome.FAILURE),
    "an operator forces it open": lambda stage: stage.breaker.force_open(),
    "an operator resets it": lambda stage: stage.breaker.reset(),
    "another policy": lambda stage: stage.breaker.reconfigure(
        BreakerPolicy(
            consecutive_failures=1, half_open_max_calls=1, reset_timeout=5, reset_timeout_jitter=0, window_calls=20
        )
    ),
    "it is read": lambda stage: (stage.breaker.snapshot(), stage.breaker.tallies(), repr(stage.breaker)),
}


def run(story: Callable[[Stage], None], act: Callable[[Stage], Any], at: int) -> bool:
    """Run the story with `act` at its line number `at`; returns whether it had so many lines."""
    stage = Stage()
    long_enough = act_at(WATCHED, lambda: story(stage), lambda: act(stage), at)
    stage.check()
    return long_enough


@pytest.mark.parametrize("act", ACTS)
@pytest.mark.parametrize("story", STORIES, ids=lambda story: story.__name__)
def test_re_entrant_caller_at_every_line(story: Callable[[Stage], None], act: str) -> None:
    """Whatever a re-entrant caller does, at whatever line, nothing is lost, counted twice, or out of order."""
    at = 1
    while run(story, ACTS[act], at):
        at += 1
    assert at > 20


def test_forced_by_a_re_entrant_caller() -> None:
    """An operator's command in the middle of the breaker's own code is obeyed, whatever the line."""
    states: list[State] = []

    def force(stage: Stage) -> None:
        stage.breaker.force_open()

    at = 1
    while True:
        stage = Stage()
        if not act_at(WATCHED, lambda: outage(stage), lambda: force(stage), at):  # noqa: B023 - used at once
            break
        states.append(stage.breaker.state)
        at += 1
    assert len(states) > 20
    assert set(states) == {State.FORCED_OPEN}


def test_snapshot_is_of_one_moment() -> None:
    """A snapshot shows the state before a re-entrant caller's change or after it, whatever the line, never a mixture."""
    seen: list[tuple[Any, ...]] = []

    def read(stage: Stage) -> None:
        picture = stage.breaker.snapshot()
        seen.append((picture["state"], picture["generation"], picture["sequence"], picture["reason"]))

    at = 1
    while run(read, ACTS["a call fails"], at):
        at += 1
    assert set(seen) == {("closed", 0, 0, None), ("open", 1, 1, "consecutive_failures")}


@pytest.mark.parametrize("window_calls", [None, 20, 1000])
def test_judgement_is_of_one_moment(window_calls: int | None) -> None:
    """A failure is judged by calls and failures of one moment, however many others end meanwhile, at whatever line."""
    policy = BreakerPolicy(failure_rate=0.5, minimum_calls=20, window_calls=window_calls)
    at = 0
    while True:
        at += 1
        clock = FakeClock()
        breaker = CircuitBreaker("stage", policy, clock=clock)

        def others(breaker: CircuitBreaker = breaker) -> None:
            for _ in range(100):
                for permit in [breaker.admit() for _ in range(4)]:
                    permit.success()
                breaker.admit().failure()

        for _ in range(19):
            breaker.admit().success()
        clock.advance(29.0)
        if not act_at(WATCHED, breaker.admit().failure, others, at):
            break
        assert breaker.state is State.CLOSED, at
    assert at > 10
