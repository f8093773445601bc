"""Two and three threads in every interleaving with up to two preemptions, at every line of the breaker."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

import pytest

from grpc_breaker import BreakerPolicy, CircuitBreaker, Outcome, Permit, State
from grpc_breaker._core.state import TRANSITIONS
from grpc_breaker.testing import EventRecorder, FakeClock
from tests.model.scheduler import Scheduler, play

LONG = bool(os.environ.get("PROVE"))


class Scene:
    """A breaker, the threads that are let loose on it, and what must hold afterwards."""

    def __init__(self, **policy: Any) -> None:
        rules = {"consecutive_failures": 1, "half_open_max_calls": 1, "reset_timeout": 5.0, "reset_timeout_jitter": 0.0}
        self.clock = FakeClock()
        self.breaker = CircuitBreaker("scene", BreakerPolicy(**{**rules, **policy}), clock=self.clock)
        self.events = EventRecorder(self.breaker)
        self.actors: list[Callable[[], object]] = []
        self.outstanding = 0
        self.judge: Callable[[list[Any]], object] = lambda results: None

    def open_and_wait(self) -> None:
        self.breaker.admit().failure()
        self.clock.advance(5)

    def check(self, results: list[Any]) -> None:
        """What holds after every schedule."""
        breaker, changes = self.breaker, self.events.changes
        assert [change.sequence for change in changes] == list(range(1, len(changes) + 1))
        assert all(change.reason in TRANSITIONS[change.previous, change.state] for change in changes)
        assert [change.state for change in changes[-1:]] in ([], [breaker.state])
        assert breaker._slots_taken() <= breaker.policy.half_open_max_calls
        handed_out = sum(isinstance(result, Permit) for result in results)
        self.judge(results)
        assert breaker.in_flight == self.outstanding + handed_out
        assert not breaker._busy
        assert not breaker._outbox


def race_for_the_slot(threads: int) -> Scene:
    """Threads ask an open breaker whose period is over: one probe passes, in any order."""
    scene = Scene()
    scene.open_and_wait()
    scene.actors = [scene.breaker.try_admit] * threads

    def judge(results: list[Any]) -> None:
        assert sum(isinstance(result, Permit) for result in results) == 1
        assert scene.breaker.snapshot()["totals"]["rejected"] == threads - 1
        assert scene.events.states == [State.OPEN, State.HALF_OPEN]

    scene.judge = judge
    return scene


def settled_twice(first: Outcome, second: Outcome, *, calm: bool) -> Scene:
    """Two threads settle one permit, a callback and a finalizer: one of them does."""
    scene = Scene(consecutive_failures=2)
    if calm:
        scene.breaker.admit().success()
    permit = scene.breaker.admit()
    scene.actors = [lambda: permit.settle(first), lambda: permit.settle(second)]

    def judge(results: list[Any]) -> None:
        assert sorted(results) == [False, True]
        totals = scene.breaker.snapshot()["totals"]
        assert sum(totals.values()) == 1 + calm
        won = first if results[0] else second
        assert totals[str(won)] == 1 + (calm and won is Outcome.SUCCESS)

    scene.judge = judge
    return scene


def success_and_failure(*, calm: bool) -> Scene:
    """A success and a failure that opens it, at once: the success counts, or is stale."""
    scene = Scene()
    if calm:
        scene.breaker.admit().success()
    good, bad = scene.breaker.admit(), scene.breaker.admit()
    scene.actors = [good.success, bad.failure]

    def judge(results: list[Any]) -> None:
        totals = scene.breaker.snapshot()["totals"]
        assert results == [True, True]
        assert totals["success"] + totals["stale"] == 1 + calm
        assert totals["failure"] == 1
        assert scene.breaker.state is State.OPEN

    scene.judge = judge
    return scene


def two_calm_successes_at_the_end_of_a_bucket() -> Scene:
    """Two successes as the window turns: both are in it."""
    scene = Scene()
    scene.breaker.admit().success()
    permits = scene.breaker.admit(), scene.breaker.admit()
    scene.clock.advance(4)
    scene.actors = [permits[0].success, permits[1].success]

    def judge(results: list[Any]) -> None:
        snapshot = scene.breaker.snapshot()
        assert snapshot["totals"]["success"] == 3
        assert snapshot["window"]["calls"] == 3

    scene.judge = judge
    return scene


def success_and_failure_beside_an_old_failure() -> Scene:
    """A success and a failure at once, with a failure in the window: both count, and the failures are not in a row."""
    scene = Scene(consecutive_failures=2, minimum_calls=10)
    scene.breaker.admit().failure()
    scene.breaker.admit().success()
    permits = [scene.breaker.admit() for _ in range(2)]
    scene.actors = [permits[0].success, permits[1].failure]

    def judge(results: list[Any]) -> None:
        window = scene.breaker.snapshot()["window"]
        assert (window["calls"], window["failures"]) == (4, 2)
        assert window["consecutive_failures"] <= 1
        assert scene.breaker.state is State.CLOSED

    scene.judge = judge
    return scene


def success_that_fills_the_window() -> Scene:
    """Of the successes that come at once, the one that fills the window to `minimum_calls` opens it."""
    scene = Scene(consecutive_failures=None, minimum_calls=4)
    for _ in range(2):
        scene.breaker.admit().failure()
    permits = [scene.breaker.admit() for _ in range(2)]
    scene.actors = [permits[0].success, permits[1].success]

    def judge(results: list[Any]) -> None:
        assert results == [True, True]
        assert scene.breaker.state is State.OPEN

    scene.judge = judge
    return scene


def lease_against_late_result(outcome: Outcome) -> Scene:
    """A lost probe's result comes while its slot is given to the next: counted once, as itself or as stale."""
    scene = Scene(probe_timeout=3.0)
    scene.open_and_wait()
    lost = scene.breaker.admit()
    scene.clock.advance(3)
    scene.actors = [scene.breaker.try_admit, lambda: lost.settle(outcome)]

    def judge(results: list[Any]) -> None:
        totals = scene.breaker.snapshot()["totals"]
        assert results[1]
        assert totals["stale"] + totals[str(outcome)] == 1 + (outcome is Outcome.FAILURE)

    scene.judge = judge
    return scene


