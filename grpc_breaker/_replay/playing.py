"""Recorded calls through the real machine, under a moved clock.

1.  Each policy has a registry of its own, whose clock shows the time of the record. A call asks its breaker as the
    adapters ask, and is settled when it ended in the record, by what `_rpc.py` says of its status.
2.  A call that a policy refuses is not played to its end. How it ended in the record is what it *would have* done.
3.  All policies are played at once: the record is read once.
4.  A probe that a policy gives less time than it took (`probe_deadline`) ends then, with DEADLINE_EXCEEDED.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Final, NamedTuple

import grpc

from grpc_breaker._core.events import StateChange
from grpc_breaker._core.permit import Permit, Probe
from grpc_breaker._core.policy import BreakerPolicy
from grpc_breaker._core.refusing import Rejection
from grpc_breaker._core.state import Outcome, Reason, State
from grpc_breaker._replay.calls import MOST_CHANGES, STATUSES, Call
from grpc_breaker._replay.health import Healths
from grpc_breaker._replay.policies import Played
from grpc_breaker._replay.timeline import Timeline
from grpc_breaker._rpc import settle, verdict

_DEFAULT: Final = BreakerPolicy()
_SUCCESS: Final = Outcome.SUCCESS
_FAILURE: Final = Outcome.FAILURE

_Running = tuple[float, int, Call, list[Permit | None]]
"""A call by its end, a number that no other has, and the permit that each policy gave it."""


class Change(NamedTuple):
    """A change of a breaker's state in a replay."""

    time: float
    """When, in seconds since the epoch."""
    breaker: str
    """Its name."""
    method: str
    """The method of the call that caused it."""
    previous: str
    """The state it left, "closed"."""
    state: str
    """The state it entered, "open"."""
    reason: str
    """Which condition fired, "consecutive_failures"."""
    calls: int
    """Results that counted: those in the window, or those of the probes."""
    failures: int
    """How many of them were failures."""
    slow: int
    """How many of them were slow."""
    status: str
    """Status of the call whose end caused it; empty for a first probe."""


class Opening:
    """A time in which a breaker was not closed, from the trip until it closed again."""

    __slots__ = (
        "breaker",
        "calls",
        "closed",
        "failures",
        "opened",
        "probes_failed",
        "reason",
        "refused",
        "slow",
        "status",
    )

    def __init__(self, change: StateChange) -> None:
        self.breaker = change.breaker
        self.opened = change.at
        self.closed: float | None = None
        """When; `None` where the record ended before."""
        self.reason = str(change.reason)
        self.calls, self.failures, self.slow, self.status = change.calls, change.failures, change.slow, change.status
        self.probes_failed = 0
        self.refused = 0


@dataclass
class Tally:
    """Refused calls, by how they would have ended."""

    good: int = 0
    bad: int = 0
    ignored: int = 0
    seconds_good: float = 0.0
    seconds_bad: float = 0.0
    by_reason: dict[str, int] = field(default_factory=dict[str, int])

    @property
    def total(self) -> int:
        """All of them."""
        return self.good + self.bad + self.ignored


class Clock:
    """What every registry takes for the time."""

    __slots__ = ("now",)

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        """The time of the record."""
        return self.now


class Player:
    """One policy, and what became of the calls under it."""

    def __init__(self, policy: Played, number: int, clock: Clock, seed: int, healths: Healths) -> None:
        self.policy = policy
        self.number = number
        self.registry = policy.make(clock, Random(seed).random)  # noqa: S311 - the same each time
        self._route = self.registry.route
        self.refused = Tally()
        self.unenforced = 0
        self.left_alone = 0
        self.changes: list[Change] = []
        self.more_changes = 0
        self.openings: list[Opening] = []
        self.opened = 0
        self.slow_trips = 0
        self.not_closed_seconds = 0.0
        self._clock = clock
        self._healths = healths
        self._open: dict[str, Opening] = {}
        """The breakers that are not closed."""
        self.registry.on_state_change(self._changed)
        self.registry.on_rejection(self._count_unenforced)

    def admit(self, method: str, target: str, timed: bool, deadline: float | None) -> Permit | Rejection | None:
        """Ask as the adapters ask; `None` where the method is left alone."""
        route = self._route(method, target)
        if route is None:
            self.left_alone += 1
            return None
        return route[0].try_admit(route[1], None, timed, deadline)

    def refuse(self, rejection: Rejection, call: Call, outcome: Outcome) -> None:
        """Take in that a call was refused, which would have ended as recorded."""
        tally = self.refused
        reason = str(rejection.reason)
        tally.by_reason[reason] = tally.by_reason.get(reason, 0) + 1
        if outcome is _SUCCESS:
            tally.good += 1
            tally.seconds_good += call.duration
        elif outcome is _FAILURE:
            tally.bad += 1
            tally.seconds_bad += call.duration
        else:
            tally.ignored += 1
        opening = self._open.get(rejection.breaker)
        if opening is not None:
            opening.refused += 1

    def finish(self, now: float) -> None:
        """The record has ended."""
        for opening in self._open.values():
            self.not_closed_seconds += now - opening.opened

    def _count_unenforced(self, rejection: Rejection) -> None:
        if not rejection.enforced:
            self.unenforced += 1

    def _changed(self, change: StateChange) -> None:
        made = Change(
            change.at,
            change.breaker,
            change.method,
            str(change.previous),
            str(change.state),
            str(change.reason),
            change.calls,
            change.failures,
            change.slow,
            change.status,
        )
        if len(self.changes) < MOST_CHANGES:
            self.changes.append(made)
        else:
            self.more_changes += 1
        if change.previous is State.CLOSED:
            self._tripped(change)
        elif change.state is State.CLOSED:
            opening = self._open.pop(change.breaker)
            opening.closed = change.at
            self.not_closed_seconds += change.at - opening.opened
        elif change.state is State.OPEN:
            self._open[change.breaker].probes_failed += 1

    def _tripped(self, change: StateChange) -> None:
        opening = self._open[change.breaker] = Opening(change)
        self.opened += 1
        if len(self.openings) < MOST_CHANGES:
            self.openings.append(opening)
        if change.reason is Reason.SLOW_CALL_RATE:
            self.slow_trips += 1
            return
        self._healths.of(change.method, change.target).trips[self.number] += 1


