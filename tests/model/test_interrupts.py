"""An exception at every line of the core, as a signal handler raises it or another thread injects it.

A story runs once for each line of the core that it executes; before that line an exception is raised. It must reach the
caller, and leave the breaker whole: no other thread waits, the next change is delivered, events have no gap, the breaker
opens and recovers, and no permit is out beyond its lease. At most one result of the interrupted call is not counted, and
at most one event does not come to a listener, or comes twice: the one that was on its way.

Exceptions are raised as `BaseException`, like Ctrl-C, and as `Exception`, like Celery's soft time limit, which must not be
taken for one that a user's hook or this package raised. Each is kept until the end, as a task or a debugger keeps it, so
that nothing may rely on its traceback being gone.
"""

from __future__ import annotations

import threading
import traceback
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from grpc_breaker import (
    BreakerPolicy,
    BreakerRegistry,
    EndedCall,
    Fallback,
    LastGood,
    MethodPolicy,
    Outcome,
    Permit,
    RateLimit,
    RetryPolicy,
    RetryThrottling,
    State,
    StateChange,
    Throttle,
)
from grpc_breaker._core.overview import summary_of
from grpc_breaker._core.traffic import TrafficQueue
from grpc_breaker.testing import FakeClock
from tests.support.core import WATCHED, WATCHED_NAMES
from tests.support.lines import act_at, lines_run
from tests.support.transitions import LEGAL

pytestmark = pytest.mark.timeout(600)  # minutes beside three other suites, with coverage


PATIENCE = 20.0


class Interrupted(BaseException):
    """Like `KeyboardInterrupt`."""


class SoftTimeLimit(Exception):  # noqa: N818 - Celery's name for it has no "Error" either
    """An exception that a signal handler raises, of a class that `except Exception` catches."""


class Hook:
    """User code that a breaker calls."""

    broken = False

    def __call__(self, *_: Any) -> float:
        if self.broken:
            raise LookupError
        return 0.0


