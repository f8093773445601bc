"""What a record says of deadlines, bulkheads and thresholds, each with its arithmetic; and what it cannot say.

    deadline          the 99th percentile of the healthy answers, and half as much again
    bulkhead          calls that are in flight at once: calls per second, times that percentile (Little's law)
    probe deadline    that percentile: what a healthy server needs
    minimum calls     results from which on stray failures alone hardly ever reach the failure rate
    guide             failure_threshold = error_rate * request_volume * window_seconds / 100, and how that plays
    utilisation       the share of its threads that a client loses to probes in an outage (Semian):
                      methods * probe deadline / (threads * reset_timeout)

Only stretches in which a method was healthy count (`health.py`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

from grpc_breaker._core.log import printable
from grpc_breaker._core.method_policy import MethodPolicy
from grpc_breaker._core.policy import BreakerPolicy
from grpc_breaker._core.target import at_target
from grpc_breaker._replay.health import Health
from grpc_breaker._replay.policies import Played, played
from grpc_breaker._replay.report import PolicyReport, Report
from grpc_breaker._replay.text import judged, seconds, table, times

GUIDE_ERROR_RATE: Final = 20.0
"""Percent: the guide's example of an acceptable share of failures."""
GUIDE_WINDOW: Final = 30.0
GUIDE_RESET: Final = 60.0
"""Seconds: the guide's other defaults."""

_FEW: Final = 1000
"""Healthy answers below which a 99th percentile is of less than ten calls."""
_RARE: Final = 1e-6
"""How likely stray failures may reach the rate in one window."""
_ROUNDING: Final = 1e-9
_MOST_RESULTS: Final = 10_000
_MOST_METHODS: Final = 20


def guide_threshold(error_rate: float, request_volume: float, window_seconds: float) -> float:
    """The guide's formula for `failure_threshold`.

    Args:
        error_rate: The acceptable share of failures, in percent.
        request_volume: Calls per second.
        window_seconds: How long a result counts.
    """
    return error_rate * request_volume * window_seconds / 100


def utilisation(methods: int, probe_deadline: float, threads: int, reset_timeout: float) -> float:
    """The share of a client's threads that probes take while everything is down, as Semian reckons; 1 is all of them.

    Args:
        methods: Breakers that are open at once.
        probe_deadline: Seconds for which a probe keeps its thread.
        threads: Threads of the client.
        reset_timeout: Seconds between two probes of a breaker.
    """
    return methods * probe_deadline / (threads * reset_timeout)


def minimum_calls(stray: float, failure_rate: float) -> int | None:
    """The number of results from which on stray failures reach a rate less often than once in a million windows.

    Args:
        stray: The share of calls that fail in healthy times.
        failure_rate: The rate that opens the breaker.

    Returns:
        `None` where even ten thousand results are too few.
    """
    count = 1
    while count <= _MOST_RESULTS:
        failures = math.ceil(failure_rate * count - _ROUNDING)
        most = int(failures / failure_rate + _ROUNDING)  # the more results it takes so many failures of, the likelier
        if _at_least(failures, max(most, count), stray) < _RARE:
            return count
        count = count + 1 if count < 200 else int(count * 1.05)
    return None


def _at_least(failures: int, count: int, share: float) -> float:
    """How likely at least so many of `count` calls fail, of which each does with this probability."""
    if share <= 0.0:
        return float(failures <= 0)
    if share >= 1.0:
        return 1.0
    log = math.lgamma(count + 1)
    total = 0.0
    for it in range(max(failures, 0), count + 1):
        chosen = log - math.lgamma(it + 1) - math.lgamma(count - it + 1)
        total += math.exp(chosen + it * math.log(share) + (count - it) * math.log1p(-share))
    return total


@dataclass(frozen=True)
class MethodAdvice:
    """What a record says of one method."""

    method: str
    """Its name, with its target."""
    healthy_calls: int
    """Calls in healthy stretches."""
    calls_per_second: float
    """In the busiest healthy stretch."""
    stray_failures: float
    """The share of calls that failed in healthy stretches."""
    p99: float | None
    """Seconds that 99 of 100 healthy answers took at most; `None` without any."""
    deadline: float | None
    """Seconds: `p99`, and half as much again."""
    bulkhead: int | None
    """Calls in flight: `calls_per_second` times `p99`, rounded up."""
    probe_deadline: float | None
    """Seconds: `p99`."""
    minimum_calls: int | None
    """See `minimum_calls`; `None` where there is no such number, or no healthy call."""
    failure_rate: float
    """The rate that `minimum_calls` is for: the policy's, or 0.5 where it has none."""
    guide_threshold: int
    """The guide's formula, with 20 % and 30 seconds."""
    cannot_say: tuple[str, ...]
    """What of this is doubtful, and why."""


