"""Two and three threads in every interleaving with up to two preemptions, at every line of the core."""

from __future__ import annotations

import itertools
import os
import random
from collections.abc import Iterator, Sequence

import pytest

from grpc_breaker import BreakerPolicy, CircuitBreaker, Reason
from grpc_breaker.testing import FakeClock
from tests.model.scenes import SCENES
from tests.model.scheduler import Scheduler

pytestmark = pytest.mark.timeout(600)  # minutes beside three other suites, with coverage


RUNS = 12_000 if os.environ.get("LONG") else 150
"""Schedules of one scene, about. With `LONG=1` nearly all with two preemptions of two threads, a sample for three."""


def schedules(points: int, runs: int) -> Iterator[tuple[int, ...]]:
    """No preemption, one at every point, and a second at points that are spread over the rest."""
    step = max(1, points * points // runs)
    yield ()
    for first in range(points):
        yield (first,)
        for second in range(first % step, points, step):
            yield (first, second)


def play(name: str, schedule: Sequence[int], rotated: int, *, instructions: bool = False) -> int:
    """Play a scene under a schedule, with another of its threads first; returns the number of its switch points."""
    scene = SCENES[name]()
    scene.exact = not instructions
    scheduler = Scheduler(schedule, instructions=instructions)
    results = scheduler.run(*scene.actors[rotated:], *scene.actors[:rotated])
    cut = len(results) - rotated
    scene.check(results[cut:] + results[:cut])
    return scheduler.switch_points


@pytest.mark.parametrize("name", SCENES)
def test_every_interleaving(name: str) -> None:
    """Whatever the interleaving, the invariants hold and the scene ends as it must."""
    points, actors = play(name, (), 0), len(SCENES[name]().actors)
    assert points > 5
    for schedule in schedules(points, RUNS // actors):
        for rotated in range(actors):
            play(name, schedule, rotated)


@pytest.mark.parametrize("name", SCENES)
def test_interleavings_of_instructions(name: str) -> None:
    """The same where threads switch in the middle of a line, as CPython does not and free-threaded builds do."""
    points, actors = play(name, (), 0, instructions=True), len(SCENES[name]().actors)
    for number, schedule in enumerate(schedules(points, RUNS // actors)):
        if number % (1 + points * actors // RUNS) == 0:
            play(name, schedule, number % actors, instructions=True)


def test_many_switches_between_configurations() -> None:
    """However often threads that put configurations in force are switched, one of them is in force in the end, whole."""
    rng = random.Random(1)
    for number in range(RUNS):
        switches, most = ((6, 120), (20, 40))[number % 2]
        play("two configurations", [rng.randrange(1, most) for _ in range(switches)], number % 3)


def test_probes_that_fail_and_are_slow_at_once() -> None:
    """Of two probes that end badly at once, the one that opens the breaker is among those that its event counts."""
    policy = BreakerPolicy(consecutive_failures=1, slow_call_duration=1, reset_timeout=10, half_open_max_calls=2)
    reasons = set()
    for first, second, rotated in itertools.product(range(40), range(0, 40, 4), range(2)):
        clock = FakeClock()
        breaker = CircuitBreaker("shop", policy, clock=clock)
        breaker.admit().failure()
        clock.advance(20)
        slow = breaker.admit()
        clock.advance(5)
        actors = [breaker.admit().failure, slow.success]
        Scheduler((first, second)).run(*actors[rotated:], *actors[:rotated])
        change = breaker.changes[-1]
        reasons.add(change.reason)
        assert change.failures if change.reason is Reason.PROBE_FAILED else change.slow, (first, second, change)
    assert reasons == {Reason.PROBE_FAILED, Reason.PROBE_SLOW}
