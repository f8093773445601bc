"""`grpc-breaker replay`: what policies would have done with recorded traffic.

It ends with 0 where the record was played, whatever came of it; with 1 where `--fail-on` names what came of a policy;
with 2 where it was called wrongly, and where the record or a policy is wrong.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any, Final

from grpc_breaker._commands.asking import DONE, MISUSED, NO
from grpc_breaker._commands.showing import say
from grpc_breaker._core.log import printable
from grpc_breaker._replay.advice import Advice, advice_of
from grpc_breaker._replay.calls import RecordError
from grpc_breaker._replay.ordering import HORIZON
from grpc_breaker._replay.policies import Played, parsed, played
from grpc_breaker._replay.reading import STDIN
from grpc_breaker._replay.report import Report, of_first
from grpc_breaker._replay.running import Source, play
from grpc_breaker._replay.scenarios import SCENARIOS, scenario
from grpc_breaker._replay.sensitivity import Sensitivity, sensitivity_of, variants
from grpc_breaker._replay.writing import write_record

_FAILS_ON: Final = ("false-alarms", "outside", "warnings")


def add_to(commands: Any) -> None:
    """Add the command."""
    about = "Say what policies would have done with recorded traffic, or with made-up traffic."
    ends = (
        f"Ends with {DONE} where the record was played; with {NO} where --fail-on names what came of it; with "
        f"{MISUSED} where the command was called wrongly, or the record or a policy is wrong."
    )
    parser: argparse.ArgumentParser = commands.add_parser("replay", help=about, description=about, epilog=ends)
    parser.set_defaults(run=run)
    _add_traffic(parser.add_argument_group("traffic"))
    _add_policies(parser.add_argument_group("policies", "Default: the default policy."))
    _add_report(parser.add_argument_group("report"))


def _add_traffic(group: Any) -> None:
    group.add_argument(
        "files",
        nargs="*",
        metavar="FILE",
        help="JSON lines of TrafficRecorder, CSV, or OTLP/JSON spans, each also with gzip; - is the standard input",
    )
    group.add_argument("--scenario", choices=list(SCENARIOS), help="made-up traffic instead of a record")
    group.add_argument("--seed", type=int, default=0, help="for what is left to chance (default: 0)")
    group.add_argument("--seconds", type=float, default=1200.0, help="how long a scenario is (default: 1200)")
    group.add_argument("--rate", type=float, default=50.0, help="calls per second of a scenario (default: 50)")
    group.add_argument("--write-record", type=Path, metavar="FILE", help="write the scenario as a record, too")
    group.add_argument("--method", action="append", default=[], metavar="NAME", help="only this method or service")
    horizon = f"by how much a line may begin before those above it: the longest call (default: {HORIZON:g})"
    group.add_argument("--horizon", type=float, default=HORIZON, metavar="SECONDS", help=horizon)
    despite = "play a record that was made with a breaker at work"
    group.add_argument("--despite-breaker", action="store_true", help=despite)


def _add_policies(group: Any) -> None:
    group.add_argument(
        "--config", action="append", default=[], metavar="FILE", help="a service config; may be given several times"
    )
    fields = "'default', or fields: 'consecutive_failures=3,reset_timeout=10'; may be given several times"
    group.add_argument("--policy", action="append", default=[], metavar="POLICY", help=fields)


def _add_report(group: Any) -> None:
    group.add_argument("--json", action="store_true", help="one JSON document instead of a table")
    group.add_argument("--html", type=Path, metavar="FILE", help="write a page with a picture, too")
    group.add_argument("--sensitivity", action="store_true", help="vary each field of the one policy")
    group.add_argument(
        "--advice", action="store_true", help="deadlines, bulkheads and thresholds that the record suggests"
    )
    group.add_argument("--threads", type=int, metavar="NUMBER", help="threads of the client, for --advice")
    group.add_argument(
        "--fail-on",
        action="append",
        default=[],
        choices=_FAILS_ON,
        help=f"end with {NO} if a policy has false alarms, if one is outside the record, or if there is any warning",
    )


def run(options: argparse.Namespace) -> int:
    """Play; returns what the process is to end with."""
    try:
        source, policies = _source(options), _policies(options)
        if options.write_record:
            write_record(_source(options), options.write_record)
        varied = variants(policies) if options.sensitivity else []
        report = _play(source, [*policies, *varied], options)
        sensitivity = sensitivity_of(report, len(policies)) if options.sensitivity else None
        report = of_first(report, len(policies))
        advice = None
        if options.advice:
            advice = advice_of(report, options.threads, lambda given: _play(_source(options), given, options))
        if options.html:
            options.html.write_text(report.html(), encoding="utf-8")
    except (OSError, RecordError, TypeError, ValueError) as error:
        for line in str(error).splitlines():
            print(f"grpc-breaker replay: {printable(line)}", file=sys.stderr)  # noqa: T201 - a command prints
        return MISUSED
    _tell(options, report, sensitivity, advice)
    return NO if any(_fails(report, it) for it in options.fail_on) else DONE


def _tell(options: argparse.Namespace, report: Report, sensitivity: Sensitivity | None, advice: Advice | None) -> None:
    if options.json:
        document = report.as_dict()
        if sensitivity is not None:
            document["sensitivity"] = sensitivity.as_dict()
        if advice is not None:
            document["advice"] = advice.as_dict()
        say(json.dumps(document, indent=2))
        return
    say(report.text().rstrip("\n"))
    for part in (sensitivity, advice):
        if part is not None:
            say("", part.text().rstrip("\n"))


def _play(source: Source, policies: list[Played], options: argparse.Namespace) -> Report:
    return play(
        source,
        policies,
        methods=options.method,
        horizon=options.horizon,
        despite_breaker=options.despite_breaker,
        seed=options.seed,
    )


def _source(options: argparse.Namespace) -> Any:
    """The calls to play: those of a scenario, from its beginning, or the names of files.

    Raises:
        ValueError: None are named, or in two ways.
    """
    if bool(options.files) == bool(options.scenario):
        message = "name one or more files with recorded traffic, or a --scenario"
        raise ValueError(message)
    if options.files:
        if options.write_record:
            message = "--write-record writes a --scenario"
            raise ValueError(message)
        files: list[str] = options.files
        if options.advice and STDIN in files:
            message = "--advice reads the record twice, which the standard input does not allow: name a file"
            raise ValueError(message)
        return files
    return scenario(options.scenario, seed=options.seed, seconds=options.seconds, calls_per_second=options.rate)


def _policies(options: argparse.Namespace) -> list[Played]:
    """The policies to play, by the names they were given."""
    policies = [played(file, Path(file)) for file in options.config]
    policies += [played(text.strip() or "default", parsed(text)) for text in options.policy]
    names = [it.name for it in policies]
    for name in names:
        if names.count(name) > 1:
            message = f"the policy {printable(name)} is given twice"
            raise ValueError(message)
    if options.sensitivity and len(policies) > 1:
        message = "--sensitivity varies one policy"
        raise ValueError(message)
    return policies or [played("default", None)]


def _fails(report: Report, wanted: str) -> bool:
    if wanted == "warnings":
        return bool(report.warnings)
    if wanted == "outside":
        return any(it.outside_the_record for it in report.policies)
    return any(it.trips_in_healthy_time for it in report.policies)
