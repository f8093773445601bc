"""What an overview of many breakers shows of each: cheap, because there may be a thousand, and comparable, so that an
overview that is shown again and again finds the breakers of which something has changed.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from grpc_breaker._core.admission import Admission
from grpc_breaker._core.counts import FAILURE, IGNORED, REJECTED, STALE, SUCCESS, UNENFORCED
from grpc_breaker._core.events import DETAILS_LENGTH, FailureReason
from grpc_breaker._core.holds import Hold
from grpc_breaker._core.holds_by_name import Name, meant_by, parse_name
from grpc_breaker._core.log import printable
from grpc_breaker._core.registry import Registry
from grpc_breaker._core.snapshot import hanging
from grpc_breaker._core.state import State


class Totals(NamedTuple):
    """How calls ended since the process began."""

    successes: int
    failures: int
    ignored: int
    stale: int
    rejected: int
    unenforced: int


class Summary(NamedTuple):
    """One breaker at one moment. Two are equal where nothing has happened but that time has passed."""

    name: str
    generation: int
    """Another one after each change of state, reset and order of an operator."""
    sequence: int
    """The number of its last change of state; 0 before the first."""
    state: State
    condition: str
    """Which condition opened it last; empty where it admits calls."""
    since: float | None
    """When it came into its state, in seconds since the epoch; `None` where it never changed."""
    until: float
    """Until when it refuses every call, by its own clock; infinite where only an operator knows."""
    hold: Hold | None
    """The order that it obeys; two compare equal that end at the same moment for the same reason."""
    in_flight: int
    hung: int
    totals: Totals
    window: tuple[int, int, int]
    """The results that count in its state: calls, failures, slow ones."""
    last_failure: FailureReason | None
    """The last failure among them, or what it was opened by."""
    enforced: bool


class Meaning:
    """Which breakers of a registry a name means: of a method, a service, a group, a target; all where it is empty."""

    __slots__ = ("_name",)

    def __init__(self, registry: Registry, key: str) -> None:
        """Say which name.

        Raises:
            ValueError: A target that is none.
        """
        self._name: Name = parse_name(key, registry._configuration)

    def covers(self, breaker: str) -> bool:
        """Whether it means a breaker of this name."""
        return self._name.covers(meant_by(breaker))


def generation_of(breaker: Admission) -> int:
    """The number of its generation: what tells at the least cost whether its state has changed."""
    return breaker._after_hold().number


def seconds_until(breaker: Admission, time: float) -> float | None:
    """How long it is until a time of a breaker's own clock; `None` for one that never comes."""
    return None if time == math.inf else max(0.0, time - breaker._clock())


def summary_of(breaker: Admission) -> Summary:
    """What a breaker does now. Only calls in flight are looked at one by one."""
    generation = breaker._after_hold()
    now = breaker._clock()
    window = generation.held(now)
    hold, refusing, in_flight = generation.hold, generation.refusing, breaker._in_flight
    return Summary(
        name=breaker.name,
        generation=generation.number,
        sequence=generation.sequence,
        state=generation.state,
        condition="" if generation.passes else str(refusing.condition),
        since=generation.history[-1].time if generation.history else None,
        until=refusing.until,
        hold=hold,
        in_flight=breaker._sweep(now) if in_flight else 0,
        hung=hanging(breaker, now) if in_flight else 0,
        totals=_totals_of(breaker),
        window=window,
        last_failure=_last_failure(generation.window.last_failures()) if window[1] or not generation.passes else None,
        enforced=breaker._policy.enforcement_percentage > 0,
    )


def _totals_of(breaker: Admission) -> Totals:
    counts = breaker._counts
    ended = {SUCCESS: counts.successes, FAILURE: sum(counts.failures.copy().values()), REJECTED: counts.rejected}
    for (outcome, _), calls in counts.others.copy().items():
        ended[outcome] = ended.get(outcome, 0) + calls
    return Totals(
        ended[SUCCESS],
        ended[FAILURE],
        ended.get(IGNORED, 0),
        ended.get(STALE, 0),
        ended[REJECTED],
        ended.get(UNENFORCED, 0),
    )


def _last_failure(failures: list[tuple[str, str]]) -> FailureReason | None:
    if not failures:
        return None
    status, details = failures[-1]
    return FailureReason(status, printable(details)[:DETAILS_LENGTH])