def two_probes(first: Outcome, second: Outcome) -> Scene:
    """The results of two probes come at once: two successes close, a failure opens, whichever comes first."""
    scene = Scene(half_open_max_calls=2)
    scene.open_and_wait()
    probes = scene.breaker.admit(), scene.breaker.admit()
    scene.actors = [lambda: probes[0].settle(first), lambda: probes[1].settle(second)]

    def judge(results: list[Any]) -> None:
        failed = Outcome.FAILURE in {first, second}
        assert scene.breaker.state is (State.OPEN if failed else State.CLOSED)
        assert len(scene.events.changes) == 3

    scene.judge = judge
    return scene


def answer_and_result(outcome: Outcome) -> Scene:
    """A stream's headers and its final status at once: one success at most, and a failure is not lost while half-open."""
    scene = Scene(half_open_max_calls=2)
    scene.open_and_wait()
    probe = scene.breaker.admit()
    scene.actors = [probe.answered, lambda: probe.settle(outcome)]

    def judge(results: list[Any]) -> None:
        expected = State.OPEN if outcome is Outcome.FAILURE else State.HALF_OPEN
        assert scene.breaker.state is expected
        assert scene.breaker._probe_successes <= 1

    scene.judge = judge
    return scene


def operator_against_traffic() -> Scene:
    """An operator forces it open while a probe ends and a call comes: it is forced open in the end."""
    scene = Scene()
    scene.open_and_wait()
    probe = scene.breaker.admit()
    scene.actors = [scene.breaker.force_open, probe.success, scene.breaker.try_admit]

    def judge(results: list[Any]) -> None:
        assert scene.breaker.state is State.FORCED_OPEN

    scene.judge = judge
    return scene


OUTCOMES = (Outcome.SUCCESS, Outcome.FAILURE, Outcome.IGNORED)
SCENES: dict[str, Callable[[], Scene]] = {
    "two threads race for the slot": lambda: race_for_the_slot(2),
    "three threads race for the slot": lambda: race_for_the_slot(3),
    "success and failure": lambda: success_and_failure(calm=False),
    "calm success and failure": lambda: success_and_failure(calm=True),
    "two calm successes as the window turns": two_calm_successes_at_the_end_of_a_bucket,
    "success and failure beside an old failure": success_and_failure_beside_an_old_failure,
    "success that fills the window": success_that_fills_the_window,
    "operator against traffic": operator_against_traffic,
    **{f"lease against late {o}": lambda o=o: lease_against_late_result(o) for o in OUTCOMES},
    **{f"headers and {o}": lambda o=o: answer_and_result(o) for o in OUTCOMES},
    **{f"probes {a} and {b}": lambda a=a, b=b: two_probes(a, b) for a, b in product(OUTCOMES[:2], repeat=2)},
    **{
        f"settled twice {a} {b} {'calm' if calm else ''}": lambda a=a, b=b, calm=calm: settled_twice(a, b, calm=calm)
        for a, b, calm in product(OUTCOMES, OUTCOMES, (False, True))
    },
}


def schedules(points: int) -> Iterator[tuple[int, ...]]:
    """Every place of a first preemption, and places of a second."""
    yield ()
    for first in range(points):
        yield (first,)
        for second in range(0, points, 1 if LONG else 29):
            yield (first, second)


@pytest.mark.parametrize("name", SCENES)
def test_every_interleaving(name: str) -> None:
    """Whatever the interleaving, the invariants hold and the scene ends as it must."""
    dry = SCENES[name]()
    scheduler = Scheduler(())
    dry.check(play(dry.breaker, scheduler, *dry.actors))
    points = scheduler.switch_points
    assert points > 5
    for schedule in schedules(points):
        for rotated in range(len(dry.actors)):
            scene = SCENES[name]()
            order = scene.actors[rotated:] + scene.actors[:rotated]
            results = play(scene.breaker, Scheduler(schedule), *order)
            cut = len(order) - rotated
            scene.check(results[cut:] + results[:cut])
