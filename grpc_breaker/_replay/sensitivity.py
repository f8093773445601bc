"""Where the verdict on a policy flips: each of its fields varied, one at a time, over the same record.

A field that is off, or has no effect with the others, is left out. All variants are played at once with the policy, so
that the record is read once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from grpc_breaker._core.policy import BreakerPolicy
from grpc_breaker._replay.policies import Played, played
from grpc_breaker._replay.report import PolicyReport, Report
from grpc_breaker._replay.text import judged, seconds, table

VALUES: Final[dict[str, tuple[float, ...]]] = {
    "failure_threshold": (2, 5, 10, 20, 50, 100),
    "failure_rate": (0.05, 0.1, 0.25, 0.5, 0.75, 0.9),
    "minimum_calls": (5, 10, 20, 50, 100),
    "consecutive_failures": (2, 3, 5, 10, 20),
    "slow_call_duration": (0.1, 0.25, 0.5, 1.0, 2.0, 5.0),
    "slow_call_rate": (0.25, 0.5, 0.75, 0.9),
    "window_seconds": (5.0, 10.0, 30.0, 60.0, 120.0),
    "window_calls": (20, 50, 100, 500),
    "reset_timeout": (0.5, 1.0, 5.0, 10.0, 30.0, 60.0),
    "half_open_max_calls": (1, 3, 10),
}
"""The values that a field is given, beside its own."""

_MARK: Final = "\x00"


@dataclass(frozen=True)
class Varied:
    """A policy with another value in one field."""

    field: str
    """The field."""
    value: Any
    """Its value."""
    report: PolicyReport
    """What the policy would have done with it."""

    @property
    def verdict(self) -> str:
        """That on the policy with this value."""
        return self.report.verdict


@dataclass(frozen=True)
class Sensitivity:
    """What each field does to the verdict."""

    base: PolicyReport
    """What the policy as it was given would have done."""
    varied: tuple[Varied, ...]
    """The policies that differ from it in one field."""

    def flips(self) -> dict[str, list[Any]]:
        """By field, the values with which the verdict is another one."""
        found: dict[str, list[Any]] = {}
        for it in self.varied:
            if it.verdict != self.base.verdict:
                found.setdefault(it.field, []).append(it.value)
        return found

    def as_dict(self) -> dict[str, Any]:
        """As plain data."""
        rows = [
            {
                "field": it.field,
                "value": it.value,
                "verdict": it.verdict,
                **{name: getattr(it.report, name) for name in _SHOWN},
            }
            for it in self.varied
        ]
        return {"policy": self.base.name, "verdict": self.base.verdict, "flips": self.flips(), "varied": rows}

    def text(self) -> str:
        """As a table."""
        flips = self.flips()
        lines = [f"Sensitivity of {self.base.name}: {self.base.verdict}"]
        if not flips:
            lines.append("With none of these values does the verdict flip.")
        for field, values in flips.items():
            lines.append(f"It flips with {field} = {', '.join(f'{it:g}' for it in values)}.")
        rows = [_row("(as given)", "", self.base), *[_row(it.field, f"{it.value:g}", it.report) for it in self.varied]]
        return "\n".join([*lines, "", *table(_COLUMNS, rows)]) + "\n"


_SHOWN: Final = (
    "opened",
    "trips_in_healthy_time",
    "good_refused",
    "bad_spared",
    "sent_to_sick",
    "not_closed_seconds",
    "outside_the_record",
)
_COLUMNS: Final = (
    "field",
    "value",
    "opened",
    "of these in healthy time",
    "not closed",
    "good refused",
    "bad spared",
    "sent to a sick server",
    "verdict",
)


def _row(field: str, value: str, report: PolicyReport) -> tuple[str, ...]:
    return (
        field,
        value,
        str(report.opened),
        str(report.trips_in_healthy_time),
        seconds(report.not_closed_seconds),
        str(report.good_refused),
        str(report.bad_spared),
        str(report.sent_to_sick),
        judged(report),
    )


def variants(policies: Sequence[Played]) -> list[Played]:
    """The variants of the one policy.

    Raises:
        ValueError: There are several, or it is not one policy for all methods.
    """
    base = policies[0].base if len(policies) == 1 else None
    if base is None:
        message = "sensitivity varies one policy for all methods: give one --policy, not a service config"
        raise ValueError(message)
    return [
        played(f"{name}{_MARK}{value}", changed)
        for name, values in VALUES.items()
        if _matters(base, name)
        for value in values
        if value != getattr(base, name) and (changed := _with(base, name, value)) is not None
    ]


def _matters(policy: BreakerPolicy, name: str) -> bool:
    """Whether a field is on, and has an effect."""
    if name == "window_seconds":
        return policy.window_calls is None
    if name == "minimum_calls":
        return policy.failure_rate is not None or policy.slow_call_duration is not None
    if name == "slow_call_rate":
        return policy.slow_call_duration is not None
    return getattr(policy, name) is not None


def _with(policy: BreakerPolicy, name: str, value: float) -> BreakerPolicy | None:
    """The policy with another value; `None` where that makes none."""
    try:
        changed: dict[str, Any] = {name: value}
        return replace(policy, **changed)
    except ValueError:  # it contradicts another field
        return None


def sensitivity_of(report: Report, first: int) -> Sensitivity:
    """What came of the variants, which stand behind the first policies of a report."""
    varied: list[Varied] = []
    for it in report.policies[first:]:
        field, _, value = it.name.partition(_MARK)
        varied.append(Varied(field, float(value), it))
    return Sensitivity(report.policies[0], tuple(varied))
