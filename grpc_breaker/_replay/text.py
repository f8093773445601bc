"""The report for a terminal: warnings, a table with a row for each policy, and when each of them opened."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from grpc_breaker._core.log import printable
from grpc_breaker._replay.calls import moment
from grpc_breaker._replay.report import Opened, PolicyReport, Report, definitions

MOST_OPENINGS: Final = 10
"""Openings that are listed of a policy."""

COLUMNS: Final = (
    "policy",
    "opened",
    "of these in healthy time",
    "not closed",
    "good refused",
    "bad spared",
    "caller-seconds saved",
    "failures let through",
    "sent to a sick server",
)


def text_of(report: Report) -> str:
    """The whole report."""
    return "\n".join(_lines(report)) + "\n"


def _lines(report: Report) -> Iterator[str]:
    yield (
        f"{report.calls} calls of {_number(len(report.methods), 'method')} in {seconds(report.seconds)}, "
        f"from {moment(report.begins)}: {report.good} good, {report.bad} bad, {report.ignored} ignored; "
        f"{report.sick_calls} while the server was sick"
    )
    for warning in report.warnings:
        yield f"WARNING: {printable(str(warning))}"
    yield ""
    yield from table(COLUMNS, [row_of(policy) for policy in report.policies])
    for policy in report.policies:
        yield ""
        yield from _openings(policy)
    yield ""
    yield definitions()


def row_of(policy: PolicyReport) -> tuple[str, ...]:
    """A policy's row, in the order of `COLUMNS`."""
    return (
        printable(policy.name) + (" (!)" if policy.outside_the_record else ""),
        str(policy.opened),
        str(policy.trips_in_healthy_time),
        seconds(policy.not_closed_seconds),
        str(policy.good_refused),
        str(policy.bad_spared),
        f"{policy.caller_seconds_saved:.1f}",
        str(policy.failures_let_through),
        str(policy.sent_to_sick),
    )


def _openings(policy: PolicyReport) -> Iterator[str]:
    name = printable(policy.name)
    if not policy.opened:
        yield f"{name}: never opened"
        return
    yield f"{name}: {policy.verdict}; opened {times(policy.opened)}"
    for opening in policy.openings[:MOST_OPENINGS]:
        yield f"  {opening_in_words(opening)}"
    if policy.opened > MOST_OPENINGS:
        yield f"  and {policy.opened - MOST_OPENINGS} more: --json lists them"


def opening_in_words(opening: Opened) -> str:
    """When a breaker opened, for how long, and why."""
    until = "until the end" if opening.closed is None else f"for {seconds(opening.closed - opening.opened)}"
    of = f"{opening.slow} of {opening.calls} slow" if opening.slow else f"{opening.failures} of {opening.calls} failed"
    probes = f", {_number(opening.probes_failed, 'probe')} failed" if opening.probes_failed else ""
    return (
        f"{moment(opening.opened)} {printable(opening.breaker)} {until}: {opening.reason} ({of}, last {opening.status})"
        f"{probes}, {_number(opening.refused, 'call')} refused"
    )


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """A table, the first column to the left and the others to the right."""
    widths = [max(len(row[it]) for row in (columns, *rows)) for it in range(len(columns))]
    for number, row in enumerate((columns, *rows)):
        cells = [row[0].ljust(widths[0]), *[text.rjust(width) for text, width in zip(row[1:], widths[1:], strict=True)]]
        yield "  ".join(cells).rstrip()
        if number == 0:
            yield "  ".join("-" * width for width in widths)


def judged(policy: PolicyReport) -> str:
    """The verdict on a policy, and whether the record can say it."""
    return f"{policy.verdict}, outside the record" if policy.outside_the_record else policy.verdict


def seconds(time: float) -> str:
    """A duration for people."""
    if time < 1:
        return f"{time * 1000:.0f} ms"
    if time < 120:
        return f"{time:.1f} s"
    return f"{time / 60:.1f} min" if time < 7200 else f"{time / 3600:.1f} h"


def times(number: int) -> str:
    """How often something happened."""
    return "once" if number == 1 else f"{number} times"


def _number(number: int, thing: str) -> str:
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"
