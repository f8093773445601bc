"""What a signal handler does to a breaker at any line of one step of its own: each step by itself, the handler once.

`tests/model/test_reentrant_callers.py` does so in whole stories.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import count

import pytest

from grpc_breaker import BreakerPolicy, CircuitBreaker, Outcome, Permit, Rejection, State
from grpc_breaker.testing import FakeClock
from tests.support.core import WATCHED
from tests.support.lines import act_at

LEASE = 30.0
LONG = 100 * LEASE
"""Seconds that outlast the leases of probes also where they are longer, because it has been half-open for long."""
"""Seconds, of a probe."""


class Stage:
    """A breaker that opens by one failure, and the calls that asked it."""

    def __init__(self, slots: int = 1) -> None:
        self.clock = FakeClock()
        policy = BreakerPolicy(
            failure_threshold=1,
            half_open_max_calls=slots,
            reset_timeout=10,
            reset_timeout_jitter=0,
            probe_timeout=LEASE,
        )
        self.breaker = CircuitBreaker("interrupted", policy, clock=self.clock)
        self.answers: list[Permit | Rejection] = []

    def ask(self) -> None:
        """Make a call, which ends later."""
        self.answers.append(self.breaker.try_admit())

    def open(self) -> None:
        """Have the open period of a breaker be over."""
        self.breaker.admit().failure()
        self.clock.advance(10)

    def outlast(self) -> None:
        """Make a call, and another when the time of a probe is over; read the breaker then."""
        self.ask()
        self.clock.advance(LEASE)
        self.ask()
        self.breaker.snapshot()

    @property
    def in_flight(self) -> int:
        """Calls that passed and have not ended."""
        return sum(isinstance(answer, Permit) and not answer.settled for answer in self.answers)


def stages(
    prepare: Callable[[Stage], None], step: Callable[[Stage], object], act: Callable[[Stage], object], slots: int = 1
) -> list[Stage]:
    """One stage for each line of a step, after the step was interrupted there."""
    played: list[Stage] = []
    for at in count(1):
        stage = Stage(slots)
        prepare(stage)
        if not act_at(WATCHED, lambda stage=stage: step(stage), lambda stage=stage: act(stage), at):  # type: ignore[misc]
            break
        played.append(stage)
    assert len(played) > 3
    return played


@pytest.mark.parametrize("outcome", list(Outcome))
def test_call_in_the_middle_of_an_opening(outcome: Outcome) -> None:
    """A call that ends, and one that begins, in the middle of an opening are judged by the state before it or after it."""

    def prepare(stage: Stage) -> None:
        stage.ask()
        stage.ask()

    def end(stage: Stage, number: int, outcome: Outcome) -> None:
        permit = stage.answers[number]
        assert isinstance(permit, Permit)
        assert permit.settle(outcome)

    def act(stage: Stage) -> None:
        end(stage, 1, outcome)
        assert stage.breaker.state in (State.CLOSED, State.OPEN)
        stage.ask()

    for stage in stages(prepare, lambda stage: end(stage, 0, Outcome.FAILURE), act):
        assert stage.breaker.state is State.OPEN
        assert stage.breaker.in_flight == stage.in_flight <= 1
        tallies = stage.breaker.tallies()
        assert sum(tallies.values()) - tallies.get(("rejected", "breaker"), 0) == 2


def test_two_calls_that_find_one_free_slot() -> None:
    """Of two calls that ask for the last slot, one in the middle of the other, one is a probe."""

    def prepare(stage: Stage) -> None:
        stage.open()
        stage.ask()

    for stage in stages(prepare, Stage.ask, Stage.ask, slots=2):
        assert [isinstance(answer, Permit) for answer in stage.answers].count(True) == 2
        assert stage.breaker.in_flight == stage.in_flight == 2


def test_two_calls_that_find_the_open_period_over() -> None:
    """Of two calls that would be the first probe, one in the middle of the other, one is."""
    for stage in stages(Stage.open, Stage.ask, Stage.ask):
        assert sorted(type(answer) is Rejection for answer in stage.answers) == [False, True]
        assert stage.breaker.in_flight == stage.in_flight == 1


@pytest.mark.parametrize("held", [0, 1, 2])
def test_call_that_takes_longer_to_ask_than_a_probe_may_last(held: int) -> None:
    """A call that is interrupted for longer than any lease, while it asks to be a probe, leaves no slot taken."""

    def prepare(stage: Stage) -> None:
        stage.open()
        for _ in range(held):
            stage.ask()
        stage.clock.advance(LEASE if held == 2 else 0)

    for stage in stages(prepare, Stage.ask, Stage.outlast, slots=2):
        stage.clock.advance(LONG)
        assert stage.breaker.in_flight == 0
        assert [stage.breaker.admit().is_probe for _ in range(2)] == [True, True]


def test_probe_that_is_given_up_while_it_is_given_back() -> None:
    """A probe whose lease ends in the middle of its being ignored gives its slot back once."""

    def prepare(stage: Stage) -> None:
        stage.open()
        stage.ask()

    def give_back(stage: Stage) -> None:
        (probe,) = stage.answers[:1]
        assert isinstance(probe, Permit)
        probe.ignore()

    for stage in stages(prepare, give_back, Stage.outlast):
        stage.clock.advance(LONG)
        assert stage.breaker.in_flight == 0
        assert stage.breaker.admit().is_probe


def test_call_that_ends_while_it_is_given_up() -> None:
    """A call that ends in the middle of being given up is counted once, and settled once."""
    results: list[bool] = []

    def prepare(stage: Stage) -> None:
        results.clear()
        stage.answers.append(stage.breaker.admit(timeout=1))
        stage.clock.advance(6)

    def end(stage: Stage) -> None:
        assert stage.breaker.in_flight == 0
        settle(stage)

    def settle(stage: Stage) -> None:
        (permit,) = stage.answers
        assert isinstance(permit, Permit)
        results.append(permit.success())

    def give_up(stage: Stage) -> None:
        assert stage.breaker.in_flight == 0
        settle(stage)
        assert results.count(True) == 1

    for stage in stages(prepare, give_up, end):
        assert stage.breaker.tallies() == {("stale", "OK"): 1}