@dataclass(frozen=True)
class Advice:
    """What a record says of a client's settings."""

    methods: tuple[MethodAdvice, ...]
    """Those with most calls first."""
    played: tuple[PolicyReport, ...]
    """What the first of the policies would have done, the guide's formula, and the first policy with what is advised: a
    bulkhead, a probe deadline, a least number of calls."""
    utilisation: float | None
    """Of `threads`, with these probe deadlines and the first policy's `reset_timeout`; `None` without `threads`."""
    threads: int | None
    """Threads of the client; `None` where nobody said."""
    cannot_say: tuple[str, ...]
    """What of this is doubtful for all methods, and why."""

    def as_dict(self) -> dict[str, Any]:
        """As plain data."""
        return {
            "methods": [asdict(it) for it in self.methods],
            "played": [{name: getattr(it, name) for name in _SHOWN} for it in self.played],
            "utilisation": self.utilisation,
            "threads": self.threads,
            "cannot_say": list(self.cannot_say),
        }

    def text(self) -> str:
        """For a terminal, with the arithmetic."""
        lines = ["Advice, from the healthy part of the record", ""]
        rows = [_row(it) for it in self.methods[:_MOST_METHODS]]
        lines += [*table(_COLUMNS, rows), ""]
        if len(self.methods) > _MOST_METHODS:
            lines += [f"and {len(self.methods) - _MOST_METHODS} methods more: --json has them", ""]
        for it in self.methods[:_MOST_METHODS]:
            lines += [*_arithmetic(it), ""]
        lines += [_played(it) for it in self.played]
        if self.utilisation is not None:
            lines.append(
                f"In an outage of everything, probes take {self.utilisation:.1%} of {self.threads} threads "
                "(sum of probe deadlines / (threads * reset_timeout))"
            )
        lines += [f"CANNOT SAY: {it}" for it in self.cannot_say]
        return "\n".join(lines) + "\n"


_SHOWN: Final = (
    "name",
    "opened",
    "trips_in_healthy_time",
    "good_refused",
    "bad_spared",
    "sent_to_sick",
    "outside_the_record",
    "verdict",
)
_COLUMNS: Final = ("method", "p99", "deadline", "bulkhead", "probe deadline", "minimum calls", "guide's threshold")


def _played(it: PolicyReport) -> str:
    """What a policy would have done."""
    return (
        f"{printable(it.name)}, played: {judged(it)}; opened {times(it.opened)}, {it.trips_in_healthy_time} of these "
        f"in healthy time; refused {it.good_refused} good calls, spared {it.bad_spared} bad ones, "
        f"sent {it.sent_to_sick} to a sick server"
    )


def _row(it: MethodAdvice) -> tuple[str, ...]:
    optional = [it.p99, it.deadline, it.bulkhead, it.probe_deadline, it.minimum_calls]
    shown = ["?" if value is None else seconds(value) if isinstance(value, float) else str(value) for value in optional]
    return (printable(it.method), *shown, str(it.guide_threshold))


def _arithmetic(it: MethodAdvice) -> Sequence[str]:
    lines = [f"{printable(it.method)}: {it.healthy_calls} healthy calls, {it.calls_per_second:.1f} per second at most"]
    if it.p99 is not None:
        lines += [
            f"  deadline        p99 {seconds(it.p99)} * 1.5",
            f"  bulkhead        {it.calls_per_second:.1f} per second * p99 {seconds(it.p99)}, rounded up",
            f"  probe deadline  p99 {seconds(it.p99)}",
        ]
    stray = f"{it.stray_failures:.3%} stray failures"
    lines += [
        f"  minimum calls   {stray} reach {it.failure_rate:.3g} of a window less often than once in a million",
        f"  guide           {GUIDE_ERROR_RATE:g} * {it.calls_per_second:.1f} * {GUIDE_WINDOW:g} / 100",
    ]
    return [*lines, *[f"  CANNOT SAY: {words}" for words in it.cannot_say]]


