"""What came of a replay: for each policy when it opened and why, what it refused, and what a sick server still got.

Good and bad are what the record says, by gRPC's statuses alone, whatever the policy takes for a failure. What healthy
and sick mean stands in `health.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Final

from grpc_breaker._core.target import at_target
from grpc_breaker._replay.calls import Notes, RecordedChange
from grpc_breaker._replay.health import HEALTHY, SICK, Health
from grpc_breaker._replay.playing import Change, Game, Player

OUTSIDE: Final = 0.1
"""Share of the calls above which a policy that refuses so many leaves the record behind."""


@dataclass(frozen=True)
class Warned:
    """Something that makes the picture doubtful."""

    text: str
    """In whole sentences."""
    policy: str = ""
    """The policy that it is about; empty where it is about the record."""
    times: int = 1
    """How many lines or calls it is about."""
    first: str = ""
    """The first of these, "traffic.jsonl:17"."""

    def __str__(self) -> str:
        where = f" (at {self.first})" if self.first else ""
        many = f" {self.times} times{', first' + where if where else '.'}" if self.times > 1 else where
        return f"{self.policy + ': ' if self.policy else ''}{self.text}{many}"


@dataclass(frozen=True)
class Opened:
    """A time in which a breaker was not closed."""

    breaker: str
    """Its name."""
    opened: float
    """When, in seconds since the epoch."""
    closed: float | None
    """When it closed again; `None` where the record ended before."""
    reason: str
    """The condition that fired."""
    calls: int
    """Results in its window."""
    failures: int
    """How many of them were failures."""
    slow: int
    """How many of them were slow."""
    status: str
    """Of the call whose end opened it."""
    probes_failed: int
    """How often it opened again because a probe failed or was slow."""
    refused: int
    """Calls that it refused meanwhile."""


@dataclass(frozen=True)
class PolicyReport:
    """What one policy would have done."""

    name: str
    """The name it was given."""
    policy: dict[str, Any]
    """What it says that is not a default, by method or service."""
    opened: int
    """How often a breaker opened that was closed."""
    not_closed_seconds: float
    """How long breakers were open or half-open, all of them together."""
    trips_in_healthy_time: int
    """Trips where nothing was wrong by the record: false alarms. Trips for slowness are not judged."""
    trips_for_slowness: int
    """Trips by `slow_call_rate`."""
    refused: int
    """Calls that were refused."""
    refused_by: dict[str, int]
    """How many calls were refused by what: breaker, bulkhead, rate, throttle."""
    good_refused: int
    """Refused calls that would have succeeded."""
    bad_spared: int
    """Refused calls that would have failed."""
    caller_seconds_saved: float
    """How long callers waited for the bad ones, together."""
    failures_let_through: int
    """Failed calls that were not refused."""
    sent_to_sick: int
    """Calls that were let through while the server was sick."""
    unenforced: int
    """Refusals that were not enforced; see `BreakerPolicy.enforcement_percentage`."""
    left_alone: int
    """Calls of methods that the policy leaves alone."""
    outside_the_record: bool
    """Whether it refuses more than a tenth of the calls."""
    openings: tuple[Opened, ...]
    """The first ten thousand."""
    changes: tuple[Change, ...]
    """The first ten thousand."""

    @property
    def verdict(self) -> str:
        """The whole in a few words."""
        if self.trips_in_healthy_time:
            return "false alarms"
        if not self.opened:
            return "misses the sick server" if self.sent_to_sick else "stays closed"
        if self.opened == self.trips_for_slowness:
            return "opens for slowness"
        return "refuses more good than bad" if self.good_refused > self.bad_spared else "opens when sick"


@dataclass(frozen=True)
class Report:
    """What came of a replay."""

    calls: int
    """Calls that were played."""
    begins: float
    """When the first call began, in seconds since the epoch."""
    ends: float
    """When the last one ended."""
    good: int
    """Calls that succeeded, by gRPC's statuses alone."""
    bad: int
    """Calls that failed."""
    ignored: int
    """Calls that say nothing about the server."""
    methods: tuple[str, ...]
    """The methods in the record, with their targets, "pricing.v1.Pricing/GetPrice@eu"; of very many, "other" stands for
    the rest."""
    sick_calls: int
    """Calls that began while their method was sick."""
    sick_seconds: float
    """How long methods were sick, all of them together."""
    policies: tuple[PolicyReport, ...]
    """What each policy would have done, in the order they were given."""
    warnings: tuple[Warned, ...]
    """Why the picture may be wrong."""
    recorded_changes: tuple[RecordedChange, ...]
    """Those of the breaker that was at work when the record was made."""
    _game: Game = field(repr=False)
    """What it was made from: for pictures and advice."""

    @property
    def seconds(self) -> float:
        """How long the record is."""
        return self.ends - self.begins

    def as_dict(self) -> dict[str, Any]:
        """The report as plain data, ready for JSON."""
        policies = [
            {
                **{name: it for name, it in vars(policy).items() if name not in {"openings", "changes"}},
                "verdict": policy.verdict,
                "openings": [asdict(it) for it in policy.openings],
                "changes": [it._asdict() for it in policy.changes],
            }
            for policy in self.policies
        ]
        return {
            "record": {
                "calls": self.calls,
                "begins": self.begins,
                "ends": self.ends,
                "good": self.good,
                "bad": self.bad,
                "ignored": self.ignored,
                "methods": list(self.methods),
                "sick_calls": self.sick_calls,
                "sick_seconds": self.sick_seconds,
                "changes": [it._asdict() for it in self.recorded_changes],
            },
            "warnings": [asdict(it) for it in self.warnings],
            "policies": policies,
        }

    def text(self) -> str:
        """The report for a terminal."""
        from grpc_breaker._replay.text import text_of  # noqa: PLC0415 - it knows this module

        return text_of(self)

    def html(self) -> str:
        """The report as one HTML page, with a picture."""
        from grpc_breaker._replay.page import page_of  # noqa: PLC0415 - it knows this module

        return page_of(self)