class Stage:
    """A breaker, its registry, and what is known of the calls made on it."""

    def __init__(self, limits: dict[str, Any] | None = None, **policy: Any) -> None:
        self.clock = FakeClock()
        rules: dict[str, Any] = {
            "consecutive_failures": 1,
            "half_open_max_calls": 1,
            "reset_timeout": 5,
            "reset_timeout_jitter": 0,
            "probe_timeout": 3,
        }
        self.hook = Hook()
        self.limits = limits or {}
        self.policy = MethodPolicy(breaker=BreakerPolicy(**{**rules, **policy}), **self.limits)
        self.breakers = BreakerRegistry(default=self.policy, max_breakers=1, clock=self.clock, random=self.hook)
        self.breaker = self.breakers["pkg.S/M"]
        self.received: list[StateChange] = []
        self.breaker.on_state_change(self.received.append)
        self.ended = 0
        """Calls that have ended, or were about to."""
        self.without_deadline = 0
        """Calls without a deadline, hence without a lease: one that is interrupted may stay in flight."""
        self.held = [self.breaker.admit(timeout=1), self.breaker.admit(timeout=1)]

    def admit(self) -> Permit | None:
        """Make a call with a deadline; `None` if it is refused."""
        answer = self.breaker.try_admit("pkg.S/M", "context", timeout=1)
        return answer if isinstance(answer, Permit) else None

    def call(self, outcome: Outcome) -> None:
        """A call that ends at once."""
        permit = self.admit()
        if permit is not None:
            self.ended += 1
            permit.settle(outcome, "STATUS", "details")

    def check(self) -> None:
        """What holds after the story was interrupted, at whatever line."""
        self.hook.broken = False
        self.clock.advance(10 if self.limits else 0)  # for what the rate limit has counted
        other = threading.Thread(target=self.call, args=(Outcome.IGNORED,), daemon=True)
        other.start()
        other.join(PATIENCE)
        assert not other.is_alive(), "another thread waits"
        self.breaker.disable()
        self.breaker.force_open()
        self.breaker.reset()
        assert [change.state for change in self.received[-2:]] == [State.FORCED_OPEN, State.CLOSED]
        totals = self.breaker.snapshot()["totals"]
        counted = sum(totals.values()) - totals["rejected"] - totals["unenforced"]
        assert abs(counted - self.ended) <= 1  # one more: a call whose permit never came to it may count as ignored
        self.recover()
        self.clock.advance(10)
        assert self.breaker.in_flight <= self.without_deadline
        self.use_every_place()
        assert self.breakers.breaker_for("/pkg.S/M") is self.breaker
        assert isinstance(self.breakers["pkg.S/New"].try_admit(timeout=1), Permit)
        self.check_events()

    def use_every_place(self) -> None:
        """Whatever was interrupted, no place of a bulkhead is lost, and the policy can be put in force as a whole."""
        still_out = self.breaker.in_flight
        self.breakers.reconfigure(default=MethodPolicy(max_concurrent_calls=5, timeout=1))
        taken = [self.admit() for _ in range(6)]
        assert sum(permit is not None for permit in taken) == 5 - still_out
        for permit in taken:
            if permit is not None:
                assert permit.ignore()
        self.breakers.reconfigure(default=self.policy)
        assert self.breaker.policy == self.policy.breaker_policy

    def check_events(self) -> None:
        """Every event has come once, in order, but for one that was interrupted on its way: that may be missing, or double."""
        assert {(change.previous, change.state, change.reason) for change in self.received} <= LEGAL
        sequences = [change.sequence for change in self.received]
        missing = set(range(1, sequences[-1] + 1)) - set(sequences)
        assert sequences == sorted(sequences)
        assert len(missing) + len(sequences) - len(set(sequences)) <= 1
        for before, after in pairwise(self.received):
            assert before.state is after.previous or before == after or before.sequence + 1 in missing

    def recover(self) -> None:
        """The breaker opens, lets one probe through, and closes."""
        self.breaker.reconfigure(BreakerPolicy(consecutive_failures=1, half_open_max_calls=1, reset_timeout_jitter=0))
        self.call(Outcome.FAILURE)
        assert self.breaker.state is State.OPEN
        self.clock.advance(60)
        probe = self.admit()
        assert probe is not None
        assert self.admit() is None
        probe.success()
        assert self.breaker.state is State.CLOSED


def admission(stage: Stage) -> None:
    """Calls begin: admitted, refused, as a probe."""
    stage.admit()
    stage.breaker.force_open()
    stage.admit()
    stage.breaker.reset()
    stage.call(Outcome.FAILURE)
    stage.admit()
    stage.clock.advance(5)
    stage.admit()
    stage.admit()


def settling(stage: Stage) -> None:
    """Calls end: well, with another status, ignored, badly, late, twice."""
    stage.call(Outcome.SUCCESS)
    stage.call(Outcome.IGNORED)
    permit = stage.admit()
    if permit is not None:
        stage.ended += 1
        permit.settle(Outcome.SUCCESS, "NOT_FOUND")
        permit.ignore()
    stage.call(Outcome.FAILURE)
    stage.ended += 1
    stage.held[0].failure()


def changes(stage: Stage) -> None:
    """Open, half-open, open again, half-open, closed."""
    stage.call(Outcome.FAILURE)
    stage.clock.advance(5)
    stage.call(Outcome.FAILURE)
    stage.clock.advance(5)
    stage.call(Outcome.SUCCESS)


def streams(stage: Stage) -> None:
    """A probe is answered and ends, and another expires before the next one comes."""
    stage.call(Outcome.FAILURE)
    stage.clock.advance(5)
    lost = stage.admit()
    stage.clock.advance(3)
    probe = stage.admit()
    if probe is not None and lost is not None:
        probe.answered()
        stage.ended += 1
        probe.success()
        stage.clock.advance(3)
        stage.ended += 1
        if not lost.ignore():  # it was forgotten
            stage.ended -= 1


