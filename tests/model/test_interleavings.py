"""Two and three threads in every interleaving with up to two preemptions, at every line of the core."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.model.scenes import SCENES
from tests.model.scheduler import Scheduler

LONG = bool(os.environ.get("PROVE"))


def schedules(points: int, first: int, second: int) -> Iterator[tuple[int, ...]]:
    """No preemption, one at every `first`th point, and a second at every `second`th after it."""
    yield ()
    for at in range(0, points, first):
        yield (at,)
        for again in range(0, points, second):
            yield (at, again)


def play(name: str, schedule: tuple[int, ...], rotated: int, *, instructions: bool = False) -> int:
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
    points = play(name, (), 0)
    assert points > 5
    for schedule in schedules(points, 1, 1 if LONG else 29):
        for rotated in range(len(SCENES[name]().actors)):
            play(name, schedule, rotated)


@pytest.mark.parametrize("name", SCENES)
def test_interleavings_of_instructions(name: str) -> None:
    """The same where threads switch in the middle of a line, as CPython does not and free-threaded builds do."""
    points = play(name, (), 0, instructions=True)
    for schedule in schedules(points, 1 if LONG else 5, 11 if LONG else points):
        for rotated in range(len(SCENES[name]().actors)):
            play(name, schedule, rotated, instructions=True)