def report_of(game: Game, notes: Notes) -> Report:
    """The report of a game that is over."""
    healths = list(game.healths.values())
    policies = tuple(_policy_report(player, game, healths) for player in game.players)
    return Report(
        calls=game.calls,
        begins=game.begins,
        ends=game.ends,
        good=game.good,
        bad=game.bad,
        ignored=game.calls - game.good - game.bad,
        methods=tuple(at_target(*name) for name in game.healths),
        sick_calls=sum(it.sick_calls for it in healths),
        sick_seconds=sum(it.sick_seconds for it in healths),
        policies=policies,
        warnings=(*_of_record(game, notes), *_of_policies(policies, game)),
        recorded_changes=tuple(sorted(notes.changes)),
        _game=game,
    )


def of_first(report: Report, number: int) -> Report:
    """The report of the first policies alone."""
    policies = report.policies[:number]
    of_record = [it for it in report.warnings if not it.policy and it != _OUTSIDE]
    return replace(report, policies=policies, warnings=(*of_record, *_of_policies(policies, report._game)))


def _policy_report(player: Player, game: Game, healths: Sequence[Health]) -> PolicyReport:
    refused, number = player.refused, player.number
    return PolicyReport(
        name=player.policy.name,
        policy=player.policy.plain,
        opened=player.opened,
        not_closed_seconds=player.not_closed_seconds,
        trips_in_healthy_time=sum(it.healthy_trips[number] for it in healths),
        trips_for_slowness=player.slow_trips,
        refused=refused.total,
        refused_by=refused.by_reason,
        good_refused=refused.good,
        bad_spared=refused.bad,
        caller_seconds_saved=refused.seconds_bad,
        failures_let_through=game.bad - refused.bad,
        sent_to_sick=sum(it.sent_to_sick[number] for it in healths),
        unenforced=player.unenforced,
        left_alone=player.left_alone,
        outside_the_record=refused.total > OUTSIDE * game.calls,
        openings=tuple(Opened(**{name: getattr(it, name) for name in it.__slots__}) for it in player.openings),
        changes=tuple(player.changes),
    )


def _of_record(game: Game, notes: Notes) -> Iterable[Warned]:
    """The warnings about the record."""
    if notes.holes:
        yield Warned(
            f"The record was made with a breaker at work: {notes.holes} calls were refused then, and are missing here. "
            "Where it was open, a policy has almost nothing to judge by."
        )
    if notes.sampled:
        yield Warned(
            "The record is made of spans. Sampled traces bend rates: the fewer are kept, the later every count is "
            "reached; where failures are kept more often than successes, a rate is reached too early. Spans do not say "
            "which calls are streams, nor which deadline they had."
        )
    if notes.dropped:
        yield Warned(
            f"The recorder dropped {notes.dropped} calls: counts and rates are too low where they are missing."
        )
    if len(notes.processes) > 1:
        yield Warned(
            f"The calls of {len(notes.processes)} processes were played as those of one. In production each has "
            "breakers of its own, which see only its own calls: they open later, or not at all."
        )
    if game.outcomes:
        yield Warned(
            f"{game.outcomes} calls have a recorded outcome that is not what their status alone says; it counts under "
            "every policy."
        )
    if game.streams:
        yield Warned(
            f"{game.streams} calls are streams: they count at their end alone, because a record does not say when "
            "their first answer came."
        )
    if game.good + game.bad == 0:
        yield Warned("No call of the record says anything about the server.")
    for words, noted in notes.doubts.items():
        yield Warned(words, times=noted.times, first=noted.first)


_OUTSIDE: Final = Warned(
    f"Of a policy that refuses more than {OUTSIDE:.0%} of the calls, the record cannot say how the server would have "
    "been without that load, nor what callers would have done instead."
)


def _of_policies(reports: Sequence[PolicyReport], game: Game) -> Iterable[Warned]:
    """The warnings about what policies would have done."""
    if any(it.outside_the_record for it in reports):
        yield _OUTSIDE
    for report in reports:
        yield from _of_policy(report, game)


def _of_policy(report: PolicyReport, game: Game) -> Iterable[Warned]:
    """The warnings about what one policy would have done."""
    player = next(it for it in game.players if it.policy.name == report.name)
    for part in player.policy.not_played:
        yield Warned(f"Not played are {part}.", report.name)
    if report.outside_the_record:
        share = report.refused / game.calls
        yield Warned(f"It refuses {share:.0%} of the calls, which is outside the record.", report.name)
    if report.left_alone:
        yield Warned(f"It leaves {report.left_alone} calls alone: it has no policy for their methods.", report.name)
    if player.opened > len(player.openings) or player.more_changes:
        yield Warned(f"It opened {player.opened} times; the first {len(player.openings)} are shown.", report.name)


def definitions() -> str:
    """What the words of the report mean."""
    return (
        "Good and bad are recorded endings by gRPC's statuses. A method is sick in stretches (at least 5 s and 10 "
        f"calls, at most a minute) in which at least {SICK:.0%} of its calls failed. A trip is in healthy time where "
        f"at most {HEALTHY:.0%} failed in its stretch, in the one before, and in the one after. "
        f"(!) marks a policy that is outside the record: it refuses more than {OUTSIDE:.0%} of the calls."
    )
