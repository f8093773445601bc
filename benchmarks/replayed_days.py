"""The laboratory's plays, played again with other policies: why the default is what it is.

    python -m benchmarks.replayed_days [--records tests/replay/records] [--markdown docs/recording.md]

The records are those of clients without a breaker (`make day`, `make outage` and `make overload` write them with
`--records DIR`, see `tests/support/records.py`), so that each policy is judged by calls that were made. Where a policy
refuses many of them, what the server did for want of these calls is not in the record.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from grpc_breaker import BreakerPolicy
from grpc_breaker.replay import PolicyReport, Report, replay
from tests.support.records import is_bare

RECORDS = Path(__file__).parents[1] / "tests/replay/records"
POLICIES: Mapping[str, BreakerPolicy] = {
    "default": BreakerPolicy(),
    "default, but 3 in a row": BreakerPolicy(failure_rate=0.5, consecutive_failures=3),
    "default, asks after 30 s": BreakerPolicy(reset_timeout=30),
    "5 in a row, 60 s": BreakerPolicy(consecutive_failures=5, reset_timeout=60, half_open_max_calls=1),
    "5 in 60 s, 30 s": BreakerPolicy(failure_threshold=5, window_seconds=60, reset_timeout=30),
    "50 % of 20 in 10 s, 5 s": BreakerPolicy(
        failure_rate=0.5, minimum_calls=20, window_seconds=10, reset_timeout=5, half_open_max_calls=1
    ),
    "50 % of the last 100, 60 s": BreakerPolicy(
        failure_rate=0.5, minimum_calls=100, window_calls=100, reset_timeout=60, half_open_max_calls=10
    ),
    "10 % of 100 in 30 s, 5 s": BreakerPolicy(
        failure_rate=0.1, minimum_calls=100, window_seconds=30, reset_timeout=5, half_open_max_calls=1
    ),
}
"""The default, two that differ from it in one thing, and others as they are known: that of circuitbreaker and pybreaker
(five in a row), of the guides (so many in a time), of Hystrix, of resilience4j, and of Polly. In each name, the last
number is how long it stays open."""
BEGIN, END = "<!-- tables of benchmarks.replayed_days -->", "<!-- end of the tables -->"


def names(paths: Iterable[Path]) -> dict[str, Path]:
    """The records of clients without a breaker, by what is played in them."""
    found = {path.name.removesuffix(".gz").removesuffix(".jsonl"): path for path in paths}
    return {title(name): path for name, path in sorted(found.items()) if is_bare(name)}


def title(name: str) -> str:
    """A file's name in words: what is played, and in which world, where there are several."""
    play, *words = name.split(".")
    shown = [play, *(it for it in words if it not in {"bare", "no-breaker", "nothing"} and not it.startswith("seed"))]
    return ", ".join(it.replace("-", " ") for it in shown)


def cell(policy: PolicyReport, report: Report) -> str:
    """What one policy makes of one record."""
    if not policy.opened:
        return "-"
    first = min(it.opened for it in policy.openings) - report.begins
    wrong = f" ({policy.trips_in_healthy_time} wrong)" if policy.trips_in_healthy_time else ""
    return f"{policy.opened}{wrong} at {first:.1f} s: {policy.good_refused}, {policy.bad_spared}"


def by_record(reports: Mapping[str, Report]) -> list[str]:
    """A row for each record."""
    lines = [f"| | calls, bad | {' | '.join(POLICIES)} |", "|---" * (len(POLICIES) + 2) + "|"]
    for name, report in reports.items():
        cells = [cell(policy, report) for policy in report.policies]
        lines.append(f"| {name} | {report.calls}, {report.bad} | {' | '.join(cells)} |")
    return lines


def in_short(reports: Mapping[str, Report]) -> list[str]:
    """A row for each policy."""
    head = (
        "| | openings | wrong | sick and never open | good calls refused | bad calls spared | calls to a sick server |"
    )
    lines = [head, "|---" * 7 + "|"]
    sick = sum(report.sick_calls for report in reports.values())
    bad = sum(report.bad for report in reports.values())
    for number, name in enumerate(POLICIES):
        played: Sequence[PolicyReport] = [report.policies[number] for report in reports.values()]
        missed = sum(it.sick_calls > 0 and not it.policies[number].opened for it in reports.values())
        cells = [
            f"{sum(it.opened for it in played)}",
            f"{sum(it.trips_in_healthy_time for it in played)}",
            f"{missed}",
            f"{sum(it.good_refused for it in played):,}",
            f"{sum(it.bad_spared for it in played):,} of {bad:,}",
            f"{sum(it.sent_to_sick for it in played):,} of {sick:,}",
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def write_into(path: Path, text: str) -> None:
    """Put the tables between the two marks of a page that has them."""
    before, begin, rest = path.read_text("utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        message = f"{path} has no place for the tables: {BEGIN} and {END}"
        raise ValueError(message)
    path.write_text(f"{before}{begin}\n\n{text}\n\n{end}{after}", "utf-8")


def main() -> None:
    """Play all records, print the tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.replayed_days")
    parser.add_argument("--records", type=Path, default=RECORDS, metavar="DIR", help="the folder with the records")
    parser.add_argument("--markdown", type=Path, help="a page to write the tables into")
    options = parser.parse_args()
    reports = {name: replay(path, POLICIES) for name, path in names(options.records.glob("*.jsonl*")).items()}
    text = "\n".join([*in_short(reports), "", *by_record(reports)])
    print(text)
    if options.markdown:
        write_into(options.markdown, text)


if __name__ == "__main__":
    main()