class Game:
    """All policies over one record."""

    def __init__(self, policies: Sequence[Played], seed: int) -> None:
        self.clock = Clock()
        self.healths = Healths(len(policies))
        self.players = [
            Player(policy, number, self.clock, seed, self.healths) for number, policy in enumerate(policies)
        ]
        self.timeline = Timeline(2 + len(policies))
        """Calls, failures, and what each policy refused, by the time at which the calls began."""
        self.begins = 0.0
        self.ends = 0.0
        self.calls = 0
        self.good = 0
        self.bad = 0
        self.streams = 0
        self.outcomes = 0
        """Calls whose outcome is recorded."""
        self._running: list[_Running] = []
        """A heap of the calls that have begun and not ended."""
        self._order = 0

    def play(self, calls: Iterable[Call]) -> None:
        """Play calls, in the order of their starts."""
        clock, running, pop = self.clock, self._running, heapq.heappop
        for call in calls:
            start = call[0]
            while running and running[0][0] <= start:
                clock.now, _, ended, permits = pop(running)
                _end(ended, permits)
            clock.now = start
            self._begin(call)
        while running:
            clock.now, _, ended, permits = pop(running)
            _end(ended, permits)
        self.ends = clock.now
        for health in self.healths.values():
            health.finish(clock.now)
        for player in self.players:
            player.finish(clock.now)

    def _begin(self, call: Call) -> None:
        """A call begins: each policy is asked."""
        start, method, duration, status, deadline, target, stream, _, outcome, _ = call
        if not self.calls:
            self.begins = start
        self.calls += 1
        if status == "OK" and outcome is None:
            judged = _SUCCESS
            self.good += 1
        else:
            judged = self._judge(call)
        health = self.healths.get((method, target)) or self.healths.of(method, target)
        health.note(start, duration, judged is _SUCCESS, judged is _FAILURE, stream)
        slot = self.timeline.slot(start)
        counts = self.timeline.counts
        counts[0][slot] += 1
        if judged is _FAILURE:
            counts[1][slot] += 1
        if stream:
            self.streams += 1
        permits: list[Permit | None] = []
        for player in self.players:
            permit = player.admit(method, target, not stream, deadline)
            if isinstance(permit, Permit):
                health.admitted[player.number] += 1
                if isinstance(permit, Probe) and self._ends_early(permit, call):
                    permit = None
                permits.append(permit)
            elif permit is None:
                permits.append(None)
            else:
                player.refuse(permit, call, judged)
                counts[2 + player.number][slot] += 1
                permits.append(None)
        self._order += 1
        heapq.heappush(self._running, (start + duration, self._order, call, permits))

    def _ends_early(self, probe: Probe, call: Call) -> bool:
        """Whether a probe has less time than the call took, see rule 4; then its own end is noted."""
        policy = probe.policy
        cut = policy.probe_deadline
        if cut is None or call.stream or call.duration <= cut or policy.enforcement_percentage == 0.0:
            return False
        short = call._replace(duration=cut, status="DEADLINE_EXCEEDED", deadline=cut, outcome=None, details="")
        self._order += 1
        ends: _Running = (call.time + cut, self._order, short, [probe])
        heapq.heappush(self._running, ends)
        return True

    def _judge(self, call: Call) -> Outcome:
        """How a call ended, by the statuses of gRPC alone: without the verdicts of a policy."""
        _, _, duration, status, deadline, _, stream, _, outcome, details = call
        if outcome is not None:
            self.outcomes += 1
            judged = Outcome(outcome)
        else:
            code = STATUSES.get(status)
            judged = _FAILURE
            if code is not None:
                judged = verdict(_DEFAULT, code, details, duration, deadline, stream=stream)
        if judged is _SUCCESS:
            self.good += 1
        elif judged is _FAILURE:
            self.bad += 1
        return judged


def _end(call: Call, permits: list[Permit | None]) -> None:
    """A call ends, under each policy that admitted it."""
    status, outcome = call[3], call[8]
    for permit in permits:
        if permit is None:
            continue
        if outcome is not None:
            permit.settle(Outcome(outcome), status, call.details)
        elif status == "OK":
            if permit.policy.plain:
                permit.settle(_SUCCESS, "OK")
            else:
                settle(permit, grpc.StatusCode.OK, call.details, (), call.deadline)
        else:
            code = STATUSES.get(status)
            if code is None:
                permit.settle(_FAILURE, status, call.details)
            else:
                settle(permit, code, call.details, (), call.deadline)