def advice_of(report: Report, threads: int | None, play: Callable[[list[Played]], Report]) -> Advice:
    """What a record says of a client's settings.

    Args:
        report: That of the record.
        threads: Threads of the client; `None` where nobody says.
        play: Plays the same record with other policies.

    Raises:
        ValueError: `threads` is below 1.
    """
    if threads is not None and threads < 1:
        message = f"threads must be 1 or more, got {threads}"
        raise ValueError(message)
    base = report._game.players[0].policy.base or BreakerPolicy()
    healths = sorted(report._game.healths.items(), key=lambda it: -it[1].calls)
    methods = tuple(_of_method(at_target(*name), health, base) for name, health in healths)
    guide, advised = played("the guide's formula", _by_guide(methods)), played("as advised", _as_advised(methods, base))
    suggested = play([guide, advised])
    cannot = [str(it) for it in report.warnings if not it.policy]
    probes = [it.probe_deadline for it in methods if it.probe_deadline is not None]
    share = None
    if threads is None:
        cannot.append(
            "how much of a client an outage takes: the record does not say how many threads it has (--threads)"
        )
    elif probes:
        share = utilisation(1, sum(probes), threads, base.reset_timeout)
    return Advice(methods, (report.policies[0], *suggested.policies), share, threads, tuple(cannot))


def _by_guide(methods: Sequence[MethodAdvice]) -> dict[str, BreakerPolicy]:
    """The guide's breaker with the threshold that its formula gives for each method."""
    return {
        it.method: BreakerPolicy(
            failure_threshold=it.guide_threshold, window_seconds=GUIDE_WINDOW, reset_timeout=GUIDE_RESET
        )
        for it in methods
        if _can_be_named(it.method)
    }


def _as_advised(methods: Sequence[MethodAdvice], base: BreakerPolicy) -> dict[str, MethodPolicy]:
    """A policy with what is advised for each method."""
    return {
        it.method: MethodPolicy(
            breaker=replace(
                base,
                group=None,
                minimum_calls=it.minimum_calls or base.minimum_calls,
                probe_deadline=it.probe_deadline and max(it.probe_deadline, base.minimum_deadline, 1e-6),
            ),
            max_concurrent_calls=it.bulkhead,
        )
        for it in methods
        if _can_be_named(it.method)
    }


def _can_be_named(method: str) -> bool:
    """Whether a policy may be given for a method of this name: gRPC takes others, too."""
    service, _, name = method.rpartition("/")
    return bool(service and name) and not any(it.isspace() for it in method)


def _of_method(name: str, health: Health, base: BreakerPolicy) -> MethodAdvice:
    p99, rate = health.durations.quantile(0.99), health.busiest
    cannot: list[str] = []
    answers = health.durations.count
    if not answers:
        cannot.append(
            "deadlines and the bulkhead: there is no healthy answer" + " but of streams" * bool(health.streams)
        )
    elif answers < _FEW:
        cannot.append(f"a 99th percentile for certain: there are {answers} healthy answers, and it takes {_FEW}")
    if health.healthy_calls and not rate:
        rate = health.healthy_calls / max(health.healthy_seconds, 1.0)
        cannot.append("the rate for certain: no healthy stretch has ten calls")
    if not health.sick_calls:
        cannot.append("how it fails: it is never sick in this record")
    stray = health.healthy_failures / health.healthy_calls if health.healthy_calls else 0.0
    if not health.healthy_failures and health.healthy_calls:
        stray = min(1.0, 3.0 / health.healthy_calls)  # the rule of three: with 95 % there are no more
    failure_rate = base.failure_rate or 0.5
    least = minimum_calls(stray, failure_rate) if health.healthy_calls else None
    if least is not None and rate * base.window_seconds < least:
        cannot.append(
            f"that a failure rate ever opens: {rate * base.window_seconds:.1f} calls come in {base.window_seconds:g} "
            f"seconds, fewer than {least}; consecutive_failures does"
        )
    return MethodAdvice(
        method=name,
        healthy_calls=health.healthy_calls,
        calls_per_second=rate,
        stray_failures=stray,
        p99=p99,
        deadline=None if p99 is None else 1.5 * p99,
        bulkhead=None if p99 is None else max(1, math.ceil(rate * p99)),
        probe_deadline=p99,
        minimum_calls=least,
        failure_rate=failure_rate,
        guide_threshold=max(1, round(guide_threshold(GUIDE_ERROR_RATE, rate, GUIDE_WINDOW))),
        cannot_say=tuple(cannot),
    )