def operators(stage: Stage) -> None:
    """Every command, and every way to read the breaker."""
    stage.breaker.force_open()
    stage.breaker.disable()
    stage.breaker.reset()
    stage.breaker.reset()
    stage.breaker.disable(ttl=1)
    stage.breaker.disable(ttl=2, reason="longer")
    stage.clock.advance(2)
    stage.admit()
    stage.breaker.force_open(ttl=1)
    stage.clock.advance(1)
    stage.breaker.snapshot()
    stage.breakers.force_open("pkg.S", ttl=1)
    stage.breakers.reset("pkg.S/M")
    stage.breakers.reset("pkg.S")
    stage.breaker.reconfigure(BreakerPolicy(consecutive_failures=1, window_calls=20))
    stage.breaker.snapshot()
    summary_of(stage.breaker)
    stage.breaker.tallies()
    repr(stage.breaker)


def plain_code(stage: Stage) -> None:
    """A decorated function and a block, which an interrupt may end, too."""
    stage.without_deadline = 1
    stage.ended += 1
    stage.breaker(print)(end="")
    stage.ended += 1
    with stage.breaker.admit(timeout=1):
        pass


def broken_hooks(stage: Stage) -> None:
    """A listener, a classifier and a source of chance that raise, which is logged."""
    stage.hook.broken = True
    end = stage.breaker.on_state_change(stage.hook)
    also_end = stage.breaker.on_rejection(stage.hook)
    stage.call(Outcome.FAILURE)
    stage.admit()
    end()
    also_end()
    stage.breaker.reset()
    stage.ended += 1
    with stage.breaker.admit(timeout=1):
        pass


def eviction(stage: Stage) -> None:
    """Names come, are evicted, and come back; too many that are not idle share a breaker."""
    for n in range(3):
        breaker = stage.breakers.breaker_for(f"/pkg.S/M{n}")
        assert breaker is not None
        breaker.admit(timeout=1).success()
    for n in range(12):
        permit = stage.breakers[f"pkg.S/Open{n}"].try_admit(timeout=1)
        if isinstance(permit, Permit):
            permit.failure()


def limits(stage: Stage) -> None:
    """Calls are refused by the bulkhead and the rate limit, hang, and come back with a ramp."""
    stage.call(Outcome.SUCCESS)
    for _ in range(3):  # two are out already
        stage.admit()
    stage.clock.advance(2.5)
    stage.ended += 1
    stage.admit()  # finds that those hang: one failure, which opens it
    stage.clock.advance(6)
    stage.call(Outcome.SUCCESS)  # the probe
    stage.admit()
    stage.admit()
    stage.clock.advance(0.5)
    for _ in range(6):
        stage.call(Outcome.SUCCESS)
    stage.clock.advance(5)
    stage.call(Outcome.SUCCESS)


def throttled(stage: Stage) -> None:
    """A throttle refuses all but one."""
    stage.call(Outcome.FAILURE)
    stage.call(Outcome.FAILURE)
    stage.admit()
    stage.clock.advance(4)
    stage.admit()
    stage.breaker.snapshot()


def trial(stage: Stage) -> None:
    """Calls pass an open breaker, beside a probe and after it."""
    end = stage.breaker.on_rejection(stage.hook)
    stage.call(Outcome.FAILURE)
    stage.call(Outcome.SUCCESS)
    stage.clock.advance(5)
    stage.admit()
    stage.call(Outcome.SUCCESS)
    end()


def configurations(stage: Stage) -> None:
    """Other configurations come into force, with limits and parts around the breaker, and without."""
    stage.breakers.route("/pkg.S/M")
    for policy in (
        MethodPolicy(max_concurrent_calls=9, rate_limit=RateLimit(50), timeout=1),
        MethodPolicy(throttle=Throttle(), retry=RetryPolicy(), fallback=Fallback(last_good=LastGood())),
        stage.policy,
    ):
        stage.breakers.reconfigure(default=policy, retry_throttling=RetryThrottling())
        route = stage.breakers.route("/pkg.S/M")
        if route is not None and route[2] is not None and route[2].answers is not None:
            route[2].answers.keep(b"key", "answer", 6)
            route[2].answers.find(b"key")
    stage.breaker.refusal_now()


def recorded(stage: Stage) -> None:
    """Calls of every kind are recorded, for a while: also those of a breaker that is made meanwhile."""
    queue = TrafficQueue(stage.breakers, 10)
    queue.open()
    stage.call(Outcome.SUCCESS)
    stage.call(Outcome.FAILURE)
    stage.admit()
    stage.clock.advance(5)
    probe = stage.admit()
    if probe is not None:
        probe.answered()
        stage.ended += 1
        probe.ignore()
    stage.breakers["pkg.S/Later"].admit(timeout=1).ignore()
    stage.admit()
    queue.close()
    queue.drop(len(queue.take(3)))
    queue.clear()
    queue.time_of(queue.now())


def judge(call: EndedCall) -> None:
    """A classifier that leaves every verdict as it is."""


def raising(call: EndedCall) -> Outcome:
    """A classifier that raises."""
    raise LookupError


STORIES: dict[str, tuple[Callable[[Stage], None], dict[str, Any]]] = {
    "admission": (admission, {}),
    "settling": (settling, {}),
    "settling with slow calls and a window of calls": (
        settling,
        {"slow_call_duration": 1, "window_calls": 5, "minimum_calls": 5},
    ),
    "changes": (changes, {}),
    "changes with back-off": (changes, {"reset_timeout_multiplier": 1.5}),
    "streams": (streams, {}),
    "operators": (operators, {}),
    "plain code": (plain_code, {}),
    "plain code with a classifier": (plain_code, {"classify": judge}),
    "broken hooks": (broken_hooks, {"classify": raising, "reset_timeout_jitter": 0.1}),
    "eviction": (eviction, {}),
    "limits": (
        limits,
        {
            "limits": {"max_concurrent_calls": 4, "rate_limit": RateLimit(1, burst=6)},
            "hung_after": 2,
            "ramp": 5,
        },
    ),
    "limits and streams": (
        limits,
        {"limits": {"max_concurrent_calls": 4, "bulkhead_streams": True}, "hung_after": 2, "half_open_max_calls": 2},
    ),
    "throttled": (throttled, {"limits": {"throttle": Throttle(minimum_calls=1)}}),
    "trial": (trial, {"enforcement_percentage": 0, "limits": {"max_concurrent_calls": 9}}),
    "recorded": (recorded, {}),
    "configurations": (configurations, {"limits": {"timeout": 1.0}}),
}


@pytest.mark.parametrize("kind", [Interrupted, SoftTimeLimit])
@pytest.mark.parametrize("name", STORIES)
def test_interrupted_at_every_line(
    name: str, kind: type[BaseException], nothing_logged_yet: Callable[[], None]
) -> None:
    """An exception at any line reaches the caller, and leaves the breaker whole."""
    story, policy = STORIES[name]
    at = 0
    while True:
        at += 1
        nothing_logged_yet()
        stage = Stage(**policy)
        thrown = kind(f"at line number {at}")

        def throw() -> None:
            raise thrown  # noqa: B023 - called at once

        caught: BaseException | None = None
        try:
            went_on = act_at(WATCHED, lambda: story(stage), throw, at)  # noqa: B023 - called at once
        except kind as error:
            caught, went_on = error, True
        if not went_on:
            break
        assert caught is thrown, "".join(traceback.format_exception(thrown))
        stage.check()
    assert at > 50


def test_stories_run_every_watched_file(nothing_logged_yet: Callable[[], None]) -> None:
    """Between them the stories run code of every watched file."""
    run: set[str] = set()
    for story, policy in STORIES.values():
        nothing_logged_yet()
        stage = Stage(**policy)
        run |= {Path(name).name for name in lines_run(WATCHED, partial(story, stage))}
    assert run == set(WATCHED_NAMES)
